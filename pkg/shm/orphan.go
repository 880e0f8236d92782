package shm

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// orphanVariable says, in milliseconds, for how long no daemon may have lived before a worker quits by itself. The daemon sets it; without it,
// or with 0, a worker stays for ever.
const orphanVariable = "SHMD_ORPHAN_TIMEOUT_MS"

// watchDaemon has the worker quit when no daemon has lived for too long, so that a service whose daemon was killed and is not started again leaves
// nothing behind. It costs a thread that sleeps until the daemon ends, and nothing else. A daemon that hangs lives. A worker that cannot see
// its daemon when it attaches, since it is in a pid namespace of its own, cannot see its death either and stays.
func (r *Region) watchDaemon() {
	ms, err := strconv.Atoi(os.Getenv(orphanVariable))
	if err != nil || ms <= 0 {
		return
	}
	daemon := openDaemon(r.roster.Daemon())
	if daemon == nil {
		return
	}
	ends, err := sys.NewEpoll()
	if err != nil {
		daemon.Close()
		return
	}
	stop := context.AfterFunc(r.quit, func() { ends.Close() })
	r.own.Add(1)
	r.watching.Go(func() {
		defer r.own.Add(-1)
		defer ends.Close()
		defer stop()
		after := time.Duration(ms) * time.Millisecond
		for daemon != nil {
			err := ends.Add(daemon, 0)
			if err == nil {
				_, err = ends.Wait(-1)
				ends.Remove(daemon)
			}
			daemon.Close()
			if err != nil {
				return
			}
			daemon = r.awaitDaemon(after)
		}
		if r.quit.Err() == nil {
			r.endQuit(fmt.Errorf("%w: no daemon of region %q has lived for %v (orphan_timeout)", ErrQuit, r.name, after))
		}
	})
}

// awaitDaemon waits for the next daemon; nil if there was none in time, or the process is asked to quit.
func (r *Region) awaitDaemon(atMost time.Duration) *os.File {
	ctx, cancel := context.WithTimeout(r.quit, atMost)
	defer cancel()
	word := r.roster.ChangeWord()
	for {
		v := word.Load()
		if f := openDaemon(r.roster.Daemon()); f != nil {
			return f
		}
		if r.hub.WaitLong(ctx, word, v, nil) != nil {
			return nil
		}
	}
}

// openDaemon returns a pidfd of the daemon, nil if it does not live.
func openDaemon(d protocol.DaemonInfo) *os.File {
	if d.Pid <= 0 {
		return nil
	}
	f, err := sys.PidfdOpen(d.Pid)
	if err != nil {
		return nil
	}
	ticks, err := sys.StartTicks(d.Pid)
	if ended, perr := sys.PidfdReadable(f); err != nil || perr != nil || ended || ticks != d.StartTicks {
		f.Close()
		return nil
	}
	return f
}
