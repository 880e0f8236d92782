package control

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

func TestFind(t *testing.T) {
	noLeak(t)
	p := oneGroup(long, "obey", "deaf", "mapper")
	p.Channel = true
	r := start(t, p)
	all, err := FindAll(r.region, testDir, uint32(os.Geteuid()))
	if err != nil || len(all) != 1 || len(all[0].Missing) > 0 || all[0].Segments["jobs"] == nil {
		t.Fatalf("%+v, %v", all, err)
	}
	all[0].Close()

	r.kill() // nobody else holds the channel
	l := r.find()
	var want []int
	for name, pid := range r.pids {
		if name != "w.2" { // has closed its descriptors, so only its mapping holds
			want = append(want, pid)
		}
	}
	slices.Sort(want)
	if !slices.Equal(l.Pids(), want) && !slices.Equal(l.Pids(), append(want, r.pids["w.2"])) {
		t.Errorf("holders %v, want %v", l.Pids(), want)
	}
	if l.Region != r.region || l.Generation == 0 || time.Since(l.Created) > time.Minute || len(l.Older) != 0 {
		t.Errorf("%+v", l)
	}
	if err := l.Missing["jobs"]; err == nil || len(l.Missing) != 1 {
		t.Errorf("missing: %v", l.Missing)
	}
	if len(l.Groups) != 1 || l.Groups[0] == nil || int(l.Groups[0].Page(0).AttachedPid.Load()) != r.pids["w.0"] {
		t.Errorf("groups: %v", l.Groups)
	}
	for name, s := range l.Segments {
		if s.Writable() != (name == "command") {
			t.Errorf("%s: writable %v", name, s.Writable())
		}
	}
	for _, h := range l.Holders {
		if ended, err := sys.PidfdReadable(h.Pidfd); ended || err != nil {
			t.Errorf("holder %d: %v, %v", h.Pid, ended, err)
		}
	}
	inodes := l.inodes()
	if ok, err := holds(r.pids["w.2"], r.region, inodes); !ok || err != nil {
		t.Errorf("a mapping does not count: %v, %v", ok, err)
	}
	if ok, err := holds(os.Getppid(), r.region, inodes); ok {
		t.Errorf("a stranger holds it: %v, %v", ok, err)
	}
}

func TestFindNothing(t *testing.T) {
	noLeak(t)
	uid := uint32(os.Geteuid())
	if _, err := Find("no-such-region", testDir, uid); !errors.Is(err, ErrNoRegion) || !strings.Contains(err.Error(), "belongs to the runtime directory "+testDir) || !strings.Contains(err.Error(), "start it") {
		t.Error(err)
	}
	if all, err := FindAll("no-such-region", testDir, uid); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	p := oneGroup(long)
	p.Unready = true // as a daemon that is just starting
	r := start(t, p)
	if _, err := Find(r.region, testDir, uid); !errors.Is(err, ErrNoRegion) {
		t.Error(err)
	}
}

