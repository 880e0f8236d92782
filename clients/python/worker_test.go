package python_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// segment makes a segment in a file.
func segment(t *testing.T, name string, size int64, format func(b []byte, h protocol.Header) error) *os.File {
	t.Helper()
	b := make([]byte, size)
	err := format(b, protocol.Header{Name: name, Region: "python", Generation: 1, Created: time.Unix(1, 0)})
	file := filepath.Join(t.TempDir(), name)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(file, os.O_RDWR, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Go reads what a worker in Python logs and counts.
func TestWorker(t *testing.T) {
	for _, pattern := range []string{"shmd/*.py", "tests/*.py", "../c/*.[ch]"} { // the go command's cache is to know them
		for _, file := range must(filepath.Glob(pattern)) {
			must(os.ReadFile(file))
		}
	}
	library := filepath.Join(t.TempDir(), "libshmd.so")
	python := func(files []*os.File, args ...string) (string, string) {
		t.Helper()
		var out, errs bytes.Buffer
		c := exec.Command("python3", append([]string{"-W", "error"}, args...)...)
		c.Env = append(os.Environ(), "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1", "SHMD_LIBRARY="+library, "SHMD_FDS=roster,command,group", "SHMD_WORKER=py.0")
		c.ExtraFiles, c.Stdout, c.Stderr = files, &out, &errs
		if err := c.Run(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, errs.String())
		}
		return out.String(), errs.String()
	}
	if out, _ := python(nil, "-m", "shmd.build", "-o", library); strings.TrimSpace(out) != library {
		t.Errorf("build says %s", out)
	}
	config := protocol.RosterConfig{Segments: 3, Groups: 1, Workers: 1, Attachments: 8, Dir: "/run/shmd"}
	group := protocol.GroupConfig{Instances: 1, Metrics: 12, LogSize: protocol.MinInstanceLog}
	files := []*os.File{
		segment(t, "roster", protocol.RosterSize(config), func(b []byte, h protocol.Header) error {
			r, err := protocol.FormatRoster(b, h, config)
			if err == nil {
				err = r.SetWorker(0, protocol.Worker{Name: "py.0", State: protocol.StateStarting, Since: time.Unix(1, 0)})
			}
			return err
		}),
		segment(t, "command", protocol.CommandSize(1, 1), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatCommand(b, h, 1, 1)
			return err
		}),
		segment(t, "group", protocol.GroupSize(group), func(b []byte, h protocol.Header) error {
			_, err := protocol.FormatGroup(b, h, group)
			return err
		}),
	}
	began := time.Now()
	out, errs := python(files, "tests/say.py")
	if errs != "from a child\n" {
		t.Errorf("on standard error: %s", errs)
	}
	var said struct{ Pid int }
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatal(err)
	}
	b := must(syscall.Mmap(int(files[2].Fd()), 0, int(protocol.GroupSize(group)), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED))
	defer syscall.Munmap(b)
	g := must(protocol.OpenGroup(b))

	want := []struct {
		level       int
		text, attrs string
	}{
		{7, "no fields", ""},
		{6, "fields 7", `"i":-1,"f":1.5,"nested":{"x":[1,null]},"s":"a\"\\\n\ufffdü😀","path":"<module 'sys' (built-in)>","logger":"a.b"`},
		{4, "strange", `"nan":"nan","broken":"!RuntimeError","key":"{(1, 2): 3}","n":null`},
		{3, "surrogate ?", `"s":"?"`},
		{3, "caught", `"error":"KeyError: 'k'","traceback":"Traceback (most recent call last):`},
		{3, "CRITICAL: formatted", ""},
		{6, strings.Repeat("x", 5000), `"cut_bytes":`},
		{6, "from a signal's handler", ""},
		{6, "from a thread", ""},
	}
	c := g.Log(0).Oldest()
	for i, w := range want {
		r, lost, ok, err := c.Next()
		if !ok || err != nil || lost != 0 {
			t.Fatalf("record %d: %v, %d lost, %v", i, ok, lost, err)
		}
		attrs := r.Attrs
		if i == 1 {
			attrs = strings.Replace(attrs, "\uFFFD", `\ufffd`, 1)
		}
		prefix := i == 4 || i == 6
		if r.Level != w.level || r.Pid != said.Pid || r.Seq != uint64(i+1) || r.Time.Sub(began).Abs() > time.Minute || !strings.HasPrefix(r.Source, "tests/say.py:") ||
			!(r.Text == w.text || i == 6 && len(r.Text) > 1900 && strings.HasPrefix(w.text, r.Text)) || !(attrs == w.attrs || prefix && strings.HasPrefix(attrs, w.attrs)) {
			t.Errorf("record %d is %+v, not %+v", i, r, w)
		}
		if !json.Valid([]byte("{" + r.Attrs + "}")) {
			t.Errorf("record %d: %s is no JSON", i, r.Attrs)
		}
	}
	if r, _, ok, err := c.Next(); ok || err != nil {
		t.Errorf("one more: %+v, %v", r, err)
	}

	all := g.Metrics(0).Read()
	if len(all) != 3 || all[0].Name != "jobs" || all[0].Count != 7 || all[1].Gauge != 1.5 || all[2].Count != 3 || all[2].Sum != 1<<40+5 || all[2].Help != strings.Repeat("ü", 52) ||
		slices.ContainsFunc(all, func(m protocol.Metric) bool { return m.Owner != said.Pid }) {
		t.Errorf("metrics are %+v", all)
	}
	page := g.Page(0)
	if int(page.AttachedPid.Load()) != said.Pid || page.Ready.Load() != 1 || page.HeartbeatNs.Load() < page.ReadyNs.Load() || page.Asleep.Load() != 0 || page.QuitSeenNs.Load() != 0 {
		t.Errorf("the page is of process %d, ready %d", page.AttachedPid.Load(), page.Ready.Load())
	}
	if list := protocol.Verify(b, protocol.VerifyOptions{}); len(list) > 0 {
		t.Errorf("verify: %v", list)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
