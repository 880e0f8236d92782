package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAdoptionKilled kills a daemon at its system calls while it adopts a region: from its first to that with which the worker that died while nobody
// watched runs again. The next daemon adopts what the killed one left: the same living worker, all messages, and one process for the other worker.
func TestAdoptionKilled(t *testing.T) {
	begin, y, points := time.Now(), newTally(), 24
	if torture() {
		points = -1
	}
	for _, r := range run(t, y, job{Adopt: points}) {
		if r.N == 0 {
			t.Logf("an adoption has %d calls", r.Counts["all"])
		}
	}
	y.report(t, "deaths of a daemon that adopts", begin)
}

// A region that daemons adopt and die.
type estate struct {
	*runner
	idle int // the worker that lives on
}

const estateMessages = 5

// adoptions kills daemons that adopt one region, at more and more of their calls.
func (r *runner) adoptions(out *json.Encoder) {
	e := &estate{runner: r}
	cmd, b := r.daemon()
	apart(func() {
		for i := range estateMessages {
			if text, code := r.shmctl("pub", "jobs", fmt.Sprintf("message %d", i)); code != 0 {
				panic(text)
			}
		}
		ws := e.workers()
		e.idle = ws["idle.0"].Pid
		end(cmd, b)
	})
	all := e.adoption(fault{Kill: true}) // the calls there are
	step := 1
	if r.Adopt > 0 {
		step = max(1, all.Counts["all"]/r.Adopt)
	}
	for n := 1; n <= all.Counts["all"]; n += step {
		res := e.adoption(fault{Kill: true, N: n})
		out.Encode(res)
		if res.Hit == "" { // it had fewer calls than the first
			break
		}
	}
	apart(func() {
		cmd, b := e.next()
		text, code := r.shmctl("sub", "jobs", "-n", fmt.Sprint(estateMessages), "--timeout", "10s")
		for i := range estateMessages {
			if code != 0 || strings.Count(text, fmt.Sprintf("message %d\n", i)) != 1 {
				all.Bad = append(all.Bad, fmt.Sprintf("messages: exit code %d: %s", code, text))
				break
			}
		}
		if text, code := r.shmctl("stop"); code != 0 {
			all.Bad = append(all.Bad, fmt.Sprintf("shmctl stop: exit code %d: %s", code, text))
			syscall.Kill(-1, syscall.SIGKILL)
		}
		<-b.eof
		cmd.Wait()
	})
	if left := leftovers(); len(left) > 0 {
		all.Bad = append(all.Bad, "left: "+strings.Join(left, "; "))
	}
	out.Encode(all)
}

// adoption is one daemon that is killed while it adopts, or just after, and the next one.
func (e *estate) adoption(f fault) (res result) {
	begin := time.Now()
	apart(func() { // nobody watches
		for _, pid := range sleepers() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	x := newTracer(f)
	b, ws, bad := e.trace(x, []string{e.Bin + "/shmd", "-c", e.Dir + "/shmd.toml", "--log-level", "debug"}, func(b *logbook, exited chan struct{}) {
		for _, text := range []string{`"@message":"region adopted"`, `"@message":"worker ready"`} {
			select {
			case <-b.says(text):
			case <-exited:
				return
			}
		}
		x.calm.Store(true)
		syscall.Kill(x.pid, syscall.SIGKILL)
	})
	res.N, res.Hit, res.Bad, res.How = f.N, x.hit, bad, works
	if ws.Exited() {
		res.Bad = append(res.Bad, fmt.Sprintf("it was not killed, and ended with %d", ws.ExitStatus()))
	}
	res.Counts = map[string]int{"all": x.count}
	log := b.String()
	if m := panics.FindString(log); m != "" {
		res.Bad = append(res.Bad, fmt.Sprintf("it says %q", m))
	}
	apart(func() {
		cmd, b := e.next()
		ws := e.workers()
		if w := ws["idle.0"]; w.Pid != e.idle || w.State != "ready" {
			res.Bad = append(res.Bad, fmt.Sprintf("idle.0 was process %d, and is %+v", e.idle, w))
		}
		w, pids := ws["sleep.0"], sleepers()
		sound := func() bool { return len(pids) == 1 && w.Pid == pids[0] && w.State == "ready" }
		for end := time.Now().Add(limit); !sound() && time.Now().Before(end); { // in the middle of an exec a process has no command line
			w, pids = e.workers()["sleep.0"], sleepers()
		}
		if !sound() {
			res.Bad = append(res.Bad, fmt.Sprintf("sleep.0 is %+v, and there are processes %v", w, pids))
		}
		if text, code := e.shmctl("verify"); code != 0 {
			res.Bad = append(res.Bad, "verify: "+text)
		}
		end(cmd, b)
		if len(res.Bad) > 0 {
			res.Log = log + "\n--- the next:\n" + b.String()
		}
	})
	res.Ms = time.Since(begin).Milliseconds()
	return res
}

// next starts a daemon that nobody disturbs, and waits until it has adopted the region and all workers are ready.
func (e *estate) next() (*exec.Cmd, *logbook) {
	in, out := pipe()
	cmd := exec.Command(e.Bin+"/shmd", "-c", e.Dir+"/shmd.toml", "--log-level", "debug")
	cmd.Env, cmd.Stdout, cmd.Stderr = e.env, out, out
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	out.Close()
	b := newLogbook(in)
	select {
	case <-b.says(`"@message":"region adopted"`):
	case <-b.eof:
	}
	e.shmctl("wait", "--for=ready") // what is not is told by whoever looks then
	return cmd, b
}

// end kills a daemon.
func end(cmd *exec.Cmd, b *logbook) {
	cmd.Process.Kill()
	cmd.Wait()
	<-b.eof
}

type estateWorker struct {
	Name, State string
	Pid         int
}

func (e *estate) workers() map[string]estateWorker {
	var list struct{ Workers []estateWorker }
	text, code := e.shmctl("ps", "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil || code != 0 {
		return map[string]estateWorker{"": {Name: text}}
	}
	m := map[string]estateWorker{}
	for _, w := range list.Workers {
		m[w.Name] = w
	}
	return m
}

// sleepers are the processes of the worker that does not attach.
func sleepers() (pids []int) {
	for _, dir := range entries("/proc") {
		b, err := os.ReadFile(filepath.Join("/proc", dir, "cmdline"))
		if err == nil && string(b) == "sleep\x001000\x00" {
			var pid int
			fmt.Sscan(dir, &pid)
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}
