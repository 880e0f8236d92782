package daemon_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
)

// A reload that makes much memory holds nobody up: what dies meanwhile is started again meanwhile.
func TestReloadBesideTheSupervisor(t *testing.T) {
	t.Parallel()
	d := testregion.Launch(t, named+shell("loops", "exit 1", `backoff_min = "1ms"`, `backoff_max = "1ms"`, "crash_limit = 0"))
	d.WaitLog("worker died")
	path := filepath.Join(d.Dir, "shmd.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "[channel.large]\nslots = 128\nslot_size = \"4MiB\"\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	shmctl(t, d, "reload")
	begun, done, starts := false, false, 0
	for line := range strings.Lines(d.Log()) {
		var e struct {
			Message string `json:"@message"`
		}
		if json.Unmarshal([]byte(line), &e) != nil {
			continue
		}
		switch e.Message {
		case "segments are made for the new configuration":
			begun = true
		case "configuration reloaded":
			done = true
		case "worker started":
			if begun && !done {
				starts++
			}
		}
	}
	if !begun || !done || starts == 0 {
		t.Errorf("begun %v, done %v, and %d starts meanwhile", begun, done, starts)
	}
}
