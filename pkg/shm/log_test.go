package shm

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// newTestLog makes a log in a segment of its own.
func newTestLog(t testing.TB, size int64) (*Log, *protocol.InstanceLog) {
	t.Helper()
	o := protocol.GroupConfig{Instances: 1, LogSize: size}
	s, err := region.Create(region.Options{Name: "group", Size: protocol.GroupSize(o)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	g, err := protocol.FormatGroup(s.Bytes(), protocol.Header{Name: "group/w", Region: "test", Generation: 1}, o)
	if err != nil {
		t.Fatal(err)
	}
	return &Log{ring: &logRing{w: g.Log(0).Resume(os.Getpid()), s: s}, level: slog.LevelInfo}, g.Log(0)
}

// records returns everything that the ring has.
func records(t testing.TB, l *protocol.InstanceLog) (all []protocol.Record) {
	t.Helper()
	for c := l.Oldest(); ; {
		r, _, ok, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return all
		}
		all = append(all, r)
	}
}

func TestLogSlog(t *testing.T) {
	l, ring := newTestLog(t, 64<<10)
	err := slogtest.TestHandler(l, func() []map[string]any {
		var all []map[string]any
		for _, r := range records(t, ring) {
			m := map[string]any{}
			if err := json.Unmarshal([]byte("{"+r.Attrs+"}"), &m); err != nil {
				t.Fatalf("attributes %q: %v", r.Attrs, err)
			}
			m[slog.LevelKey], m[slog.MessageKey] = r.Level, r.Text
			if r.Time.UnixNano() != 0 {
				m[slog.TimeKey] = r.Time
			}
			all = append(all, m)
		}
		return all
	})
	if err != nil {
		t.Error(err)
	}
}

type panics struct{}

func (*panics) Error() string { panic("no") }

func TestLogValues(t *testing.T) {
	l, ring := newTestLog(t, 64<<10)
	var none *panics
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	log := slog.New(l.WithLevel(slog.LevelDebug))
	log.Debug("text \xff\n", "s", "a\"\\\n\x01\xffü", "i", -1, "u", uint64(math.MaxUint64), "f", 1.5, "nan", math.NaN(), "b", true, "d", 1500*time.Millisecond, "t", at,
		"e", errors.New("broken"), "n", nil, "list", []int{1, 2}, "chan", make(chan int) == nil, "p", none, slog.Group("g", "x", 1, slog.Group("empty")))
	log.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h").Warn("nested", "c", 3)
	log.With("a", 1).WithGroup("g").WithGroup("h").Error("left out")
	got := records(t, ring)
	want := []struct {
		level int
		attrs string
	}{
		{7, `"s":"a\"\\\n\u0001\ufffdü","i":-1,"u":18446744073709551615,"f":1.5,"nan":"NaN","b":true,"d":"1.5s","t":"2026-01-02T03:04:05.000000006Z",` +
			`"e":"broken","n":null,"list":[1,2],"chan":false,"p":"<nil>","g":{"x":1}`},
		{4, `"a":1,"g":{"b":2,"h":{"c":3}}`},
		{3, `"a":1`},
	}
	if len(got) != len(want) {
		t.Fatalf("%d records", len(got))
	}
	for i, w := range want {
		r := got[i]
		if r.Level != w.level || r.Attrs != w.attrs || r.Pid != os.Getpid() || r.Seq != uint64(i+1) || time.Since(r.Time) > time.Minute {
			t.Errorf("record %d: %+v\nwant level %d, %s", i, r, w.level, w.attrs)
		}
		if !json.Valid([]byte("{" + r.Attrs + "}")) {
			t.Errorf("record %d: %q is no JSON", i, r.Attrs)
		}
		if !strings.HasPrefix(r.Source, "shm/log_test.go:") {
			t.Errorf("record %d: source %q", i, r.Source)
		}
	}
}

// A record that does not fit loses its attributes, and then the end of its text.
func TestLogTooLarge(t *testing.T) {
	l, ring := newTestLog(t, protocol.MinInstanceLog)
	log := slog.New(l)
	log.Info("short", "long", strings.Repeat("x", 5000))
	log.Info(strings.Repeat("ü", 5000))
	got := records(t, ring)
	if len(got) != 2 || got[0].Text != "short" || got[0].Attrs != `"cut_bytes":5009` {
		t.Fatalf("%.200v", got)
	}
	text := got[1].Text
	if n := ring.MaxEntry(); len(text) < n-200 || len(text) > n || strings.Trim(text, "ü") != "" || !strings.HasPrefix(got[1].Attrs, `"cut_bytes":`) {
		t.Errorf("%d bytes of text, attributes %q", len(text), got[1].Attrs)
	}
}

// Levels, an outsider's log, and a log that was closed.
func TestLogEnabled(t *testing.T) {
	ctx := context.Background()
	l, ring := newTestLog(t, 64<<10)
	var level slog.LevelVar
	v := l.WithLevel(&level)
	if l.Enabled(ctx, slog.LevelDebug) || !l.Enabled(ctx, slog.LevelInfo) || v.Enabled(ctx, slog.LevelDebug) {
		t.Error("info is the least by default")
	}
	level.Set(slog.LevelError)
	if v.Enabled(ctx, slog.LevelWarn) || !v.WithAttrs(nil).WithGroup("g").Enabled(ctx, slog.LevelError) {
		t.Error("the level does not follow")
	}
	var outsider Region
	if o := outsider.Log(); o.Enabled(ctx, slog.LevelError) || o.Handle(ctx, slog.Record{}) != nil {
		t.Error("an outsider has a log")
	}
	l.ring.s.Close()
	if err := l.Handle(ctx, slog.NewRecord(time.Now(), slog.LevelInfo, "late", 0)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	_ = ring
}

// Many goroutines at once: every record is there, whole, in one order.
func TestLogManyGoroutines(t *testing.T) {
	l, ring := newTestLog(t, 1<<20)
	log := slog.New(l)
	const goroutines, each = 8, 400
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				log.Info(strings.Repeat("x", i%50), "g", g, "i", i)
			}
		})
	}
	wg.Wait()
	next := map[int]int{}
	got := records(t, ring)
	for n, r := range got {
		var a struct{ G, I int }
		if err := json.Unmarshal([]byte("{"+r.Attrs+"}"), &a); err != nil || a.I != next[a.G] || len(r.Text) != a.I%50 || r.Seq != uint64(n+1) {
			t.Fatalf("record %d: %+v, %v; want number %d of it", n, r, err, next[a.G])
		}
		next[a.G]++
	}
	if len(got) != goroutines*each {
		t.Errorf("%d records of %d", len(got), goroutines*each)
	}
}

