package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shmd/shmd/internal/config"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// An upgrade puts another program into the daemon's process: same pid, same children, same descriptors. docs/adoption.md says in which order,
// and what a death in between means.

const (
	selfCheckWithin = 10 * time.Second
	quietWithin     = time.Second // for each: connections, outputs, systemd, whoever reads the log
)

// upgrade has another program take this one's place. It returns only if that did not happen; then everything is as before. rest stops the
// server from reading requests until resume is called.
func (d *Daemon) upgrade(path string, rest func() (conns []resting, resume func())) error {
	binary, path, err := openBinary(path)
	if err != nil {
		return err
	}
	defer binary.Close()
	passed, err := d.askCandidate(binary)
	if err != nil {
		return fmt.Errorf("%s did not pass its self-check: %w", path, err)
	}
	d.log.Info("upgrade begins", "from_version", d.version, "version", passed.Version, "binary", path)
	conns, resume := rest()
	defer resume()
	failed := make(chan error, 1)
	d.post(func() { failed <- d.replace(binary, conns) })
	select {
	case err = <-failed:
	case <-d.finished:
		err = errors.New("the region is stopping")
	}
	d.log.Warn("the upgrade failed: the daemon goes on as it was", "binary", path, "error", err)
	return err
}

// openBinary opens the program. Who could write it would have the daemon's rights, so it must be root's or the daemon's user's. It is run by the
// descriptor: what lies at the path later does not matter.
func openBinary(path string) (*os.File, string, error) {
	if path == "" {
		var err error
		if path, err = os.Readlink("/proc/self/exe"); err != nil {
			return nil, path, err
		}
		path = strings.TrimSuffix(path, " (deleted)") // what lies there now
	}
	if !filepath.IsAbs(path) {
		return nil, path, fmt.Errorf("%s: the path of the program must be absolute", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, path, fmt.Errorf("%w (as the daemon sees it: under systemd /tmp and /home are not those of others, see PrivateTmp= and ProtectHome=)", err)
	}
	st, err := sys.Fstat(f)
	switch {
	case err != nil:
	case !st.IsRegular:
		err = fmt.Errorf("%s: no regular file", path)
	case st.UID != 0 && st.UID != uint32(os.Geteuid()):
		err = fmt.Errorf("%s belongs to user %d: it would run with the daemon's rights, so it must belong to root or to user %d", path, st.UID, os.Geteuid())
	case st.Mode&0o022 != 0:
		err = fmt.Errorf("%s can be written by others (mode %#o): chmod go-w it", path, st.Mode)
	case st.Mode&0o111 == 0:
		err = fmt.Errorf("%s is not executable", path)
	default: // the interpreter of a script could not open what is closed by then
		magic := make([]byte, 4)
		if _, err = f.ReadAt(magic, 0); err != nil || string(magic) != "\x7fELF" {
			err = fmt.Errorf("%s is no ELF program", path)
		}
	}
	if err != nil {
		f.Close()
		return nil, path, err
	}
	return f, path, nil
}

// candidacy is what a program says of itself in its self-check.
type candidacy struct {
	Schema   int      `json:"schema"`
	Version  string   `json:"version"`
	Layout   string   `json:"layout"`             // that it knows
	Warnings []string `json:"warnings,omitempty"` // of what would not be as the configuration says
}

// askCandidate runs the program as a child with the daemon's own arguments, and has it say whether it could take over: it reads the configuration, and
// the region's memory, read-only.
func (d *Daemon) askCandidate(binary *os.File) (*candidacy, error) {
	h := &handover{Schema: handedSchema, From: d.version}
	files := []*os.File{binary, nil}
	for name, s := range d.view.Load().segments { // not d.mem's, which the supervisor may be changing
		h.Segments = append(h.Segments, handed{name, 3 + len(files)})
		files = append(files, s.readOnly)
	}
	memfd, err := h.write()
	if err != nil {
		return nil, err
	}
	defer memfd.Close()
	files[1] = memfd
	ctx, cancel := context.WithTimeout(d.server.ctx, selfCheckWithin) // a region that stops does not wait for it
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3")
	cmd.Args = append(append([]string{}, os.Args...), "--self-check")
	cmd.Env = append(os.Environ(), selfCheckVariable+"=4")
	cmd.ExtraFiles = files
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it holds the memory of a region whose daemon may die
	runtime.LockOSThread()                                             // of Pdeathsig
	defer runtime.UnlockOSThread()
	err = cmd.Run() // ECHILD if the supervisor reaped it as an orphan: then what it printed counts
	var c candidacy
	if json.Unmarshal(stdout.Bytes(), &c) == nil && c.Schema == 1 && c.Version != "" {
		return &c, nil
	}
	why := strings.TrimSpace(stderr.String())
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no answer within %v", selfCheckWithin)
	case why != "":
		said := strings.Join(strings.Fields(why[max(0, len(why)-1024):]), " ")
		return nil, fmt.Errorf("it said: %s", strings.TrimPrefix(said, "shmd: "))
	case err != nil && !errors.Is(err, syscall.ECHILD):
		return nil, err
	}
	return nil, errors.New("it ended without an answer: is it a shmd?")
}

// selfCheck is what the candidate does: it says on out that it could take over, or returns why not.
func selfCheck(c *config.Config, version string, out io.Writer) error {
	h, err := readHandover(selfCheckVariable)
	if err != nil {
		return err
	}
	if h == nil {
		return usageError{errors.New("--self-check is for a daemon that is asked to upgrade: shmctl upgrade")}
	}
	d := &Daemon{conf: c, version: version}
	d.place()
	e, err := d.estateOf(h, false)
	if err != nil {
		return err
	}
	defer e.Close()
	if _, err := d.checkEstate(e); err != nil {
		return err
	}
	text, err := json.Marshal(candidacy{Schema: 1, Version: version, Layout: fmt.Sprintf("%d.%d", protocol.LayoutMajor, protocol.LayoutMinor)})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, string(text))
	return err
}

// replace execs the program. It returns only if that failed, and then everything is as it was. The supervisor runs it, so nothing changes meanwhile:
// who dies is noticed by the next program, and what is asked for is in the memory.
func (d *Daemon) replace(binary *os.File, conns []resting) error {
	begun := sys.MonotonicNs()
	if d.stopping || len(d.asked) > 0 {
		return errors.New("the region is stopping")
	}
	left, err := d.lines.pause(quietWithin)
	defer func() { d.lines.resume(left) }()
	if err != nil {
		return err
	}
	if err := d.systemd.flush(context.Background(), quietWithin); err != nil {
		return err
	}
	if err := d.sink.spool.flush(quietWithin); err != nil {
		return err
	}
	var k keeper
	defer k.undo()
	h, err := d.handOver(&k, begun, left, conns)
	if err != nil {
		return err
	}
	memfd, err := h.write()
	if err != nil {
		return err
	}
	defer memfd.Close()
	number, err := k.keep(memfd)
	if err != nil {
		return err
	}
	program, err := numberOf(binary)
	if err != nil {
		return err
	}
	d.sink.mu.Lock() // no record is half written, and no event
	defer d.sink.mu.Unlock()
	d.eventLog.mu.Lock()
	defer d.eventLog.mu.Unlock()
	return sys.Exec("/proc/self/fd/"+strconv.Itoa(program), os.Args, append(os.Environ(), upgradeVariable+"="+strconv.Itoa(number)))
}

// arrive gives the process back its name, which an exec by descriptor makes a number.
func (h *handover) arrive() {
	os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
}
