package daemon_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// The daemon is killed at any time while groups are scaled, restarted by rolling and reloaded: the next one brings about what was asked for last, and the
// worker that nothing was asked of has not noticed.
func TestScaleAndReloadUnderKills(t *testing.T) {
	t.Parallel()
	const keep = "[worker.keep]\nbuiltin = \"idle\"\n"
	text := func(count int, more bool) string {
		s := keep + fmt.Sprintf("[worker.web]\nbuiltin = \"idle\"\ncount = %d\n", count)
		if more {
			s += "[channel.more]\n[worker.more]\nbuiltin = \"idle\"\ncount = 2\nconsume = [\"more\"]\n"
		}
		return s
	}
	d := testregion.Start(t, named+text(2, false))
	kept := byName(t, d.WaitReady(), "keep.0")
	path := filepath.Join(d.Dir, "shmd.toml")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	count, more, want := 2, false, 2
	for i := range 12 {
		switch i % 3 {
		case 0:
			want = 1 + rand.IntN(12)
			shmctl(t, d, "scale", "--no-wait", "-q", fmt.Sprintf("web=%d", want))
		case 1:
			count, more = 1+(count+rand.IntN(6))%8, !more
			if err := os.WriteFile(path, []byte(strings.Replace(string(first), text(2, false), text(count, more), 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			shmctl(t, d, "reload", "--no-wait", "-q")
			want = count
		case 2:
			shmctl(t, d, "restart", "--rolling", "--max-unavailable=3", "--no-wait", "-q", "web")
		}
		<-time.After(time.Duration(rand.IntN(30)) * time.Millisecond) // any time: the thing that is tested
		d.Kill()
		d.Again()
		d.WaitWorkers(fmt.Sprintf("step %d: %d of web are ready, more: %v", i, want, more), func(ws []protocol.Worker) bool {
			var names []string
			for _, w := range ws {
				if w.State != protocol.StateReady {
					return false
				}
				names = append(names, w.Name)
			}
			expect := []string{"keep.0"}
			for k := range want {
				expect = append(expect, fmt.Sprintf("web.%d", k))
			}
			if more {
				expect = append(expect, "more.0", "more.1")
			}
			slices.Sort(names)
			slices.Sort(expect)
			return slices.Equal(names, expect)
		})
		if now := byName(t, d.WaitReady(), "keep.0"); now.Pid != kept.Pid || now.Restarts != 0 {
			t.Fatalf("keep.0 was %+v, and is %+v", kept, now)
		}
	}
	if out, errs, code := d.Shmctl("verify"); code != 0 {
		t.Errorf("verify: %s%s", out, errs)
	}
	shmctl(t, d, "restart", "--rolling", "--max-unavailable=3", "web")
}