// A writer without a lock beside the Log; it ends with Close, and so does its hold on the memory.
func TestLogWriter(t *testing.T) {
	l, ring := newTestLog(t, 64<<10)
	w, err := l.Writer()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Writer(); !errors.Is(err, ErrLogHeld) {
		t.Errorf("a second writer: %v", err)
	}
	if _, err := (&Log{}).Writer(); !errors.Is(err, ErrNoLog) {
		t.Errorf("a writer of an outsider: %v", err)
	}
	if err := w.Write(&LogEntry{Level: 4, Text: "ready-made", Attrs: []byte(`"a":1`), Source: "f.go:7"}); err != nil {
		t.Fatal(err)
	}
	slog.New(l).Info("beside it")
	all := records(t, ring)
	if len(all) != 2 || all[0].Text != "ready-made" || all[0].Level != 4 || all[0].Attrs != `"a":1` || all[0].Source != "f.go:7" || all[0].Time.UnixNano() != 0 || all[1].Text != "beside it" {
		t.Errorf("%+v", all)
	}
	w.Close()
	w.Close()
	if err := w.Write(&LogEntry{Text: "late"}); !errors.Is(err, ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	if w, err = l.Writer(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := l.ring.s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Writer(); !errors.Is(err, ErrClosed) {
		t.Errorf("a writer after the region's end: %v", err)
	}
}
