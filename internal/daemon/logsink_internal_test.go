package daemon

import (
	"bytes"
	"io"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// What a worker logs has native fields in the journal, and its attributes cannot pass for where it comes from.
func TestJournalFields(t *testing.T) {
	t.Setenv("INVOCATION_ID", "0123")
	s := &sink{region: "prod", names: []string{"parser.0"}}
	r := protocol.Record{Level: 4, Stream: protocol.StreamLog, Pid: 77, Worker: 0, Text: "slow", Source: "parse/main.go:12",
		Attrs: `"status":500,"db.host":"a b","worker":"other.1","pid":1,"code_file":"x","priority":0,"message":"m","region":"q","_trusted":1,"7":2,"g":{"h":true}`}
	pairs := s.pairs(r)
	got := s.fields(r, pairs)
	want := map[string]string{"REGION": "prod", "SYSLOG_IDENTIFIER": "shmd", "WORKER": "parser.0", "GROUP": "parser", "WORKER_PID": "77", "STREAM": "log",
		"CODE_FILE": "parse/main.go", "CODE_LINE": "12", "INVOCATION_ID": "0123", "STATUS": "500", "DB_HOST": "a b", "TRUSTED": "1", "G_H": "true"}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	about := protocol.Record{Level: 6, Stream: protocol.StreamDaemon, Pid: os.Getpid(), Worker: -1, Text: "region created", Attrs: `"workers":2`}
	if f := s.fields(about, s.pairs(about)); f["WORKERS"] != "2" || f["WORKER_PID"] != "" || f["STREAM"] != "" {
		t.Errorf("%v", f)
	}
	bad := protocol.Record{Stream: protocol.StreamLog, Worker: 0, Attrs: `"a":1,"b"`}
	if f := s.fields(bad, s.pairs(bad)); f["A"] != "1" || f["ATTRS_ERROR"] == "" || f["ATTRS"] != bad.Attrs {
		t.Errorf("%v", f)
	}
}

// A throttle lets a burst happen and then so many a second, and says how many it did not, and since when.
func TestThrottle(t *testing.T) {
	now := time.Unix(1000, 0)
	l := throttle{every: 100 * time.Millisecond, burst: 3}
	kept := 0
	for i := range 20 {
		if ok, first := l.take(now); ok {
			kept++
		} else if first != (i == 3) {
			t.Errorf("number %d: first is %v", i, first)
		}
	}
	if n, since := l.report(); kept != 3 || n != 17 || !since.Equal(now) {
		t.Errorf("%d kept, %d dropped since %v", kept, n, since)
	}
	if ok, _ := l.take(now.Add(100 * time.Millisecond)); !ok {
		t.Error("nothing after a tenth of a second")
	}
	var z throttle
	for range 25 {
		z.allow(now)
	}
	if ok, dropped := z.allow(now.Add(time.Second)); !ok || dropped != 5 {
		t.Errorf("the zero value: %v, %d dropped", ok, dropped)
	}
}

// A line that was written in part, as a full disk has it, does not take the next one with it.
func TestTornLine(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s := &sink{out: w}
	w.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	long := append(bytes.Repeat([]byte("x"), 1<<20), '\n') // a pipe takes less
	s.write(long)
	s.write([]byte("not at all\n"))
	if n, err := io.ReadFull(r, make([]byte, 4096)); err != nil {
		t.Fatal(n, err)
	}
	w.SetWriteDeadline(time.Time{})
	go func() {
		s.write([]byte("a\n"))
		s.write([]byte("b\n"))
		w.Close()
	}()
	rest, err := io.ReadAll(r)
	if got := bytes.TrimLeft(rest, "x"); err != nil || string(got) != "\na\nb\n" {
		t.Errorf("behind the torn line: %q, %v", got, err)
	}
}
