package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A region is a running shmd with the channels of one contest.
type region struct {
	name, socket string
	cmd          *exec.Cmd
	log          []string
	ended        chan struct{}
}

// startRegion starts a daemon with the channels that toml describes and returns when its socket is there.
func (l *lab) startRegion(toml string) error {
	l.stopRegion()
	l.runs++
	r := &region{name: fmt.Sprintf("bench-%d-%d", os.Getpid(), l.runs), ended: make(chan struct{})}
	r.socket = filepath.Join(l.dir, r.name+".sock")
	conf := filepath.Join(l.dir, "shmd.toml")
	text := fmt.Sprintf("[region]\nname = %q\nprefault = true\n%s\n[worker.idle]\nbuiltin = \"idle\"\n", r.name, toml)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	r.cmd = exec.Command(filepath.Join(l.dir, "shmd"), "-c", conf)
	r.cmd.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+l.dir)
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	created := make(chan bool, 1)
	go func() {
		defer close(r.ended)
		defer close(created)
		for in := bufio.NewScanner(stderr); in.Scan(); {
			r.log = append(r.log, in.Text())
			if strings.Contains(in.Text(), "region created") {
				created <- true
			}
		}
	}()
	l.region = r
	select {
	case ok := <-created:
		if ok {
			return nil
		}
	case <-time.After(30 * time.Second):
		r.cmd.Process.Kill()
	}
	<-r.ended
	r.cmd.Wait()
	l.region = nil
	return fmt.Errorf("shmd did not start; its log:\n%s\nits configuration:\n%s", strings.Join(r.log, "\n"), text)
}

func (l *lab) stopRegion() {
	r := l.region
	if r == nil {
		return
	}
	l.region = nil
	r.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(30*time.Second, func() { r.cmd.Process.Kill() })
	defer timer.Stop()
	<-r.ended
	r.cmd.Wait()
}

// segment returns the size of a segment of the region in bytes.
func (r *region) segment(name string) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", r.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var seen []string
	for _, e := range entries {
		link, _ := os.Readlink(filepath.Join(dir, e.Name()))
		memfd, ok := strings.CutPrefix(link, "/memfd:")
		if !ok {
			continue
		}
		memfd = strings.TrimSuffix(memfd, " (deleted)")
		seen = append(seen, memfd)
		if memfd != name && !strings.HasSuffix(memfd, "/"+name) && !strings.HasSuffix(memfd, ":"+name) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, err
		}
		return int(info.Size()), nil
	}
	return 0, fmt.Errorf("the daemon has no segment %q; it has %q", name, seen)
}

// pids returns the daemon and its children.
func (r *region) pids() ([]int, error) {
	daemon := r.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", daemon, daemon))
	pids := []int{daemon}
	for _, f := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(f); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
