package faults

import (
	"syscall"
	"unsafe"
)

// syscallInfo is struct ptrace_syscall_info of linux/ptrace.h, as it is at the entry of a system call.
type syscallInfo struct {
	Op     uint8
	_      [3]uint8
	Arch   uint32
	IP, SP uint64
	Nr     uint64
	Args   [6]uint64
}

const (
	getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO
	atEntry        = 1      // PTRACE_SYSCALL_INFO_ENTRY
)

// infoOf says which system call a stopped thread stands at. Linux 5.3.
func infoOf(tid int) (syscallInfo, error) {
	var s syscallInfo
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)), 0, 0); e != 0 {
		return s, e
	}
	return s, nil
}
