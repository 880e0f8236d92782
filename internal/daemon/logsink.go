package daemon

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/pkg/protocol"
)

// newLogger returns the daemon's logger. It writes to out: to the journal in its native format if out is connected to it, as text
// if out is a terminal, else as JSON, one object a line. Records also go to the region's log segment once there is one (ring).
// It never waits for whoever reads the log: see spool.
func newLogger(out *os.File, region string, level hclog.Level) (hclog.InterceptLogger, *ring, *spool) {
	s := newSpool()
	o := &hclog.LoggerOptions{Name: "shmd", Level: level, Output: spooledFile{out, s}, JSONFormat: !isTerminal(out), TimeFormat: "2006-01-02T15:04:05.000Z07:00"}
	if isTerminal(out) && os.Getenv("NO_COLOR") == "" {
		o.Color = hclog.ForceColor
	}
	toJournal, _ := journal.StderrIsJournalStream()
	toJournal = toJournal && out == os.Stderr
	if toJournal {
		o.Output = io.Discard
	}
	log := hclog.NewInterceptLogger(o)
	r := &ring{level: level}
	log.RegisterSink(r)
	if toJournal {
		log.RegisterSink(toJournald{region, level, s})
	}
	return log, r, s
}

// spooledFile is a file that is written through a spool. Each Write is one record.
type spooledFile struct {
	f *os.File
	s *spool
}

func (w spooledFile) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	w.s.put(len(p), func() { w.f.Write(p) })
	return len(p), nil
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && st.Mode()&os.ModeDevice != 0 && f.Name() != os.DevNull
}

// priority maps hclog's levels to syslog's.
func priority(l hclog.Level) journal.Priority {
	switch {
	case l >= hclog.Error:
		return journal.PriErr
	case l == hclog.Warn:
		return journal.PriWarning
	case l == hclog.Info:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// ring puts records into the region's log segment.
type ring struct {
	level   hclog.Level // the least that is kept
	mu      sync.Mutex  // the log has one writer at a time
	log     *protocol.Log
	workers map[string]int // index by name
}

// attach makes the records go to a log segment from now on.
func (r *ring) attach(log *protocol.Log, workers map[string]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, r.workers = log, workers
}

// detach ends that, before the segment is unmapped.
func (r *ring) detach() { r.attach(nil, nil) }

// Accept implements hclog.SinkAdapter.
func (r *ring) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < r.level {
		return
	}
	rec := protocol.Record{Time: time.Now(), Level: int(priority(level)), Stream: protocol.StreamDaemon, Pid: os.Getpid(), Worker: -1, Text: msg}
	name, isLine, rest := fields(args)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		return
	}
	if i, ok := r.workers[name]; ok {
		rec.Worker = i
	}
	if pid, ok := rest["pid"].(int); ok {
		rec.Pid = pid
	}
	if isLine {
		rec.Stream = protocol.StreamStdout
		if rest["stream"] == protocol.StreamStderr.String() {
			rec.Stream = protocol.StreamStderr
		}
	} else {
		rec.Text = withFields(msg, args)
	}
	r.log.Write(rec)
}

// fields looks for what the log segment has fields of its own for. isLine: it is a line that a worker wrote.
func fields(args []any) (worker string, isLine bool, all map[string]any) {
	all = map[string]any{}
	for i := 0; i+1 < len(args); i += 2 {
		if k, ok := args[i].(string); ok {
			all[k] = args[i+1]
		}
	}
	worker, _ = all["worker"].(string)
	_, isLine = all["stream"].(string)
	return worker, isLine, all
}

// withFields appends key=value pairs to a message.
func withFields(msg string, args []any) string {
	var b strings.Builder
	b.WriteString(msg)
	for i := 0; i+1 < len(args); i += 2 {
		v := fmt.Sprint(args[i+1])
		if strings.ContainsAny(v, " \"\n=") {
			v = fmt.Sprintf("%q", v)
		}
		fmt.Fprintf(&b, " %v=%s", args[i], v)
	}
	return b.String()
}

// toJournald sends records to the journal with native fields.
type toJournald struct {
	region string
	level  hclog.Level
	s      *spool
}

// Accept implements hclog.SinkAdapter.
func (j toJournald) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < j.level {
		return
	}
	_, isLine, all := fields(args)
	vars := map[string]string{"REGION": j.region, "SYSLOG_IDENTIFIER": "shmd"}
	for k, v := range all {
		vars[journalName(k)] = fmt.Sprint(v)
	}
	if pid, ok := vars["PID"]; ok {
		delete(vars, "PID")
		vars["WORKER_PID"] = pid
	}
	if !isLine {
		msg = withFields(msg, args)
	}
	j.s.put(len(msg), func() { journal.Send(msg, priority(level), vars) })
}

// journalName makes a journal field of a key: capitals, digits and underscores.
func journalName(k string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToUpper(k))
}
