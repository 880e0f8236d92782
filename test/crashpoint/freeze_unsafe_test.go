package crashpoint

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frozen is a tracee in the middle of an operation, as a whole: registers, the part of the stack that the operation has, the shared
// memory. An operation has nothing else: it allocates nothing.
type frozen struct {
	sets  [2][]byte
	sp    uint64
	stack []byte
	mem   []byte
}

func registerSets() [2]uintptr {
	const prstatus, prfpreg, xstate = 1, 2, 0x202
	if runtime.GOARCH == "amd64" {
		return [2]uintptr{prstatus, xstate}
	}
	return [2]uintptr{prstatus, prfpreg}
}

func regset(request, pid int, set uintptr, b []byte) ([]byte, error) {
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), set, uintptr(unsafe.Pointer(&iov)), 0, 0)
	if e != 0 {
		return nil, fmt.Errorf("ptrace of register set %#x: %w", set, e)
	}
	return b[:iov.Len], nil
}

func (x *tracee) stackPointer() uint64 {
	b, err := regset(unix.PTRACE_GETREGSET, x.pid, registerSets()[0], make([]byte, 4096))
	if err != nil {
		x.t.Fatal(err)
	}
	return stackPointer(b)
}

func stackPointer(registers []byte) uint64 {
	if runtime.GOARCH == "amd64" {
		return get(registers, 19)
	}
	return get(registers, 31)
}

// freeze remembers the tracee where it stands.
func (x *tracee) freeze(z *frozen) {
	for i, set := range registerSets() {
		if z.sets[i] == nil {
			z.sets[i] = make([]byte, 16384)
		}
		b, err := regset(unix.PTRACE_GETREGSET, x.pid, set, z.sets[i][:cap(z.sets[i])])
		if err != nil {
			x.t.Fatal(err)
		}
		z.sets[i] = b
	}
	z.sp = stackPointer(z.sets[0])
	z.stack = append(z.stack[:0], make([]byte, x.top-z.sp)...)
	if _, err := unix.Pread(x.procMem, z.stack, int64(z.sp)); err != nil {
		x.t.Fatalf("stack of the tracee: %v", err)
	}
	z.mem = append(z.mem[:0], x.mem...)
}

// thaw puts the tracee back to where freeze found it, from the end of the operation.
func (x *tracee) thaw(z *frozen) {
	for i, set := range registerSets() {
		if _, err := regset(unix.PTRACE_SETREGSET, x.pid, set, z.sets[i]); err != nil {
			x.t.Fatal(err)
		}
	}
	if _, err := unix.Pwrite(x.procMem, z.stack, int64(z.sp)); err != nil {
		x.t.Fatalf("stack of the tracee: %v", err)
	}
	copy(x.mem, z.mem)
}
