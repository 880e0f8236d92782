package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

// Lines come with worker, group, pid and stream, whatever bytes they are made of, into the log and into shmctl logs.
func TestOutputIsCaptured(t *testing.T) {
	t.Parallel()
	dir := testregion.Dir(t)
	garbage := make([]byte, 4096)
	for i := range garbage {
		garbage[i] = byte(i * 7)
	}
	long := strings.Repeat("0123456789abcdef", 2500) // 40,000 bytes
	for name, data := range map[string]string{"garbage": "\n" + string(garbage) + "\n", "long": long + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := testregion.Launch(t, named+shell("w", fmt.Sprintf(`echo "to out $$"; echo "to err $$" >&2; printf 'windows\r\n\n\ttab\n'; cat %[1]s/garbage; cat %[1]s/long; printf 'without an end'`, dir),
		"count = 2", "restart = \"never\""))
	for _, name := range []string{"w.0", "w.1"} {
		awaitState(d, name, protocol.StateExited)
		d.WaitLog(`"@message":"without an end"`, `"worker":"`+name+`"`)
		pid := records(t, d, func(r record) bool { return r.Message == "worker started" && r.Worker == name })[0].Pid
		lines := records(t, d, func(r record) bool { return r.Worker == name && r.Stream == "stdout" })
		for i, want := range []string{fmt.Sprintf("to out %d", pid), "windows", "", "\ttab", ""} {
			if got := lines[i]; got.Message != want || got.Pid != pid || got.Group != "w" || got.Level != "info" {
				t.Errorf("line %d: %+v, want %q", i, got, want)
			}
		}
		d.WaitLog(`"@message":"to err`, `"worker":"`+name+`"`)
		errs := records(t, d, func(r record) bool { return r.Worker == name && r.Stream == "stderr" })
		if len(errs) != 1 || errs[0].Message != fmt.Sprintf("to err %d", pid) || errs[0].Pid != pid {
			t.Errorf("%+v", errs)
		}
		var pieces []string
		for _, r := range lines {
			if strings.Contains(r.Message, "0123456789abcdef0123") {
				pieces = append(pieces, r.Message)
			}
		}
		if strings.Join(pieces, "") != long || len(pieces) != 3 || len(pieces[0]) != protocol.MaxLogText {
			t.Errorf("a line of %d bytes came in %d pieces, %d bytes in all", len(long), len(pieces), len(strings.Join(pieces, "")))
		}
	}
	out := shmctl(t, d, "logs", "-n", "1000000", "-o", "json")
	seen := map[string]int{}
	for line := range strings.Lines(out) {
		var r struct {
			Worker, Group, Stream, Text string
			Pid                         int
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if strings.HasPrefix(r.Text, "to ") && r.Text == fmt.Sprintf("to %s %d", strings.TrimPrefix(r.Stream, "std"), r.Pid) && r.Group == "w" {
			seen[r.Worker]++
		}
	}
	if seen["w.0"] != 2 || seen["w.1"] != 2 {
		t.Errorf("shmctl logs shows %v\n%.2000s", seen, out)
	}
}

// A worker's output is a pipe that it holds for reading too, and that blocks.
func TestOutputPipes(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+shell("w", "exec sleep 1000"))
	w := awaitState(d, "w.0", protocol.StateReady)
	for fd := 1; fd <= 2; fd++ {
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", w.Pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		var flags int
		for line := range strings.Lines(string(info)) {
			fmt.Sscanf(line, "flags: %o", &flags)
		}
		if flags&syscall.O_ACCMODE != syscall.O_RDWR || flags&syscall.O_NONBLOCK != 0 {
			t.Errorf("descriptor %d has flags %#o: want O_RDWR, and no O_NONBLOCK", fd, flags)
		}
	}
}

// A worker that prints while there is no daemon is not killed by it; when the pipe is full it waits.
func TestPrintingWithoutADaemon(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "little", "print", "consume = [\"jobs\"]", "stop_timeout = \"1h\""))
	q, send := sender(t, d)
	send("1:hello")
	d.WaitLog(`"@message":"hello"`)
	p := watch(t, awaitState(d, "little.0", protocol.StateReady).Pid)
	d.Kill()
	for range 8 {
		send("10:is anybody there?")
	}
	eventually(t, "all messages are taken", func() bool { s, err := q.Stat(); return err == nil && s.Free == s.Slots })
	if !p.alive() {
		t.Fatal("the worker died of printing")
	}
	var s stopped
	d.JSON(&s, "stop")
	if len(s.Workers) != 1 || s.Workers[0].How != "flag" || s.Workers[0].Pid != p.pid {
		t.Errorf("%+v", s)
	}
	p.ended(t)
}

