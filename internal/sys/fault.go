package sys

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// A FaultError is an access to a mapping at a place that has no memory behind it: the
// file was truncated by another program, its storage failed, or the mapping is gone.
type FaultError struct {
	Offset int64 // bytes from the start of the mapping
	Size   int   // bytes of the mapping
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("memory fault at byte %d of a mapping of %d bytes: "+
		"the file behind it was cut short by another program or cannot be read; open it again", e.Offset, e.Size)
}

// GuardFault runs fn and turns a memory fault (SIGBUS, SIGSEGV) at an address within b
// into a *FaultError, also if it happens inside copy. Anything else that fn panics with
// goes on, and so does a fault outside b: that is a bug, not a truncated file. It works
// for the calling goroutine only, not for goroutines that fn starts; it may be nested.
//
// A fault may leave half of fn done: what fn holds (locks, leases) has to be released
// by defer. Some 20 ns.
func GuardFault(b []byte, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if addr, ok := faultAddr(r); ok {
			if off, ok := offsetIn(b, addr); ok {
				err = &FaultError{Offset: off, Size: len(b)}
				return
			}
		}
		panic(r)
	}()
	return fn()
}

// faultAddr returns the address of the memory fault that a panic stands for. The text
// of such a panic misleads ("nil pointer dereference"), the address does not.
func faultAddr(r any) (uintptr, bool) {
	if e, ok := r.(runtime.Error); ok {
		if e, ok := e.(interface{ Addr() uintptr }); ok {
			return e.Addr(), true
		}
	}
	return 0, false
}
