package systest

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A rule answers a call with an error if all its conditions hold.
type rule struct {
	nr    uint32
	when  []condition
	errno unix.Errno
}

// A condition looks at the low 32 bits of an argument (numbered from 0).
type condition struct {
	arg int
	op  uint16 // BPF_JEQ: is val; BPF_JSET: has a bit of val
	val uint32
}

var newer = []rule{
	{unix.SYS_FUTEX_WAITV, nil, unix.ENOSYS},
	{unix.SYS_MEMFD_CREATE, []condition{{1, unix.BPF_JSET, unix.MFD_NOEXEC_SEAL}}, unix.EINVAL},
	{unix.SYS_MADVISE, []condition{{2, unix.BPF_JEQ, unix.MADV_POPULATE_READ}}, unix.EINVAL},
	{unix.SYS_MADVISE, []condition{{2, unix.BPF_JEQ, unix.MADV_POPULATE_WRITE}}, unix.EINVAL},
	{unix.SYS_GETSOCKOPT, []condition{
		{1, unix.BPF_JEQ, unix.SOL_SOCKET}, {2, unix.BPF_JEQ, unix.SO_PEERPIDFD},
	}, unix.ENOPROTOOPT},
}

// DenyNew installs a seccomp filter in all threads of this process, and of whatever it
// starts, that answers as Linux 5.10 would to what came later:
//
//	futex_waitv                             ENOSYS
//	memfd_create with MFD_NOEXEC_SEAL       EINVAL
//	madvise with MADV_POPULATE_READ, _WRITE EINVAL
//	getsockopt SO_PEERPIDFD                 ENOPROTOOPT
//
// It cannot be undone, and package sys asks for futex_waitv once only: call it in a
// re-executed test binary, before anything else. It also sets no_new_privs. No rights are
// needed.
func DenyNew() error {
	arch, ok := map[string]uint32{
		"amd64": unix.AUDIT_ARCH_X86_64,
		"arm64": unix.AUDIT_ARCH_AARCH64,
	}[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("systest: no seccomp filter for %s", runtime.GOARCH)
	}
	return install(compile(arch, newer))
}

// Offsets in struct seccomp_data: nr, arch, instruction_pointer, args[6].
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// compile makes a filter: each rule is "load, compare, else to the next rule".
func compile(arch uint32, rules []rule) []unix.SockFilter {
	load := func(off int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(off)}
	}
	answer := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	// jump goes on with the next instruction if the comparison holds, else skips n.
	jump := func(op uint16, val uint32, n int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jf: uint8(n), K: val}
	}

	// A system call of another architecture has other numbers: let it be.
	filter := []unix.SockFilter{
		load(offArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch},
		answer(unix.SECCOMP_RET_ALLOW),
	}
	for _, r := range rules {
		rest := 2*len(r.when) + 1 // instructions of this rule after the first jump
		filter = append(filter, load(offNr), jump(unix.BPF_JEQ, r.nr, rest))
		for _, c := range r.when {
			rest -= 2
			// Little-endian: the low half of the argument comes first.
			filter = append(filter, load(offArgs+8*c.arg), jump(c.op, c.val, rest))
		}
		filter = append(filter, answer(unix.SECCOMP_RET_ERRNO|uint32(r.errno)))
	}
	return append(filter, answer(unix.SECCOMP_RET_ALLOW))
}

// install puts the filter into force in all threads at once (TSYNC).
func install(filter []unix.SockFilter) error {
	runtime.LockOSThread() // no_new_privs is this thread's; TSYNC gives it to the others
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}
	r, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return os.NewSyscallError("seccomp", e)
	}
	if r != 0 {
		return fmt.Errorf("systest: thread %d did not take the seccomp filter", r)
	}
	return nil
}
