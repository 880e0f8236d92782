package badinput

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
	"github.com/shmd/shmd/pkg/shm"
)

// attachRole attaches as the worker that the environment describes, and says what came of it.
func attachRole() {
	r, err := shm.Attach(context.Background(), shm.Options{})
	if err == nil {
		err = errors.New("attached")
		r.Close()
	}
	fmt.Print(err)
}

// inherited are the segments of a worker w.0 of region "test", as a daemon would hand them down, each in a memfd of its own.
func inherited(t *testing.T) map[string][]byte {
	t.Helper()
	boot, err := sys.BootID()
	if err != nil {
		t.Fatal(err)
	}
	h := protocol.Header{Region: "test", Generation: 7, BootID: boot, Created: time.Now()}
	config := protocol.RosterConfig{Segments: 4, Groups: 1, Workers: 2, Attachments: 4, Dir: "/run/test"}
	queue := protocol.QueueOptions{Slots: 4, SlotSize: 64}
	queueSize, err := protocol.QueueSize(queue)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, s := range []struct {
		name   string
		size   int64
		format func(b []byte, h protocol.Header) error
	}{
		{"roster", protocol.RosterSize(config), func(b []byte, h protocol.Header) error {
			r, err := protocol.FormatRoster(b, h, config)
			if err != nil {
				return err
			}
			return errors.Join(r.SetWorker(0, protocol.Worker{Name: "w.0", State: protocol.StateStarting, Attachment: 2}),
				r.SetWorker(1, protocol.Worker{Name: "w.1", Instance: 1, State: protocol.StateStarting}))
		}},
		{"command", protocol.CommandSize(1, 2), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatCommand(b, h, 1, 2)
			return err
		}},
		{"group", protocol.GroupSize(protocol.GroupConfig{Instances: 2}), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatGroup(b, h, protocol.GroupConfig{Instances: 2})
			return err
		}},
		{"jobs", queueSize, func(b []byte, h protocol.Header) error { _, err := protocol.FormatQueue(b, h, queue); return err }},
	} {
		m, err := region.Create(region.Options{Name: s.name, Size: s.size})
		if err != nil {
			t.Fatal(err)
		}
		h.Name = s.name
		if err := s.format(m.Bytes(), h); err != nil {
			t.Fatal(err)
		}
		all[s.name] = append([]byte(nil), m.Bytes()...)
		m.Close()
	}
	return all
}

const (
	notInherited = "not inherited: this program has to be started by the process that hands the memory over"
	notMemfd     = "not a memfd: the sender handed over something else; ask it for a segment, and map files with OpenFile"
)

