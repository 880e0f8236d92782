package daemon

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"

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

// Records that a full disk does not take are counted, and how many there were is said before the next one that it takes; the log segment has all of
// them, and says once that the others are missing elsewhere.
func TestRecordsThatNobodyTakesAreCounted(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	segment, err := protocol.FormatLog(make([]byte, protocol.LogSize(64<<10, 64<<10)), protocol.Header{Name: "log", Region: "test", Generation: 1, Created: time.Now()}, 64<<10, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	log, s := newLogger(file, "test", hclog.Info)
	s.attach(segment, nil)
	to := func(f *os.File) { s.spool.put(0, spoolForAll, func() { s.out = f }) }
	for range 2 {
		to(full)
		for range 3 {
			log.Info("not there")
		}
		to(file)
		log.Info("there")
	}
	s.spool.end()
	lines, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(lines)), "\n")
	if len(got) != 4 {
		t.Fatalf("the file has %d lines:\n%s", len(got), lines)
	}
	for i, line := range got {
		want := []string{`"records":3`, "no space left on device"}
		if i%2 == 1 {
			want = []string{`"there"`}
		}
		for _, w := range want {
			if !strings.Contains(line, w) {
				t.Errorf("line %d is %s, without %s", i+1, line, w)
			}
		}
	}
	said, all := 0, 0
	for c := segment.Oldest(); ; {
		r, _, ok, err := c.Next()
		if !ok || err != nil {
			break
		}
		if all++; r.Text == logRefused && strings.Contains(r.Attrs, "no space left on device") {
			said++
		}
	}
	if said != 2 || all != 10 {
		t.Errorf("the segment has %d records, %d of them about the others", all, said)
	}
}

// What the journal does not take is counted likewise.
func TestRecordsThatTheJournalDoesNotTake(t *testing.T) {
	s := &sink{spool: newSpool()}
	s.give(protocol.Record{Time: time.Now(), Level: 7, Text: "shmd's own test"}, nil, spoolForAll)
	s.spool.end()
	if want := !journal.Enabled(); want != (s.refused == 1 && s.failure != nil) {
		t.Errorf("there is a journal: %v; %d records count as dropped, the error is %v", !want, s.refused, s.failure)
	}
}
