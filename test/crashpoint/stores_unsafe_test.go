package crashpoint

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemCall is struct ptrace_syscall_info of linux/ptrace.h, as it is at the entry of a system call. At the exit Nr is the result.
type systemCall struct {
	Op     uint8
	_      [3]uint8
	Arch   uint32
	IP, SP uint64
	Nr     uint64
	Args   [6]uint64
}

const callEntry = 1 // PTRACE_SYSCALL_INFO_ENTRY

// callInfo says which system call a stopped thread stands at. Linux 5.3.
func callInfo(tid int) (s systemCall, err error) {
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)), 0, 0)
	if e != 0 {
		return s, e
	}
	return s, nil
}

// faultAddress is what a thread that has stopped with SIGSEGV could not write to.
func faultAddress(tid int) (uint64, error) {
	var info [128]byte // siginfo_t
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGINFO, uintptr(tid), 0, uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 {
		return 0, e
	}
	return binary.LittleEndian.Uint64(info[16:]), nil // si_addr
}

// word32 is a word of a segment.
func word32(b []byte, offset int64) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&b[offset]))
}