// What a program says that was handed something else than a daemon hands down.
func TestWorkers(t *testing.T) {
	const sealed = sys.SealShrink | sys.SealGrow | sys.SealSeal
	good := inherited(t)
	file := func(name string, change ...byte) func(t *testing.T) *os.File { // change: offset, value, …
		return func(t *testing.T) *os.File {
			b := append([]byte(nil), good[name]...)
			for i := 0; i+1 < len(change); i += 2 {
				b[change[i]] = change[i+1]
			}
			return memfd(t, b, sealed)
		}
	}
	roster, command, group, jobs := file("roster"), file("command"), file("group"), file("jobs")
	type open = func(t *testing.T) *os.File
	readOnly := func(of open) open {
		return func(t *testing.T) *os.File {
			f := of(t)
			defer f.Close()
			ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			return ro
		}
	}
	for _, c := range []struct {
		name, fds, worker string
		files             []open
		want              string // after "attach as worker …: "
	}{
		{"as it should be", "roster,command,group,jobs", "w.0", []open{readOnly(roster), readOnly(command), group, jobs}, "attached"},
		{"fewer descriptors than names", "roster,command,group,jobs", "w.0", []open{roster, command, group}, `segment "jobs": open segment "jobs": ` + notMemfd}, // it finds a file that Go's runtime has opened
		{"no descriptors", "roster", "w.0", nil, `segment "roster": open segment "roster": ` + notMemfd},
		{"a pipe", "roster,command,group", "w.0", []open{roster, func(t *testing.T) *os.File {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return r
		}, group}, `descriptor 4 for "command": ` + notInherited + ": it is neither a memfd nor a file"},
		{"a file", "roster,command,group", "w.0", []open{roster, command, func(t *testing.T) *os.File {
			f, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			return f
		}}, `segment "group": open segment "group": ` + notMemfd},
		{"not sealed", "roster,command,group", "w.0", []open{roster, command, func(t *testing.T) *os.File { return memfd(t, good["group"], 0) }},
			`segment "group": open segment "bad": its size is not sealed: the creator must add F_SEAL_SHRINK and F_SEAL_GROW before it hands the segment over (seals are SEALS)`},
		{"short", "roster,command,group", "w.0", []open{func(t *testing.T) *os.File { return memfd(t, good["roster"][:100], sealed) }, command, group},
			`segment "roster": open segment "bad": too short: the sender is of another version, or sent another segment: 100 bytes, not 256`},
		{"cut in the middle", "roster,command,group", "w.0", []open{func(t *testing.T) *os.File { return memfd(t, good["roster"][:4096], sealed) }, command, group},
			fmt.Sprintf(`segment "roster": open segment "bad": segment "roster" is damaged at offset 0x28: segment size %d, the memory has 4096`, len(good["roster"]))},
		{"not ready", "roster,command,group", "w.0", []open{file("roster", 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0), command, group},
			`segment "roster": open segment "bad": segment is not ready: its creator has not published the header; try again, or start the region anew`},
		{"another version", "roster,command,group", "w.0", []open{roster, file("command", 8, 9), group},
			`segment "command": open segment "bad": segment "command" has layout version 9.0, this program knows 1.0: use the shmctl and libraries of the daemon's release`},
		{"in another order", "command,roster,group", "w.0", []open{roster, command, group}, `segment "`}, // one of the two
		{"of another region", "roster,command,group", "w.0", []open{roster, file("command", 48, 8), group}, "roster and command segment: segment belongs to another generation of the region: attach again"},
		{"a table outside", "roster,command,group", "w.0", []open{roster, command, file("group", 255, 1, 28, 0)}, "attached"}, // byte 255 is reserved
		{"no group", "roster,command", "w.0", []open{roster, command}, "SHMD_FDS names no group segment: start the program through shmd"},
		{"no roster", "command,group", "w.0", []open{command, group}, "got no roster or no command segment"},
		{"a group read-only", "roster,command,group", "w.0", []open{roster, command, readOnly(group)}, `segment "group": open segment "bad": read-only: ask for a writable descriptor, which takes the right to it (permission denied): the descriptor is open for reading`},
		{"an unknown worker", "roster,command,group", "x.3", []open{roster, command, group}, `the roster of region "test" has no such worker`},
		{"no worker at all", "roster,command,group", "", []open{roster, command, group}, `the roster of region "test" has no such worker`},
		{"without an id", "roster,command,group", "w.1", []open{roster, command, group}, "the daemon gave this worker no attachment id; it was not started by the living daemon"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{"BADINPUT_ROLE=attach", "SHMD_FDS=" + c.fds, "SHMD_WORKER=" + c.worker, "SHMD_REGION=test"}
			for _, open := range c.files {
				f := open(t)
				defer f.Close()
				cmd.ExtraFiles = append(cmd.ExtraFiles, f)
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if want != "attached" {
				want = fmt.Sprintf("attach as worker %q: %s", c.worker, want)
			}
			got := strings.NewReplacer("0x20", "SEALS", "0x0", "SEALS").Replace(string(out)) // MFD_NOEXEC_SEAL, where known, is one
			if strings.HasSuffix(want, notMemfd) && strings.Contains(got, notInherited) {    // no such file of the runtime
				return
			}
			if got != want && !(strings.HasSuffix(want, `segment "`) && strings.HasPrefix(got, want)) {
				t.Errorf("it says: %s\nwant:    %s", got, want)
			}
		})
	}
}
