package crashpoint

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frozen is a tracee in the middle of an operation, as a whole: registers, the part of the stack that the operation has, the shared
// memory. An operation has nothing else, but for the Lane and what that has in slices: it allocates nothing.
type frozen struct {
	sets  [2][]byte
	sp    uint64
	stack []byte
	mem   []byte
	heap  []piece
}

// piece is some of the tracee's memory.
type piece struct {
	at uint64
	b  []byte
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
	z.heap = z.heap[:0]
	if at := get(x.mem, wordLane); at != 0 {
		z.save(x, at, int(laneSize))
		lane := z.heap[0].b
		for _, s := range laneSlices {
			if n := get(lane[s[0]:], 1); n > 0 {
				z.save(x, get(lane[s[0]:], 0), int(n)*s[1])
			}
		}
	}
}

func (z *frozen) save(x *tracee, at uint64, n int) {
	b := make([]byte, n)
	if _, err := unix.Pread(x.procMem, b, int64(at)); err != nil {
		x.t.Fatalf("memory of the tracee: %v", err)
	}
	z.heap = append(z.heap, piece{at, b})
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
	for _, p := range z.heap {
		if _, err := unix.Pwrite(x.procMem, p.b, int64(p.at)); err != nil {
			x.t.Fatalf("memory of the tracee: %v", err)
		}
	}
	copy(x.mem, z.mem)
	x.inside = false
}

// inRuntime reports whether the tracee is in Go's allocator or the like: not in code of ours, nor in a copy of memory that code of ours makes. It has
// no business with shared memory there, and must not be put back to there. It wants to be asked at each instruction.
func (x *tracee) inRuntime() bool {
	b, err := regset(unix.PTRACE_GETREGSET, x.pid, registerSets()[0], x.registers[:])
	if err != nil {
		x.t.Fatal(err)
	}
	pc := get(b, 16)
	if runtime.GOARCH != "amd64" {
		pc = get(b, 32)
	}
	whose, known := x.code[pc]
	if !known {
		switch name := runtime.FuncForPC(uintptr(pc)).Name(); { // the tracee is this binary
		case strings.HasPrefix(name, "runtime.mem"), // memmove, memclr, memequal: of whoever has called it
			!strings.Contains(name, "."): // local to a file in assembly, as gosave_systemstack_switch, which the allocator calls
			whose = codeOfCaller
		case strings.HasPrefix(name, "runtime."), strings.HasPrefix(name, "internal/runtime/"):
			whose = codeOfRuntime
		case strings.HasPrefix(name, "internal/"): // of Go: bytealg, abi
			whose = codeOfCaller
		}
		x.code[pc] = whose
	}
	if whose != codeOfCaller {
		x.inside = whose == codeOfRuntime
	}
	return x.inside
}

// Whose the code at a program counter is.
const (
	codeOfOurs = iota
	codeOfRuntime
	codeOfCaller
)
