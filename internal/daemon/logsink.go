package daemon

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/attrs"
	"github.com/shmd/shmd/pkg/protocol"
)

// newLogger returns the daemon's logger. What is logged goes to sink; the logger itself writes nothing.
func newLogger(out *os.File, region string, level hclog.Level) (hclog.InterceptLogger, *sink) {
	s := &sink{level: level, region: region, out: out, spool: newSpool()}
	o := hclog.LoggerOptions{Name: "shmd", Level: level, JSONFormat: !isTerminal(out), TimeFormat: "2006-01-02T15:04:05.000Z07:00"}
	if isTerminal(out) && os.Getenv("NO_COLOR") == "" {
		o.Color = hclog.ForceColor
	}
	if toJournal, _ := journal.StderrIsJournalStream(); !toJournal || out != os.Stderr {
		text := o
		text.Output, text.TimeFn = &s.line, func() time.Time { return s.at }
		s.text = hclog.New(&text)
	}
	o.Output, o.Exclude = io.Discard, func(hclog.Level, string, ...any) bool { return true }
	log := hclog.NewInterceptLogger(&o)
	log.RegisterSink(s)
	return log, s
}

func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && st.Mode()&os.ModeDevice != 0 && f.Name() != os.DevNull
}

// sink is where every record goes: what the daemon logs, lines that workers write, and records from their logs. It puts each into the
// region's log segment, once there is one, and then hands it to whoever reads the daemon's log: to the journal in its native format if
// standard error is connected to it, as text if it is a terminal, else as JSON, one object a line. It waits for nobody: see spool.
//
// How far the handing over has come is in the segment (LogInfo.Given), so that the next daemon goes on there.
type sink struct {
	level  hclog.Level // the least that is kept of what the daemon logs, and handed over
	region string
	out    *os.File
	spool  *spool

	// The spool's goroutine has these.
	torn    bool  // the last line that was written to out has no end
	refused int   // records that nobody took since the last that was taken: a full disk, a reader that is gone, no journal
	failure error // why

	mu      sync.Mutex   // the order is the same everywhere, and the log segment has one writer at a time
	text    hclog.Logger // writes to line; nil: the journal gets the records
	line    bytes.Buffer
	at      time.Time // of the record that text formats
	log     *protocol.Log
	workers map[string]int // index by name
	names   []string       // by index
}

// attach makes the records go to a log segment from now on.
func (s *sink) attach(log *protocol.Log, workers map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Clone(s.names)
	for name, i := range workers {
		for len(names) <= i {
			names = append(names, "")
		}
		names[i] = name
	}
	s.log, s.workers, s.names = log, workers, names
}

// reuse says in a log that the row of a worker that is gone becomes another's, before it does.
func (s *sink) reuse(log *protocol.Log, i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	log.Write(protocol.Record{Time: time.Now(), Level: int(journal.PriDebug), Stream: protocol.StreamDaemon, Pid: os.Getpid(), Worker: i, Text: rowReused})
}

// handOn hands over what an earlier daemon put into the log segment and did not come to hand over.
func (s *sink) handOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	given := log.Given().Load()
	for c := log.Oldest(); ; {
		r, _, ok, err := c.Next()
		if !ok || err != nil {
			break
		}
		if r.Seq > given {
			s.give(r, s.pairs(r), spoolForAll)
		}
	}
}

// rowReused is what the log says where the row of a worker that is gone becomes another's: what comes before is not about the latter.
const rowReused = "another worker has this row of the roster from now on"

