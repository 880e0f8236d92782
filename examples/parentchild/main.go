// Parentchild is the second step: two processes that share memory without a file. The parent writes 10
// and 20 into it, the child adds them up and prints 30.
//
//	parentchild
//
// Textbooks do it with mmap(MAP_SHARED | MAP_ANONYMOUS), fork, and a sleep in the child until the parent
// "will have" written. Two things differ here:
//
//   - The memory is a memfd: anonymous memory with a descriptor. A child made by fork would have the
//     mapping itself, but a program that is started by exec begins with new memory. What it can inherit
//     are descriptors, so that is what the parent hands over; the child maps it again.
//   - A futex takes the place of the sleep: the child sleeps in the kernel until the parent has said that
//     the numbers are there, and no longer.
//
// The next step is examples/quitflag; the way to shmd is told in docs/from-mmap-to-shmd.md.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/region"
)

// What lies where in the memory: offsets in bytes of 32-bit words. Offsets and never pointers, since
// the memory has another address in each process.
const (
	offFirst  = 0
	offSecond = 4
	offReady  = 8 // 0: wait; 1: first and second are there. Also the futex that the child sleeps on
	size      = 12
)

// How long the child waits. A parent that was killed says nothing any more: to know of a death takes
// a supervisor.
const patience = 10 * time.Second

func main() {
	run := parent
	if len(os.Args) == 2 && os.Args[1] == "child" {
		run = child
	} else if len(os.Args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: parentchild")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "parentchild:", err)
		os.Exit(1)
	}
}

func parent() error {
	seg, err := region.Create(region.Options{Name: "parentchild", Size: size})
	if err != nil {
		return err
	}
	defer seg.Close()

	// Start this program again, as the child. It inherits the memory's descriptor as number 3, the first
	// after stdin, stdout and stderr.
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "child")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	region.Extra(cmd, seg.File())
	if err := cmd.Start(); err != nil {
		return err
	}

	b := seg.Bytes()
	sys.Word(b, offFirst).Store(10)
	sys.Word(b, offSecond).Store(20)
	// Last: who sees ready sees what was stored before it, also from another processor.
	ready := sys.Word(b, offReady)
	ready.Store(1)
	sys.FutexWake(ready, 1) // if the child does not sleep yet, it will not: see there
	fmt.Fprintf(os.Stderr, "parent, process %d: wrote 10 and 20\n", os.Getpid())

	return cmd.Wait()
}

func child() error {
	f, err := region.FromFD(3, "parentchild")
	if err != nil {
		return err
	}
	// Open does not trust what it is handed: it looks that the size is right and can never change.
	seg, err := region.Open(f, region.OpenOptions{Write: true, MinSize: size})
	if err != nil {
		return err
	}
	defer seg.Close()

	b := seg.Bytes()
	ready := sys.Word(b, offReady)
	for ready.Load() == 0 {
		// Sleep, if ready is 0 still. The kernel looks once more, with wakers locked out: a parent that
		// comes between our look and our sleep is not missed (ErrAgain), and that is why it is no
		// plain "sleep until woken".
		if err := sys.FutexWait(ready, 0, patience); err != nil && !errors.Is(err, sys.ErrAgain) {
			return fmt.Errorf("wait for the parent's numbers: %w", err)
		}
	}
	sum := sys.Word(b, offFirst).Load() + sys.Word(b, offSecond).Load()
	fmt.Fprintf(os.Stderr, "child, process %d: adds them up\n", os.Getpid())
	fmt.Println(sum)
	return nil
}
