package crashpoint

import (
	"reflect"
	"unsafe" // and for linkname

	"github.com/shmd/shmd/pkg/protocol"
)

// address is where a tracee has its Lane, 0 if it has none.
func (e ends) address() uint64 { return uint64(uintptr(unsafe.Pointer(e.l))) }

const laneSize = unsafe.Sizeof(protocol.Lane{})

// laneSlices are the slices in a Lane: the offset of each, and the size of an element.
var laneSlices = func() (out [][2]int) {
	t := reflect.TypeFor[protocol.Lane]()
	for _, f := range reflect.VisibleFields(t) {
		if f.Type.Kind() != reflect.Slice {
			continue
		}
		at := 0
		for i := range f.Index {
			at += int(t.FieldByIndex(f.Index[:i+1]).Offset)
		}
		out = append(out, [2]int{at, int(f.Type.Elem().Size())})
	}
	return out
}()

// procPin keeps the scheduler of Go away from this goroutine: without it, a tracee that is stepped looks so slow to the
// runtime that it is preempted every few dozen instructions.
//
//go:linkname procPin runtime.procPin
func procPin() int
