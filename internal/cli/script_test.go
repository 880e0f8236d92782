package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/shm"
)

// defaultConfig is what the command "daemon" runs without -c. $REGION is replaced.
const defaultConfig = `
[region]
name = "$REGION"
[channel.jobs]
slots = 8
slot_size = "64B"
max_deliveries = 2
[worker.idle]
builtin = "idle"
count = 2
`

// patience bounds what a script waits for. It is never waited for when all is well.
const patience = 30 * time.Second

// TestScript runs testdata/script/*.txtar. Each script has a region, a runtime directory and a working directory of its own.
//
// Beside testscript's commands there are:
//
//	daemon [-c FILE]      starts shmd (the file's $REGION replaced) and goes on at once
//	exited [CODE|SIGNAL]  waits for the daemon's end
//	signal SIGNAL NAME    sends a signal to shmd, or to a worker by name
//	follow REGEXP ARG...  runs shmctl logs -f ARG... until a line matches, and then interrupts it
//	exits CODE CMD...     runs a command, which must end with this exit code
//	shape FILE            writes the shape of the JSON of the last command: each value replaced by its type
//	send CHANNEL TEXT...  sends messages
//	receive CHANNEL HOW N receives messages and gives them an ack or a nack, or holds them until the end of the script
//	outsiders N           waits until N processes that are no workers are attached
//	release               ends what send and receive attached
//	damage SEGMENT OFFSET HEX  overwrites bytes of the memory
//	mend                  undoes all damage
//	interrupt REGEXP ARG  runs shmctl ARG, and interrupts it at the first line of standard error that matches; files out and err
func TestScript(t *testing.T) {
	if err := build(); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp("", "shmctl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) }) // after the scripts, which run in parallel
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         work,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup:               setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"daemon": cmdDaemon, "exited": cmdExited, "signal": cmdSignal, "follow": cmdFollow, "exits": cmdExits, "shape": cmdShape,
			"send": cmdSend, "receive": cmdReceive, "release": cmdRelease, "outsiders": cmdOutsiders, "damage": cmdDamage, "mend": cmdMend,
			"interrupt": cmdInterrupt,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// scene is the state of one script.
type scene struct {
	region, runtime, work string
	env                   []string
	daemon                *exec.Cmd
	ended                 chan struct{} // closed when the daemon has ended
	releases              []func()      // ends what send and receive attached
	mends                 []func()      // undoes damage
}

func (s *scene) release() {
	for _, fn := range s.releases {
		fn()
	}
	s.releases = nil
}

func (s *scene) mend() {
	for _, fn := range slices.Backward(s.mends) {
		fn()
	}
	s.mends = nil
}

type sceneKey struct{}

func sceneOf(ts *testscript.TestScript) *scene { return ts.Value(sceneKey{}).(*scene) }

func setup(env *testscript.Env) error {
	s := &scene{region: fmt.Sprintf("t%08x", rand.Uint32()), work: env.WorkDir}
	var err error
	if s.runtime, err = os.MkdirTemp("", "shmctl"); err != nil { // short: the path of a socket has at most 107 bytes
		return err
	}
	if err := os.Chmod(s.runtime, 0o755); err != nil {
		return err
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("BIN", bin)
	env.Setenv("REGION", s.region)
	env.Setenv("SHMCTL_REGION", s.region)
	env.Setenv("RUNTIME_DIRECTORY", s.runtime)
	env.Setenv("SOCKET", filepath.Join(s.runtime, s.region+".sock"))
	env.Setenv("GOTRACEBACK", "all")
	golden, err := filepath.Abs("../../pkg/protocol/testdata/golden")
	if err != nil {
		return err
	}
	env.Setenv("GOLDEN", golden)
	s.env = slices.Clone(env.Vars)
	env.Values[sceneKey{}] = s
	env.Defer(func() {
		s.mend()
		s.release()
		if err := s.end(); err != nil {
			env.T().Log(err)
			env.T().FailNow()
		}
	})
	return nil
}

// end stops what the script left running, by its exact pids, and removes its directory.
func (s *scene) end() error {
	defer os.RemoveAll(s.runtime)
	if s.daemon == nil {
		return nil
	}
	s.daemon.Process.Signal(syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stop := exec.CommandContext(ctx, filepath.Join(bin, "shmctl"), "stop", "--timeout=20s")
	stop.Env = s.env
	said, _ := stop.CombinedOutput() // 4 if all has ended already
	s.daemon.Process.Kill()
	<-s.ended
	left, err := holdersOf(s.region)
	if err != nil || len(left) == 0 {
		return err
	}
	for _, pid := range left { // they hold this test's memory, so they are this test's
		syscall.Kill(pid, syscall.SIGKILL)
	}
	log, _ := os.ReadFile(filepath.Join(s.work, "shmd.log"))
	return fmt.Errorf("processes %v were left behind by region %s and had to be killed; shmctl stop: %s\n%s", left, s.region, said, log)
}

// holdersOf lists the processes that hold memory of a region, this one not counted.
func holdersOf(region string) (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if held, _ := heldBy(pid, []byte("/memfd:shmd:"+region+":")); len(held) > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	text := defaultConfig
	if len(args) == 2 && args[0] == "-c" {
		text = ts.ReadFile(args[1])
	} else if len(args) > 0 {
		ts.Fatalf("usage: daemon [-c FILE]")
	}
	path := filepath.Join(s.work, "shmd.toml")
	ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(text, "$REGION", s.region)), 0o644))
	log, err := os.OpenFile(filepath.Join(s.work, "shmd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	ts.Check(err)
	defer log.Close()
	if s.daemon != nil {
		<-s.ended
	}
	s.daemon = exec.Command(filepath.Join(bin, "shmd"), "-c", path)
	s.daemon.Env, s.daemon.Dir, s.daemon.Stdout, s.daemon.Stderr = s.env, s.work, log, log
	ts.Check(s.daemon.Start())
	s.ended = make(chan struct{})
	go func(c *exec.Cmd, ended chan struct{}) {
		c.Wait()
		close(ended)
	}(s.daemon, s.ended)
}

func cmdExited(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	select {
	case <-s.ended:
	case <-time.After(patience):
		ts.Fatalf("the daemon has not ended within %v", patience)
	}
	state := s.daemon.ProcessState
	got := strconv.Itoa(state.ExitCode())
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		got = signalName(ws.Signal())
	}
	if len(args) == 1 && got != args[0] {
		ts.Fatalf("the daemon ended with %s, not %s; its log:\n%s", got, args[0], ts.ReadFile("shmd.log"))
	}
}

var signals = map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}

func signalName(sig syscall.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return sig.String()
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	if len(args) != 2 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal %s (shmd|WORKER)", strings.Join(slices.Sorted(maps.Keys(signals)), "|"))
	}
	pid := s.daemon.Process.Pid
	if args[1] != "shmd" {
		pid = s.pid(ts, args[1])
	}
	ts.Check(syscall.Kill(pid, signals[args[0]]))
	if args[0] != "STOP" {
		return
	}
	for deadline := time.Now().Add(patience); ; { // no event tells of it
		if state, err := sys.ProcState(pid); err != nil || state == 'T' {
			ts.Check(err)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("process %d does not stop", pid)
		}
	}
}

