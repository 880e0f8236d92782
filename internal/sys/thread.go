package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// currentThread returns the kernel's number of the calling thread. The goroutine has to
// be locked to it for the number to mean anything.
func currentThread() int { return unix.Gettid() }

// interrupt ends an interruptible wait of one thread of this process with EINTR. It uses
// the signal with which Go's scheduler interrupts threads, whose handler takes one too
// many as nothing.
func interrupt(thread int) {
	_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // ESRCH: it has gone, as wanted
}
