package crashpoint

import (
	"reflect"
	"unsafe"

	"github.com/shmd/shmd/pkg/protocol"
)

// placeWriter moves a writer into b: so that what it remembers can be put back with the memory when a parked tracee is let go on again. Nothing is
// collected in a tracee, so the pointers in it stay good.
func placeWriter(b []byte, w *protocol.LogWriter) *protocol.LogWriter {
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(w)), unsafe.Sizeof(*w)))
	return (*protocol.LogWriter)(unsafe.Pointer(&b[0]))
}

// writerWords are the words inside and wanted of a writer that placeWriter has moved to b.
func writerWords(b []byte) (inside, wanted *uint64) {
	word := func(name string) *uint64 {
		f, ok := reflect.TypeFor[protocol.LogWriter]().FieldByName(name)
		if !ok {
			panic("LogWriter has no " + name)
		}
		return (*uint64)(unsafe.Pointer(&b[f.Offset]))
	}
	return word("inside"), word("wanted")
}

// placeBuffer has a cursor copy records to b, which has room for them: so that it can be put back too.
func placeBuffer(b []byte, c *protocol.InstanceCursor) *protocol.InstanceCursor {
	f, ok := reflect.TypeFor[protocol.InstanceCursor]().FieldByName("buf")
	if !ok {
		panic("InstanceCursor has no buf")
	}
	*(*[]byte)(unsafe.Add(unsafe.Pointer(c), f.Offset)) = b[:0]
	return c
}
