package daemon_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/dump"
	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
)

// A group that fails leaves a dump, no larger than it may be, and no more of them than are wanted.
func TestDumpOfAFailedGroup(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	region := strings.Replace(named, "\n[", "\n", 1)
	d := testregion.Launch(t, region+"dumps = 2\ndump_size = \"4MiB\"\n"+
		"[channel.huge]\nslots = 1024\nslot_size = \"8KiB\"\n"+jobs+
		shell("first", "exit 3", "crash_limit = 1", "backoff_min = \"1ms\"")+shell("second", "exit 4", "crash_limit = 1", "backoff_min = \"1ms\"", "consume = [\"jobs\"]"),
		"STATE_DIRECTORY="+dir+":/elsewhere")
	awaitState(d, "first.0", protocol.StateFailed)
	awaitState(d, "second.0", protocol.StateFailed)
	// Both fail within a moment: the dump of the other one is written after this one.
	var record struct{ File, Group string }
	if err := json.Unmarshal([]byte(d.WaitLog("dump of a failed group")), &record); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(record.File, filepath.Join(dir, "dumps")+"/") {
		t.Errorf("the file is %s", record.File)
	}
	if st, err := os.Stat(record.File); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	got, err := dump.Open(t.Context(), record.File)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Reason, "worker "+record.Group+".0 failed: ") || got.Region != d.Name {
		t.Errorf("%+v", got.Manifest)
	}
	if got.Bytes("roster") == nil || got.Bytes("group/"+record.Group) == nil || got.Bytes("huge") != nil {
		t.Errorf("what is in it: %+v", got.Segments)
	}
	if out, errs, code := d.Shmctl("verify", record.File); code != 0 || !strings.HasPrefix(out, "OK") {
		t.Errorf("verify: %s%s", out, errs)
	}
	if all, _ := filepath.Glob(filepath.Join(dir, "dumps", "*")); len(all) > 2 {
		t.Errorf("dumps = 2, and there are %v", all)
	}
}

// Groups that fail together get a dump each, as many as are kept, and it is told of whom there is none, and why.
func TestDumpsOfGroupsThatFailTogether(t *testing.T) {
	t.Parallel()
	groups := ""
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		groups += shell(name, "exit 1", "crash_limit = 1", "backoff_min = \"1ms\"")
	}
	region := strings.Replace(named, "\n[", "\n", 1)
	begin := func(keys string) (*testregion.Region, string) {
		dir := t.TempDir()
		d := testregion.Launch(t, region+keys+jobs+groups, "STATE_DIRECTORY="+dir)
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			awaitState(d, name+".0", protocol.StateFailed)
		}
		return d, dir
	}
	told := func(d *testregion.Region, n int) []record {
		var list []record
		eventually(t, "each is told of", func() bool {
			list = records(t, d, func(r record) bool {
				return strings.HasSuffix(r.Message, "ump of a failed group")
			})
			return len(list) == n
		})
		return list
	}
	d, dir := begin("dumps = 10\n")
	told(d, 5)
	if all, _ := filepath.Glob(filepath.Join(dir, "dumps", "*.dump")); len(all) != 5 {
		t.Errorf("five groups failed, and there are %v", all)
	}
	if out, _, _ := d.Shmctl("events", "dump"); strings.Count(out, "written") != 5 {
		t.Errorf("events: %s", out)
	}
	shmctl(t, d, "start", "--no-wait", "a")
	d.WaitLog("no dump of a failed group", "its group's last one was")

	d, dir = begin("dumps = 1\n")
	skipped := 0
	for _, r := range told(d, 5) {
		if r.Message == "no dump of a failed group" {
			skipped++
		}
	}
	if all, _ := filepath.Glob(filepath.Join(dir, "dumps", "*.dump")); len(all) != 1 {
		t.Errorf("dumps = 1, and there are %v", all)
	}
	if out, _, _ := d.Shmctl("events", "dump"); strings.Count(out, "skipped") != skipped {
		t.Errorf("%d are skipped: %s", skipped, out)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, _ = begin("dumps = 10\ndump_dir = \"" + file + "\"\n")
	for _, r := range told(d, 5) {
		if r.Message != "no dump of a failed group" {
			t.Errorf("%+v", r)
		}
	}
}

// A reload gives dumps another directory.
func TestDumpDirOfAReload(t *testing.T) {
	t.Parallel()
	one, two := t.TempDir(), t.TempDir()
	d := testregion.Launch(t, strings.Replace(named, "\n[", "\n", 1)+"dump_dir = \""+one+"\"\n"+jobs+shell("a", "exit 1", "crash_limit = 1", "backoff_min = \"1ms\""))
	d.WaitLog("dump of a failed group", one)
	path := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), one, two, 1) + shell("b", "exit 1", "crash_limit = 1", "backoff_min = \"1ms\"")
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "reload", "--no-wait")
	d.WaitLog("dump of a failed group", filepath.Join(two, d.Name+".b."))
}