func cmdFollow(ts *testscript.TestScript, neg bool, args []string) {
	s := sceneOf(ts)
	if len(args) == 0 {
		ts.Fatalf("usage: follow REGEXP ARG...")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "shmctl"), append([]string{"logs", "-f", "-n", "all"}, args[1:]...)...)
	c.Env = s.env
	out, err := c.StdoutPipe()
	ts.Check(err)
	ts.Check(c.Start())
	seen := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		seen += lines.Text() + "\n"
		if want.MatchString(lines.Text()) {
			c.Process.Signal(os.Interrupt)
			if err := c.Wait(); err != nil {
				ts.Fatalf("interrupted, it ended with %v", err)
			}
			return
		}
	}
	c.Wait()
	ts.Fatalf("no line matches %s in:\n%s", args[0], seen)
}

// cmdInterrupt interrupts shmctl when a line of its standard error matches. What it printed is in the files out and err then.
func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: interrupt REGEXP ARG...")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "shmctl"), args[1:]...)
	c.Env = sceneOf(ts).env
	var out bytes.Buffer
	c.Stdout = &out
	pipe, err := c.StderrPipe()
	ts.Check(err)
	ts.Check(c.Start())
	seen, done := "", false
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		seen += lines.Text() + "\n"
		if !done && want.MatchString(lines.Text()) {
			done = true
			c.Process.Signal(os.Interrupt)
		}
	}
	if err := c.Wait(); err == nil || !done {
		ts.Fatalf("it ended with %v: %s%s", err, out.String(), seen)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), []byte(seen), 0o644))
}

// psJSON is what ps -a -o json prints.
type psJSON struct {
	workersJSON
	Attachments []attachmentJSON `json:"attachments"`
}

func (s *scene) ps(ts *testscript.TestScript, args ...string) (doc psJSON) {
	c := exec.Command(filepath.Join(bin, "shmctl"), append([]string{"ps", "-a", "-q", "-o", "json"}, args...)...)
	c.Env = s.env
	out, err := c.Output()
	ts.Check(err)
	ts.Check(json.Unmarshal(out, &doc))
	return doc
}

