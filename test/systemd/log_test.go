package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// logRole makes this test binary a worker that logs through shared memory.
const logRole = "SHMD_SYSTEMD_TEST_LOGS"

// logs is that worker. One of its attributes has the name of a field that says where a record comes from.
func logs() error {
	r, err := shm.Attach(context.Background(), shm.Options{})
	if err != nil {
		return err
	}
	slog.New(r.Log()).Error("request failed", "status", 500, "worker", "another", slog.Group("db", "host", "h 1"))
	r.Ready()
	<-r.Quit().Done()
	return nil
}

// A record that a worker logs through shared memory is in the journal with native fields, and found by them.
func TestJournalHasFieldsOfRecords(t *testing.T) {
	const worker = "/usr/lib/shmd-test-worker"
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(worker) })
	if err := os.WriteFile(worker, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	configure(t, "default", fmt.Sprintf("[worker.talk]\ncommand = [%q]\nready = \"call\"\nenv.%s = \"1\"\n", worker, logRole))
	s := start(t, unit, "default")
	s.waitReady()
	s.waitJournal("the record of talk.0", func(e entry) bool {
		return e.str("WORKER") == "talk.0" && e.str("STREAM") == "log" && e.str("INVOCATION_ID") == s.invocation()
	})
	out := run(t, "journalctl", "--no-pager", "-o", "json", "WORKER=talk.0", "STATUS=500", "INVOCATION_ID="+s.invocation())
	var e entry
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("journalctl gives %q: %v", out, err)
	}
	for field, want := range map[string]string{
		"MESSAGE": `request failed status=500 worker=another db.host="h 1"`, "PRIORITY": "3", "REGION": "default", "WORKER": "talk.0", "GROUP": "talk", "STREAM": "log",
		"WORKER_PID": strconv.Itoa(s.workers()["talk.0"].Pid), "CODE_FILE": "systemd/log_test.go", "SYSLOG_IDENTIFIER": "shmd", "DB_HOST": "h 1",
		"_SYSTEMD_UNIT": unit, "_PID": s.show("MainPID"),
	} {
		if got := e.str(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	if line, err := strconv.Atoi(e.str("CODE_LINE")); err != nil || line < 20 {
		t.Errorf("CODE_LINE is %q", e.str("CODE_LINE"))
	}
}

// What a worker printed before it ended, while its daemon hung and was then killed, is in the journal: the fd store has its pipe.
func TestLastWordsOverAKillOfTheDaemon(t *testing.T) {
	configure(t, "default", `
[worker.mourned]
command = ["/bin/sh", "-c", "trap 'echo the last words; exit 0' TERM; echo listening; while :; do sleep 1000 & wait; done"]
restart = "never"
`)
	s := start(t, unit, "default")
	s.waitReady()
	is := func(message string) func(entry) bool {
		return func(e entry) bool {
			return e.str("WORKER") == "mourned.0" && e.str("MESSAGE") == message && (e.str("INVOCATION_ID") == s.invocation() || strings.Contains(message, "last"))
		}
	}
	s.waitJournal("mourned.0 listens", is("listening"))
	pid := s.workers()["mourned.0"].Pid
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	main, err := strconv.Atoi(s.show("MainPID"))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, main, syscall.SIGSTOP)
	kill(t, pid, syscall.SIGTERM)
	if ended, err := sys.PollReadable([]*os.File{pidfd}, patience); err != nil || !ended[0] {
		t.Fatalf("mourned.0 has not ended: %v", err)
	}
	before := s.invocation()
	kill(t, main, syscall.SIGKILL)
	s.waitStarted(before) // although nobody of its group will be ready again
	s.waitJournal("the last words of mourned.0", is("the last words"))
}