// Two daemons of one name, one after the other, and the first one's workers live.
func TestGenerations(t *testing.T) {
	noLeak(t)
	old := start(t, oneGroup(long, "deaf"))
	old.kill()
	p := oneGroup(long, "deaf")
	p.Region = old.region
	r := start(t, p)
	l := r.find()
	if len(l.Older) != 1 || l.Older[0].Generation == l.Generation || l.Daemon().Pid != r.daemon.Process.Pid || l.Older[0].Daemon().Pid != old.daemon.Process.Pid {
		t.Fatalf("%+v", l)
	}
	if slices.Contains(l.Pids(), old.pids["w.0"]) || !slices.Contains(l.Older[0].Pids(), old.pids["w.0"]) {
		t.Errorf("holders %v and %v", l.Pids(), l.Older[0].Pids())
	}
	rep, err := StopLeftovers(t.Context(), l.Older[0])
	if err != nil || hows(rep) != "w.0 term" || !old.ended("w.0") || r.ended("w.0") {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestDamaged(t *testing.T) {
	for damage, text := range map[string]string{
		"groups":    `segment "roster" is damaged at offset 0x140: table of 1 records`,
		"header":    protocol.ErrForeign.Error(),
		"directory": `segment "command"`,
	} {
		t.Run(damage, func(t *testing.T) {
			noLeak(t)
			p := oneGroup(long, "deaf")
			p.Damage = damage
			r := start(t, p)
			_, err := Find(r.region, testDir, uint32(os.Geteuid()))
			var d *DamagedError
			if !errors.Is(err, ErrDamaged) || !errors.As(err, &d) || !strings.Contains(err.Error(), text) {
				t.Fatal(err)
			}
			want := []int{r.daemon.Process.Pid, r.pids["w.0"]}
			slices.Sort(want)
			if !slices.Equal(d.Pids, want) || !strings.Contains(err.Error(), fmt.Sprintf("kill %d %d", want[0], want[1])) {
				t.Errorf("%v: pids %v, want %v", err, d.Pids, want)
			}
		})
	}
}

// Memory of another user is not the region's, whatever its name; and another user cannot take the region's.
func TestForeign(t *testing.T) {
	noLeak(t)
	uid := uint32(os.Geteuid())
	own := start(t, oneGroup(long, "deaf"))
	if l, err := Find(own.region, testDir, uid+1); err == nil {
		l.Close()
		t.Error("trusted")
	}
	if uid != 0 {
		return // the rest takes a second user; tests of the project run as root
	}
	exe := copyOfSelf(t)
	other := func(role, region, stdin string) *exec.Cmd {
		cmd := exec.Command(exe)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "CONTROL_TEST="+role, "SHMD_REGION="+region)
		cmd.Stderr = os.Stderr
		cmd.Stdin = strings.NewReader(stdin)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd
	}
	out, err := other("find", own.region, "").Output()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), "only by user 0 and root") {
		t.Errorf("%s, %v", out, err)
	}

	for _, region := range []string{own.region, own.region + "-foreign"} {
		cmd := other("daemon", "", fmt.Sprintf(`{"Region":%q}`, region))
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cmd.Process.Kill()
			cmd.Wait()
		}()
		if _, err := pipe.Read(make([]byte, 1)); err != nil { // it has made it
			t.Fatal(err)
		}
		l, err := Find(region, testDir, 65534) // it can be found, by those who trust that user
		if err != nil || !slices.Equal(l.Pids(), []int{cmd.Process.Pid}) {
			t.Fatal(err)
		}
		l.Close()
	}
	l, err := Find(own.region, testDir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Older) != 0 || l.Daemon().Pid != own.daemon.Process.Pid {
		t.Errorf("%+v", l)
	}
	l.Close()
	if _, err := Find(own.region+"-foreign", testDir, 0); !errors.Is(err, ErrNoRegion) {
		t.Error(err)
	}
}

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	if uid, err := Owner(dir, 4711); err != nil || int(uid) != os.Geteuid() {
		t.Error(uid, err)
	}
	if uid, err := Owner(dir+"/none", 4711); err != nil || uid != 4711 {
		t.Error(uid, err)
	}
}

func TestSegmentOf(t *testing.T) {
	for _, c := range []struct {
		link, region, segment string
		ok                    bool
	}{
		{"/memfd:shmd:default:roster (deleted)", "default", "roster", true},
		{"/memfd:shmd:default:group/a (deleted)", "default", "group/a", true},
		{"/memfd:shmd:default2:roster (deleted)", "default", "", false},
		{"/tmp/memfd:shmd:default:roster (deleted)", "default", "", false},
		{"socket:[1]", "default", "", false},
	} {
		if s, ok := segmentOf(c.link, c.region); s != c.segment || ok != c.ok {
			t.Errorf("%s: %q %v", c.link, s, ok)
		}
	}
}

// A region of the same name and another runtime directory is another region.
func TestFindElsewhere(t *testing.T) {
	noLeak(t)
	r := start(t, oneGroup(long, "obey"))
	for _, dir := range []string{"/run/shmd", testDir + "/x", ""} {
		if all, err := FindAll(r.region, dir, uint32(os.Geteuid())); err != nil || len(all) != 0 {
			t.Errorf("%q: %d regions, %v", dir, len(all), err)
		}
	}
	l, err := Find(r.region, testDir+"/.", uint32(os.Geteuid()))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// Who has no descriptor left knows nothing of the memory: neither that it is damaged, nor that nobody has the region.
func TestFindWithFewDescriptors(t *testing.T) {
	noLeak(t)
	p := oneGroup(long, "obey", "deaf")
	p.Channel = true
	r := start(t, p)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	found := false
	for n := len(entries) - 1; !found; n++ { // what scans opens most in the end: each step gets a little further
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(n), Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		l, err := Find(r.region, testDir, uint32(os.Geteuid()))
		switch {
		case err == nil:
			if found = true; len(l.Missing) > 0 || len(l.Holders) != 3 {
				t.Errorf("with %d: missing %v, %d holders", n, l.Missing, len(l.Holders))
			}
			l.Close()
		case !errors.Is(err, syscall.EMFILE), errors.Is(err, ErrDamaged), errors.Is(err, ErrNoRegion), !strings.Contains(err.Error(), "ulimit -n"), strings.Contains(err.Error(), "kill"):
			t.Errorf("with %d: %v", n, err)
		}
		if n > 1000 {
			t.Fatal(err)
		}
	}
}