func cmdOutsiders(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: outsiders N")
	}
	for deadline := time.Now().Add(patience); strconv.Itoa(len(sceneOf(ts).ps(ts).Attachments)) != args[0]; {
		if time.Now().After(deadline) {
			ts.Fatalf("not %s outsiders within %v", args[0], patience)
		}
	}
}

// pid asks for a worker's pid.
func (s *scene) pid(ts *testscript.TestScript, worker string) int {
	doc := s.ps(ts, worker)
	if len(doc.Workers) != 1 || doc.Workers[0].Pid == 0 {
		ts.Fatalf("worker %s has no process", worker)
	}
	return int(doc.Workers[0].Pid)
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

func cmdShape(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: shape FILE")
	}
	var out bytes.Buffer
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	d.UseNumber()
	ts.Check(shape(&out, d, ""))
	if d.More() {
		ts.Fatalf("there is more than one document")
	}
	out.WriteByte('\n')
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out.Bytes(), 0o644))
}

// shape writes the next value of d with types for values; of a list it shows the first element.
func shape(out *bytes.Buffer, d *json.Decoder, indent string) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case json.Delim:
		inner := indent + "  "
		n := 0
		if t == '{' {
			out.WriteString("{")
			for ; d.More(); n++ {
				key, err := d.Token()
				if err != nil {
					return err
				}
				fmt.Fprintf(out, "\n%s%s: ", inner, key)
				if err := shape(out, d, inner); err != nil {
					return err
				}
			}
			fmt.Fprintf(out, "\n%s}", indent)
		} else {
			out.WriteString("[")
			for ; d.More(); n++ {
				keep := out.Len()
				if err := shape(out, d, indent); err != nil {
					return err
				}
				if n > 0 {
					out.Truncate(keep)
				}
			}
			out.WriteString("]")
		}
		_, err := d.Token()
		return err
	case string:
		out.WriteString("string")
	case json.Number:
		out.WriteString("number")
	case bool:
		out.WriteString("bool")
	default:
		out.WriteString("null")
	}
	return nil
}

// attachTo attaches this process to a channel until the script ends.
func (s *scene) attachTo(ts *testscript.TestScript, o shm.Options, channel string) *shm.Queue {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o.Region, o.Socket, o.Name = s.region, filepath.Join(s.runtime, s.region+".sock"), "test"
	r, err := shm.Attach(ctx, o)
	ts.Check(err)
	s.releases = append(s.releases, func() { r.Close() })
	q, err := r.Queue(channel)
	ts.Check(err)
	return q
}

func cmdSend(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: send CHANNEL TEXT...")
	}
	q := sceneOf(ts).attachTo(ts, shm.Options{Produce: args[:1]}, args[0])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, text := range args[1:] {
		ts.Check(q.Send(ctx, []byte(text)))
	}
}

func cmdReceive(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: receive CHANNEL (ack|nack|hold) N")
	}
	s := sceneOf(ts)
	q := s.attachTo(ts, shm.Options{Consume: args[:1]}, args[0])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	for range n {
		m, err := q.Receive(ctx)
		ts.Check(err)
		switch args[1] {
		case "ack":
			ts.Check(m.Ack())
		case "nack":
			ts.Check(m.Nack())
		default:
			s.releases = append([]func(){func() { m.Nack() }}, s.releases...)
		}
	}
}

// cmdDamage writes into a segment through one of the daemon's descriptors.
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: damage SEGMENT OFFSET HEX")
	}
	s := sceneOf(ts)
	offset, err := strconv.ParseInt(args[1], 0, 64)
	ts.Check(err)
	var b []byte
	_, err = fmt.Sscanf(args[2], "%x", &b)
	ts.Check(err)
	dir := fmt.Sprintf("/proc/%d/fd", s.daemon.Process.Pid)
	fds, err := os.ReadDir(dir)
	ts.Check(err)
	for _, fd := range fds {
		path := filepath.Join(dir, fd.Name())
		if link, _ := os.Readlink(path); link == "/memfd:shmd:"+s.region+":"+args[0]+" (deleted)" {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			ts.Check(err)
			old := make([]byte, len(b))
			_, err = f.ReadAt(old, offset)
			ts.Check(err)
			_, err = f.WriteAt(b, offset)
			ts.Check(err)
			s.mends = append(s.mends, func() {
				f.WriteAt(old, offset)
				f.Close()
			})
			return
		}
	}
	ts.Fatalf("the daemon has no segment %q", args[0])
}

func cmdMend(ts *testscript.TestScript, neg bool, args []string) { sceneOf(ts).mend() }

func cmdRelease(ts *testscript.TestScript, neg bool, args []string) { sceneOf(ts).release() }
