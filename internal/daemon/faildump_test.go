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
	// Both fail within a moment: the one that comes while the other's dump is written gets none.
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
