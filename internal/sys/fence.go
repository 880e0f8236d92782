//go:build amd64 || arm64

package sys

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Commands of membarrier(2), from linux/membarrier.h.
const (
	membarrierQuery                   = 0
	membarrierGlobalExpedited         = 1 << 1
	membarrierRegisterGlobalExpedited = 1 << 2
)

// RegisterFence makes this process take part in FenceAll, for good. It must be called before the first StoreRelease that FenceAll is to
// order. The first call in a process with threads may take some milliseconds. Errors: ErrNoSys, the kernel's.
var RegisterFence = sync.OnceValue(func() error {
	commands, _, e := unix.Syscall(unix.SYS_MEMBARRIER, membarrierQuery, 0, 0)
	const needed = membarrierGlobalExpedited | membarrierRegisterGlobalExpedited
	if e != 0 || commands&needed != needed {
		return fmt.Errorf("membarrier: %w (the kernel has it from 4.16 on; a seccomp filter may forbid it)", ErrNoSys)
	}
	if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, membarrierRegisterGlobalExpedited, 0, 0); e != 0 {
		return fail("membarrier", e)
	}
	return nil
})

// FenceAll is a full memory barrier in every thread, of every process that called RegisterFence, that runs at this moment (one that
// does not run had one when it was taken from its processor), and in the caller. So of
//
//	here:  store A; FenceAll; load B        there:  StoreRelease B; load A
//
// at least one sees the other's store: the side that is rarely taken pays for both.
func FenceAll() {
	unix.RawSyscall(unix.SYS_MEMBARRIER, membarrierGlobalExpedited, 0, 0) // cannot fail where RegisterFence did not
}
