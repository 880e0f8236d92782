package faults

import "syscall"

// Numbers of calls that have another one, or none, on arm64.
var numbersHere = map[string]uint64{
	"memfd_create": 319, "membarrier": 324, "newfstatat": syscall.SYS_NEWFSTATAT, "epoll_wait": syscall.SYS_EPOLL_WAIT,
	"fadvise64": syscall.SYS_FADVISE64, "chmod": syscall.SYS_CHMOD, "access": syscall.SYS_ACCESS,
}

// refuse makes the system call at whose entry the thread stands fail, without being made.
func refuse(tid int, errno syscall.Errno) error {
	var r syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(tid, &r); err != nil {
		return err
	}
	r.Orig_rax, r.Rax = ^uint64(0), uint64(-int64(errno)) // no call has the number -1, and what rax holds is then the result
	return syscall.PtraceSetRegs(tid, &r)
}
