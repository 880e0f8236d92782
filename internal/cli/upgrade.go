package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/attach"
	"github.com/shmd/shmd/internal/unit"
)

func (a *app) upgradeCommand() *cobra.Command {
	var binary string
	c := a.verb(cobra.Command{
		Use:   "upgrade [--binary PATH]",
		Short: "put another shmd into the daemon's place, with nothing restarted",
		Long: `upgrade has the daemon execute another program in its own process: the pid,
the workers, the memory, the socket and its connections stay, and messages pass
on meanwhile. The configuration is read again; what is not part of the memory
holds from then on.

Without --binary it is the file at the path that the daemon runs from, as a
package manager has replaced it.

The new program first says, as a child, whether it can read the configuration
and the memory. If not, or if it cannot be executed, the old one goes on and
the reason is printed. Only root and the daemon's user may do this, and the
program must belong to one of them and be writable for nobody else.`,
		Example: `  shmctl upgrade
  shmctl upgrade --binary /usr/local/bin/shmd`,
	}, noArgs, func(ctx context.Context, _ []string) error {
		if binary != "" && !filepath.IsAbs(binary) {
			return usagef("upgrade: --binary %s: the path must be absolute, it is the daemon that opens it", printable(binary))
		}
		return a.upgrade(ctx, binary)
	})
	c.Flags().StringVar(&binary, "binary", "", "`path` of the program, absolute, as the daemon sees it")
	c.MarkFlagFilename("binary")
	return c
}

type upgradeJSON struct {
	Schema  int    `json:"schema"`
	Region  string `json:"region"`
	Pid     int    `json:"pid"`
	From    string `json:"from"` // versions
	To      string `json:"to"`
	PauseNs int64  `json:"pause_ns"` // for so long nobody supervised
}

// nextDaemonWithin is how long the next daemon may take after one that died in an upgrade.
const nextDaemonWithin = 10 * time.Second

func (a *app) upgrade(ctx context.Context, binary string) error {
	conn, err := a.dialDaemon(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	answered := a.tellUpgrade(ctx, conn.Hello().Pid)
	r, err := conn.Upgrade(ctx, binary)
	answered()
	var refused *attach.RefusedError
	switch {
	case errors.As(err, &refused) && refused.Code == attach.CodeUpgrade:
		return fmt.Errorf("the daemon (%s, pid %d) goes on as it was: %s", printable(conn.Hello().Version), conn.Hello().Pid, printable(refused.Text))
	case errors.Is(err, attach.ErrHungUp):
		return a.diedUpgrading(ctx, conn.Hello())
	case err != nil:
		return a.unanswered(ctx, err)
	}
	if a.json() {
		return a.printJSON(upgradeJSON{schema, r.Region, r.Pid, r.From, r.Version, r.PauseNs})
	}
	_, err = fmt.Fprintf(a.stdout, "shmd %s -> %s (region %s, pid %d, pause %v)\n", printable(r.From), printable(r.Version), printable(r.Region), r.Pid,
		time.Duration(r.PauseNs).Round(time.Microsecond))
	return err
}

// tellUpgrade says, after a moment, what an upgrade waits for, and again when that has changed. done ends it. While the new program is asked whether it can take
// over, the old one still answers; when it has taken over, nobody does until it is ready.
func (a *app) tellUpgrade(ctx context.Context, pid int) (done func()) {
	if a.quiet {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		told := ""
		tell := func(text string) {
			if text != told && ctx.Err() == nil {
				told = text
				a.warn("%s", text)
			}
		}
		silent := 0 // how many times in a row nobody has answered
		for a.nap(ctx, tellAfter) == nil {
			conn, err := attach.Dial(ctx, a.socketPath())
			if err == nil {
				conn.Close()
				silent = 0
				tell("the new program has not said yet whether it can take over; if it says nothing within 10 seconds, the daemon goes on as it was")
				continue
			}
			why, stopped := a.silence()
			switch silent++; {
			case stopped:
				tell(why)
			case silent < 3:
				tell(fmt.Sprintf("the new program has the daemon's process (pid %d), and is not ready yet", pid))
			default:
				tell(fmt.Sprintf("the new program (pid %d) does not get ready. Workers go on; if it hangs, %s", pid, replaceIt(pid)))
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// diedUpgrading says what came of a daemon that died in the middle of an upgrade.
func (a *app) diedUpgrading(ctx context.Context, was attach.Reply) error {
	soon, cancel := context.WithTimeout(ctx, nextDaemonWithin)
	defer cancel()
	for wait := time.Millisecond; soon.Err() == nil; wait = min(2*wait, 100*time.Millisecond) {
		if conn, err := attach.DialWait(soon, a.socketPath()); err == nil {
			now := conn.Hello()
			conn.Close()
			return fmt.Errorf("the daemon (pid %d) ended in the middle of the upgrade; the next one (%s, pid %d) has taken over: see its log, and shmctl ps", was.Pid, printable(now.Version), now.Pid)
		}
		select {
		case <-soon.Done():
		case <-time.After(wait):
		}
	}
	return fmt.Errorf("the daemon (pid %d) ended in the middle of the upgrade and none has taken over yet: its workers go on; see its log (%s), and start one", was.Pid, unit.Log(a.region))
}