func TestAFullPipeBlocksTheWriter(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+jobs+group(t, "much", "print", "consume = [\"jobs\"]", "stop_timeout = \"100ms\""))
	r := d.Attach(shm.Options{Produce: []string{"jobs"}})
	q, err := r.Queue("jobs")
	if err != nil {
		t.Fatal(err)
	}
	pid := awaitState(d, "much.0", protocol.StateReady).Pid
	p := watch(t, pid)
	d.Kill()
	if err := q.Send(within(t), []byte("1000000:more than fits into any pipe")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a thread of the worker sleeps in write", func() bool {
		calls, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		for _, c := range calls {
			if b, _ := os.ReadFile(c); strings.HasPrefix(string(b), fmt.Sprintf("%d 0x1 ", syscall.SYS_WRITE)) {
				return true
			}
		}
		return false
	})
	if !p.alive() {
		t.Fatal("the worker died of printing")
	}
	var s stopped
	d.JSON(&s, "stop")
	if len(s.Workers) != 1 || s.Workers[0].How != "term" {
		t.Errorf("%+v", s)
	}
	p.ended(t)
}

// Whoever reads the daemon's log may go away, or not read.
func TestTheLogsReader(t *testing.T) {
	t.Parallel()
	for _, goes := range []bool{true, false} {
		t.Run(map[bool]string{true: "goes away", false: "does not read"}[goes], func(t *testing.T) {
			t.Parallel()
			dir := testregion.Dir(t)
			conf := filepath.Join(dir, "shmd.toml")
			if err := os.WriteFile(conf, []byte("[region]\nname = \"unread\"\n"+idle("w", "restart = \"always\"", "backoff_min = \"1ms\"", "backoff_max = \"1ms\"")+shell("much", "yes 'much ado about nothing' | head -c 20000000; exec sleep 1000")), 0o644); err != nil {
				t.Fatal(err)
			}
			bin := testregion.Binaries(t)
			run := func(name string, args ...string) *exec.Cmd {
				cmd := exec.CommandContext(within(t), filepath.Join(bin, name), args...)
				cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+dir, "SHMCTL_REGION=unread")
				return cmd
			}
			daemon := run("shmd", "-c", conf)
			log, err := daemon.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			if out, err := run("shmctl", "wait").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if goes {
				log.Close()
			}
			// The daemon answers, and supervises: how soon is not said, this may be a busy machine. Nothing here has shmctl's patience of 100 ms.
			r, err := shm.Attach(within(t), shm.Options{Region: "unread", Socket: filepath.Join(dir, "unread.sock")})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for range 3 {
				var pid int
				become(t, r, "there", func(w protocol.Worker) bool { pid = w.Pid; return w.State == protocol.StateReady })
				syscall.Kill(pid, syscall.SIGKILL)
				become(t, r, "started again", func(w protocol.Worker) bool { return w.State == protocol.StateReady && w.Pid != pid })
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			daemon.Process.Signal(syscall.SIGTERM)
			if err := daemon.Wait(); err != nil {
				t.Errorf("the daemon ended with %v", err)
			}
		})
	}
}

// become waits until the worker w.0 is as it should.
func become(t *testing.T, r *shm.Region, what string, ok func(protocol.Worker) bool) {
	t.Helper()
	for ctx := within(t); ; {
		ws, err := r.Workers()
		if err != nil {
			t.Fatal(err)
		}
		if ok(byName(t, ws, "w.0")) {
			return
		}
		if err := r.WaitChange(ctx); err != nil {
			t.Fatalf("w.0 was never %s: %v\n%+v", what, err, ws)
		}
	}
}
