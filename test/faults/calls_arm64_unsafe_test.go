//go:build arm64

package faults

import (
	"syscall"
	"unsafe"
)

// Numbers of calls that have another one, or none, on amd64.
var numbersHere = map[string]uint64{
	"memfd_create": 279, "membarrier": 283, "newfstatat": syscall.SYS_FSTATAT,
}

// refuse makes the system call at whose entry the thread stands fail, without being made.
func refuse(tid int, errno syscall.Errno) error {
	const (
		prstatus, systemCall = 1, 0x404 // NT_PRSTATUS, NT_ARM_SYSTEM_CALL
		getRegSet, setRegSet = 0x4204, 0x4205
	)
	set := func(request uintptr, kind uintptr, p unsafe.Pointer, n uintptr) error {
		v := syscall.Iovec{Base: (*byte)(p), Len: uint64(n)}
		if _, _, e := syscall.RawSyscall6(syscall.SYS_PTRACE, request, uintptr(tid), kind, uintptr(unsafe.Pointer(&v)), 0, 0); e != 0 {
			return e
		}
		return nil
	}
	var regs [34]uint64 // x0 to x30, sp, pc, pstate
	if err := set(getRegSet, prstatus, unsafe.Pointer(&regs), unsafe.Sizeof(regs)); err != nil {
		return err
	}
	regs[0] = uint64(-int64(errno))
	if err := set(setRegSet, prstatus, unsafe.Pointer(&regs), unsafe.Sizeof(regs)); err != nil {
		return err
	}
	none := int32(-1) // no call has this number, and what x0 holds is then the result
	return set(setRegSet, systemCall, unsafe.Pointer(&none), unsafe.Sizeof(none))
}
