package sys

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Word returns the 32-bit word at byte off of b, for the futex calls. b starts at an
// aligned address in every mapping; off must be a multiple of 4 with the word inside
// b: anything else is a bug of the caller and panics.
func Word(b []byte, off int) *atomic.Uint32 {
	p := &b[off : off+4][0]
	if uintptr(unsafe.Pointer(p))%4 != 0 {
		panic(fmt.Sprintf("sys.Word: offset %d is not aligned to 4", off))
	}
	return (*atomic.Uint32)(unsafe.Pointer(p))
}

// base returns the address of b's first byte.
func base(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// offsetIn returns where in b the address lies.
func offsetIn(b []byte, addr uintptr) (off int64, ok bool) {
	start := base(b)
	if addr < start || addr-start >= uintptr(len(b)) {
		return 0, false
	}
	return int64(addr - start), true
}

// wordIn tells whether a word lies in b.
func wordIn(b []byte, w *atomic.Uint32) bool {
	_, ok := offsetIn(b, uintptr(unsafe.Pointer(w)))
	return ok
}

// resident returns how many bytes of the page-aligned b are in memory.
func resident(b []byte, page int) (int64, error) {
	vec := make([]byte, (len(b)+page-1)/page)
	_, _, e := unix.Syscall(unix.SYS_MINCORE, base(b), uintptr(len(b)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if e != 0 {
		return 0, fail("mincore", e)
	}
	var n int64
	for _, v := range vec {
		n += int64(v&1) * int64(page)
	}
	return n, nil
}
