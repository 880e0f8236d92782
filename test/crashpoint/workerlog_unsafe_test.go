package crashpoint

import (
	"unsafe"

	"github.com/shmd/shmd/pkg/protocol"
)

// placeWriter moves a writer into b: so that what it remembers can be put back with the memory when a parked tracee is let go on again. Nothing is
// collected in a tracee, so the pointers in it stay good.
func placeWriter(b []byte, w *protocol.LogWriter) *protocol.LogWriter {
	copy(b, unsafe.Slice((*byte)(unsafe.Pointer(w)), unsafe.Sizeof(*w)))
	return (*protocol.LogWriter)(unsafe.Pointer(&b[0]))
}
