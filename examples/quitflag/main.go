// Quitflag is the third step: a few bytes of shared memory, one of which ends the child when it is not 0.
// It measures how long that takes, from the store to the end of the process.
//
//	quitflag
//
// This is how shmctl stop ends a worker of shmd: a store and a wake-up, which need no daemon, no signal
// and no handler; and the worker finishes what it is at. docs/from-mmap-to-shmd.md tells the rest.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/region"
)

// The bytes that are reserved, as 32-bit words; offsets in bytes.
const (
	offQuit  = 0 // the quit word: its low byte is the flag, the rest of it is reserved. The child sleeps on it
	offLooks = 4 // how often the child has found the flag down. 1: it is up and running
	offSeen  = 8 // when the child saw the flag, as stamp gives it
	size     = 12
)

const flagMask = 0xff // the low byte: on a little-endian machine the byte at offQuit itself

const patience = 30 * time.Second // with a partner that may have been killed

func main() {
	run := parent
	if len(os.Args) == 2 && os.Args[1] == "child" {
		run = child
	} else if len(os.Args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: quitflag")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "quitflag:", err)
		os.Exit(1)
	}
}

func parent() error {
	seg, err := region.Create(region.Options{Name: "quitflag", Size: size})
	if err != nil {
		return err
	}
	defer seg.Close()
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
	quit, looks, seen := sys.Word(b, offQuit), sys.Word(b, offLooks), sys.Word(b, offSeen)
	err = waitUntil(looks, func(n uint32) bool { return n > 0 })
	if err == nil {
		fmt.Printf("child %d runs, and sleeps on the quit word\n", cmd.Process.Pid)
	}

	start, startStamp := time.Now(), stamp()
	quit.Or(1)             // the flag. Or, since the other bytes of the word are not ours
	sys.FutexWake(quit, 1) // whoever sleeps on the word looks at it again

	if err := errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	gone := time.Since(start)
	fmt.Printf("saw the flag  %8v after the store\n", time.Duration(seen.Load()-startStamp))
	fmt.Printf("was gone      %8v after the store\n", gone)
	return nil
}

func child() error {
	f, err := region.FromFD(3, "quitflag")
	if err != nil {
		return err
	}
	seg, err := region.Open(f, region.OpenOptions{Write: true, MinSize: size})
	if err != nil {
		return err
	}
	defer seg.Close()
	b := seg.Bytes()
	quit, looks, seen := sys.Word(b, offQuit), sys.Word(b, offLooks), sys.Word(b, offSeen)

	// A real worker does a piece of work each time round, and looks at the flag in between.
	if err := waitUntil(quit, func(word uint32) bool {
		if word&flagMask != 0 {
			return true
		}
		looks.Add(1)
		sys.FutexWake(looks, 1)
		return false
	}); err != nil {
		return err
	}
	seen.Store(stamp())
	return nil
}

// waitUntil sleeps until done is true of the word. It looks, then sleeps if the word still is what it
// saw, and looks again whenever it is woken, for whatever reason.
func waitUntil(word *atomic.Uint32, done func(uint32) bool) error {
	for {
		v := word.Load()
		if done(v) {
			return nil
		}
		if err := sys.FutexWait(word, v, patience); err != nil && !errors.Is(err, sys.ErrAgain) {
			return fmt.Errorf("wait for the other process: %w", err)
		}
	}
}

// stamp returns the low 32 bits of a clock in nanoseconds that all processes share. The difference of two
// stamps is right as long as they are less than 4.29 seconds apart.
func stamp() uint32 { return uint32(sys.MonotonicNs()) }