// detach ends that, before the segment is unmapped.
func (s *sink) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// Accept implements hclog.SinkAdapter: it is what the daemon logs, and the lines that workers write.
func (s *sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < s.level {
		return
	}
	r := protocol.Record{Time: time.Now(), Level: int(priority(level)), Stream: protocol.StreamDaemon, Pid: os.Getpid(), Worker: -1, Text: msg}
	for i := 0; i+1 < len(args); i += 2 {
		switch v := args[i+1].(type) {
		case int:
			if args[i] == "pid" {
				r.Pid = v
			}
		case protocol.Stream:
			r.Stream = v
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; i+1 < len(args); i += 2 {
		if name, ok := args[i+1].(string); ok && args[i] == "worker" {
			if k, ok := s.workers[name]; ok {
				r.Worker = k
			}
		}
	}
	if r.Stream == protocol.StreamDaemon {
		r.Attrs = attrs.Format(args)
	}
	s.keep(&r)
	s.give(r, args, spoolForAll)
}

// record takes a record from a worker's log. If the reader of the daemon's log does not keep up it is left out there.
func (s *sink) record(r protocol.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(&r)
	if levelOf(r.Level) >= s.level {
		s.give(r, s.pairs(r), spoolForLines)
	}
}

// keep puts a record into the log segment.
func (s *sink) keep(r *protocol.Record) {
	if s.log != nil {
		r.Seq = s.log.Write(*r)
	}
}

// pairs are the keys and values of a record, as hclog takes them.
func (s *sink) pairs(r protocol.Record) (pairs []any) {
	list, err := attrs.Parse(r.Attrs)
	for _, a := range list {
		pairs = append(pairs, a.Key, a.Value)
	}
	if err != nil {
		pairs = append(pairs, "attrs", r.Attrs, "attrs_error", err)
	}
	if r.Stream == protocol.StreamDaemon {
		return pairs
	}
	if r.Worker >= 0 && r.Worker < len(s.names) {
		name := s.names[r.Worker]
		pairs = append(pairs, "worker", name, "group", name[:max(strings.LastIndexByte(name, '.'), 0)])
	}
	pairs = append(pairs, "pid", r.Pid, "stream", r.Stream)
	if r.Source != "" {
		pairs = append(pairs, "source", r.Source)
	}
	return pairs
}

// give hands a record over, when it is its turn.
func (s *sink) give(r protocol.Record, pairs []any, room int) {
	for i, v := range pairs {
		if stream, ok := v.(protocol.Stream); ok {
			pairs[i] = stream.String()
		}
	}
	if s.text == nil {
		vars := s.fields(r, pairs)
		s.spool.put(len(r.Text)+len(r.Attrs), room, func() { s.hand(r.Seq, func() error { return send(r, vars) }) })
		return
	}
	line := s.format(r, pairs)
	s.spool.put(len(line), room, func() { s.hand(r.Seq, func() error { return s.write(line) }) })
}

// send sends a record with these fields to the journal.
func send(r protocol.Record, vars map[string]string) error {
	text := r.Text
	if r.Attrs != "" {
		list, _ := attrs.Parse(r.Attrs)
		text += " " + attrs.Text(list)
	}
	return journal.Send(text, journal.Priority(r.Level), vars)
}

// format makes a line of a record.
func (s *sink) format(r protocol.Record, pairs []any) []byte {
	s.line.Reset()
	s.at = r.Time
	s.text.Log(levelOf(r.Level), r.Text, pairs...)
	return bytes.Clone(s.line.Bytes())
}

// hand hands one record over. One that nobody takes is dropped, and counted: how many there were is said before the next one that is taken, so
// that it is known where they are missing. The log segment has them all, and says when it began.
func (s *sink) hand(seq uint64, out func() error) {
	err := error(nil)
	if s.refused > 0 {
		err = s.tell()
	}
	if err == nil {
		s.refused, err = 0, out()
	}
	if s.failure = err; err != nil {
		s.refused++
	}
	if s.refused == 1 {
		r := warning(logRefused, "error", err)
		s.mu.Lock()
		s.keep(&r)
		s.mu.Unlock()
	}
	s.given(seq)
}

// What is said of records that nobody took: when it begins, in the log segment, and when it is over, where they are missing.
const (
	logRefused = "the daemon's log cannot be written: records are dropped there until it can be; shmctl logs has them"
	logMissing = "log records were dropped: the daemon's log could not be written; shmctl logs has them"
)

// warning is a record of the daemon itself.
func warning(text string, pairs ...any) protocol.Record {
	return protocol.Record{Time: time.Now(), Level: int(journal.PriWarning), Stream: protocol.StreamDaemon, Pid: os.Getpid(), Worker: -1, Text: text, Attrs: attrs.Format(pairs)}
}

// tell says how many records nobody took.
func (s *sink) tell() error {
	pairs := []any{"records", s.refused, "error", s.failure}
	r := warning(logMissing, pairs...)
	if s.text == nil {
		return send(r, s.fields(r, pairs))
	}
	s.mu.Lock()
	line := s.format(r, pairs)
	s.mu.Unlock()
	return s.write(line)
}

// write writes a line. A disk that is full may take a part of it: the next one begins on a line of its own then.
func (s *sink) write(line []byte) error {
	if s.torn {
		line = append([]byte("\n"), line...)
	}
	n, err := s.out.Write(line)
	if n > 0 {
		s.torn = line[n-1] != '\n'
	}
	return err
}

// given writes down that everything up to a record is handed over.
func (s *sink) given(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil && seq != 0 {
		s.log.Given().Store(seq)
	}
}

// fields are the fields of a record in the journal. Those that say where it comes from cannot be another's.
func (s *sink) fields(r protocol.Record, pairs []any) map[string]string {
	vars := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if name := journalName(attrs.Attr{Value: pairs[i]}.String()); name != "" {
			vars[name] = attrs.Attr{Value: pairs[i+1]}.String()
		}
	}
	delete(vars, "PID")
	delete(vars, "MESSAGE")
	delete(vars, "PRIORITY")
	vars["REGION"], vars["SYSLOG_IDENTIFIER"], vars["WORKER_PID"] = s.region, "shmd", strconv.Itoa(r.Pid)
	if id := os.Getenv("INVOCATION_ID"); id != "" {
		vars["INVOCATION_ID"] = id
	}
	if r.Stream == protocol.StreamDaemon {
		if _, about := vars["WORKER"]; !about {
			delete(vars, "WORKER_PID")
		}
		return vars
	}
	vars["STREAM"] = r.Stream.String()
	delete(vars, "CODE_FILE")
	delete(vars, "CODE_LINE")
	if file, line, ok := cutLast(r.Source, ':'); ok {
		vars["CODE_FILE"], vars["CODE_LINE"] = file, line
		delete(vars, "SOURCE")
	}
	return vars
}

func cutLast(s string, c byte) (before, after string, ok bool) {
	if i := strings.LastIndexByte(s, c); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
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

// levelOf maps syslog's priorities to hclog's levels.
func levelOf(priority int) hclog.Level {
	switch {
	case priority <= 3:
		return hclog.Error
	case priority == 4:
		return hclog.Warn
	case priority <= 6:
		return hclog.Info
	}
	return hclog.Debug
}

// journalName makes a journal field of a key: capitals, digits and underscores, a letter first, 64 of them at most; "" for what cannot be one.
func journalName(k string) string {
	name := strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToUpper(k))
	name = strings.TrimLeft(name, "_0123456789")
	return name[:min(len(name), 64)]
}
