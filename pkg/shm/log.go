package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/region"
)

// Log is a worker's log as a handler for log/slog: slog.New(r.Log()). A record goes to a ring in the worker's own pages of the memory, without
// a system call unless the daemon waits for it. It is there as a whole or not at all wherever the process is killed, and outlives it:
// the daemon puts it into the region's log, and shmctl logs shows it with the daemon dead. The ring waits for nobody: records that came faster
// than they were read are lost, and whoever reads it is told how many.
//
// Times, durations and errors become strings, other values what encoding/json makes of them. A record is as large as the ring allows (an
// eighth of log_size, 16 KiB at most); one that is larger loses its attributes, and then the end of its text.
//
// A Log is safe for concurrent use. An outsider has no log: it is never enabled.
type Log struct {
	ring    *logRing // nil: never enabled
	level   slog.Leveler
	attrs   []byte   // of WithAttrs, as they stand in a record; open groups are still to be closed
	open    int      // groups that are open in attrs
	pending []string // groups that will be opened by the first attribute in them
}

// ErrLogHeld: the process has a LogWriter already.
var ErrLogHeld = protocol.ErrLogHeld

// ErrNoLog: the process is no worker, or its group has no log.
var ErrNoLog = errors.New("no log: it is a worker's, and log_size of its group says how large")

// logRing is where the records of a process go.
type logRing struct {
	w *protocol.LogWriter
	s *region.Segment // is leased while it is written
}

// Log returns the worker's log, with records from slog.LevelInfo up.
func (r *Region) Log() *Log { return &Log{ring: r.logRing, level: slog.LevelInfo} }

// WithLevel returns the same log with records from another level up: a slog.Level, or a *slog.LevelVar that changes.
func (l *Log) WithLevel(level slog.Leveler) *Log {
	c := *l
	c.level = level
	return &c
}

// Enabled implements slog.Handler.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool {
	return l.ring != nil && level >= l.level.Level()
}

// WithAttrs implements slog.Handler. The attributes are formatted once, here.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *l
	c.attrs = append([]byte(nil), l.attrs...)
	before := len(c.attrs)
	c.attrs = appendPending(c.attrs, l.pending)
	inside := len(c.attrs)
	for _, a := range attrs {
		c.attrs = appendAttr(c.attrs, a)
	}
	if len(c.attrs) == inside { // of none is anything left: no group was opened either
		c.attrs = c.attrs[:before]
		return &c
	}
	c.open, c.pending = l.open+len(l.pending), nil
	return &c
}

// WithGroup implements slog.Handler.
func (l *Log) WithGroup(name string) slog.Handler {
	if name == "" {
		return l
	}
	c := *l
	c.pending = append(append([]string(nil), l.pending...), name)
	return &c
}

// buffers are those of records while they are made.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Handle implements slog.Handler. Errors: ErrClosed after the region was closed.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	if l.ring == nil {
		return nil
	}
	p := buffers.Get().(*[]byte)
	b := append((*p)[:0], l.attrs...)
	open := l.open
	if r.NumAttrs() > 0 {
		before := len(b)
		b = appendPending(b, l.pending)
		inside := len(b)
		r.Attrs(func(a slog.Attr) bool {
			b = appendAttr(b, a)
			return true
		})
		if open += len(l.pending); len(b) == inside {
			b, open = b[:before], l.open
		}
	}
	for range open {
		b = append(b, '}')
	}
	e := protocol.LogEntry{Level: priority(r.Level), Text: r.Message, Attrs: b}
	if !r.Time.IsZero() {
		e.UnixNs = r.Time.UnixNano()
	}
	if r.PC != 0 {
		e.Source = sourceOf(r.PC)
	}
	err := l.ring.write(&e)
	if cap(b) <= 16<<10 {
		*p = b
		buffers.Put(p)
	}
	return err
}

// LogEntry is a record as LogWriter.Write takes it: text, attributes as the inside of a JSON object, such as `"a":1,"b":"x"`, and FILE:LINE. Attributes and source may be
// empty; a time of 0 is replaced by when the daemon reads the record. The level is syslog's: 3 error, 4 warning, 6 info, 7 debug.
type LogEntry = protocol.LogEntry

// LogWriter writes ready-made records to the worker's log for one goroutine at a time, without a lock: some ten nanoseconds each. It ends with Close. The Log goes on
// working for everybody else, but while there is a LogWriter each of its records costs a barrier in all threads of the process, some microseconds: a
// LogWriter is for a process in which one goroutine logs much.
type LogWriter struct {
	ring *logRing
	o    *protocol.LogOwner // nil: closed
}

// Writer takes the way without a lock; Close it before the region. Errors: ErrLogHeld while another one is open, ErrClosed, ErrNoLog in an outsider; one that says so where the
// kernel refuses membarrier(2).
func (l *Log) Writer() (*LogWriter, error) {
	if l.ring == nil {
		return nil, ErrNoLog
	}
	if err := l.ring.s.Lease(); err != nil { // until Close
		return nil, fmt.Errorf("log: %w", err)
	}
	o, err := l.ring.w.Own()
	if err != nil {
		l.ring.s.Release()
		return nil, fmt.Errorf("log: %w", err)
	}
	return &LogWriter{ring: l.ring, o: o}, nil
}

// Write writes a record. What is too large is cut, as in Log. After Close it returns ErrClosed.
func (w *LogWriter) Write(e *LogEntry) error {
	if w.o == nil {
		return ErrClosed
	}
	w.o.Write(e)
	return nil
}

// Close ends it. It is idempotent.
func (w *LogWriter) Close() {
	if w.o != nil {
		w.o.Close()
		w.o = nil
		w.ring.s.Release()
	}
}

func (r *logRing) write(e *protocol.LogEntry) error {
	if err := r.s.Lease(); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	r.w.Write(e)
	r.s.Release()
	return nil
}

// priority maps levels to syslog's.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

// sources are FILE:LINE by program counter: there are as many as there are calls in the program.
var sources sync.Map

func sourceOf(pc uintptr) string {
	if s, ok := sources.Load(pc); ok {
		return s.(string)
	}
	f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	s := ""
	if f.File != "" { // the last directory tells the package
		dir, file := filepath.Split(f.File)
		s = filepath.Base(dir) + "/" + file + ":" + strconv.Itoa(f.Line)
	}
	sources.Store(pc, s)
	return s
}

// openLog makes the process the writer of its instance's log.
func (r *Region) openLog(instance int) {
	if l := r.group.Log(instance); l != nil {
		r.logRing = &logRing{w: l.Resume(os.Getpid()), s: r.segments["group"]}
	}
}

// appendTime is how a time stands in a record.
func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = t.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}
