package crashpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// A log lies behind everything else: its ring has no room where the channels lie.
const (
	logAt   = memorySize + trimRoom
	logRing = 4 * protocol.MaxLogText
	logHead = 4096
	logRoom = logHead + 2*logRing
)

const (
	opWrite = 3000 + iota // one record
	opRead                // the oldest record, by a reader that has read none
)

func init() {
	opNames[opWrite], opNames[opRead] = "write", "read"
}

// What opRead found: the record but for its text, and some of the text.
const (
	wordRecord = 128
	wordText   = 136
	textRoom   = 1024
)

func logMemory(b []byte) []byte { return b[logAt : logAt+logRoom : logAt+logRoom] }

func openLog(b []byte) *protocol.Log { return must(protocol.OpenLog(logMemory(b))) }

// logged is the log that a tracee works on.
var logged struct {
	l      *protocol.Log
	cursor *protocol.LogCursor
	record protocol.Record
}

// readyLog makes what an operation needs before it is stepped.
func readyLog(b []byte) {
	logged.l = openLog(b)
	if get(b, wordOp) == opRead {
		logged.cursor = logged.l.Oldest()
		return
	}
	check(logged.l.Resume())
	logged.record = recordOf(get(b, wordValue))
}

func warmUpLog(b []byte) {
	s := newLog("", 0, []uint64{100, 101, 102})
	for op := uint64(opWrite); op <= opRead; op++ {
		copy(logMemory(b), s.image)
		set(b, wordOp, op)
		set(b, wordValue, op)
		readyLog(b)
		operateLog(b, op)
	}
}

func operateLog(b []byte, op uint64) uint64 {
	if op == opWrite {
		l := *logged.l // on the stack, which frozen takes along
		l.Write(logged.record)
		return resultOK
	}
	c := *logged.cursor
	r, _, ok, err := c.Next()
	switch {
	case err != nil:
		return resultError
	case !ok:
		return resultEmpty
	}
	set(b, wordRecord, r.Seq)
	set(b, wordRecord+1, uint64(r.Time.UnixNano()))
	set(b, wordRecord+2, uint64(r.Level))
	set(b, wordRecord+3, uint64(r.Stream))
	set(b, wordRecord+4, uint64(r.Pid))
	set(b, wordRecord+5, uint64(r.Worker))
	set(b, wordRecord+6, uint64(len(r.Text)))
	copy(b[8*wordText:8*wordText+textRoom], r.Text)
	return resultOK
}

// Values of records: ordinary ones have 1 to 40 bytes of text, from large on they have what sized says.
const largeRecords = 1_000_000

// sized returns a value whose text has n bytes; k tells them apart.
func sized(n, k int) uint64 { return largeRecords + uint64(n)*100 + uint64(k) }

func textLength(v uint64) int {
	if v >= largeRecords {
		return int(v-largeRecords) / 100
	}
	return 1 + int(v*7)%40
}

// recordOf is the record with value v: every field depends on it.
func recordOf(v uint64) protocol.Record {
	n := textLength(v)
	word := fmt.Sprintf("<%d>", v)
	return protocol.Record{Time: time.Unix(0, int64(v)*1e9+7), Level: 3 + int(v%5), Stream: protocol.Stream(v % 3), Pid: int(v), Worker: int(v%7) - 1,
		Text: strings.Repeat(word, n/len(word)+1)[:n]}
}

// whole returns the value of a record, which must be what recordOf makes.
func whole(r protocol.Record) (uint64, error) {
	v := uint64(r.Pid)
	if r.Pid < 0 || textLength(v) > protocol.MaxLogText {
		return v, fmt.Errorf("torn: record %d has value %d", r.Seq, v)
	}
	want := recordOf(v)
	want.Seq = r.Seq
	if r != want {
		return v, fmt.Errorf("torn: record %d is %.200v, want %.200v", r.Seq, r, want)
	}
	return v, nil
}

// lstate is a log as it is before an operation, and what is in it.
type lstate struct {
	name   string
	start  uint64
	image  []byte
	values []uint64 // kept, the oldest first
	last   uint64   // number of the newest
}

func (s *lstate) String() string { return fmt.Sprintf("%s, from %#x", s.name, s.start) }

// kept returns what a ring with the values keeps when another is written.
func kept(values []uint64, v uint64) []uint64 {
	values = append(slices.Clone(values), v)
	for {
		n := 0
		for _, v := range values {
			n += protocol.SizeofLogRecord + (textLength(v)+7)&^7
		}
		if n <= logRing {
			return values
		}
		values = values[1:]
	}
}

// newLog makes a log whose first position is start, with records in it.
func newLog(name string, start uint64, values []uint64) *lstate {
	s := &lstate{name: name, start: start, image: make([]byte, logRoom)}
	h := protocol.Header{Name: "log", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	l := must(protocol.FormatLog(s.image, h, logRing, logRing))
	for _, at := range []int{protocol.OffsetofLogInfoTail, protocol.OffsetofLogInfoHead} {
		binary.LittleEndian.PutUint64(s.image[protocol.SizeofSegmentHeader+at:], start)
	}
	for _, v := range values {
		l.Write(recordOf(v))
		s.values = kept(s.values, v)
		s.last++
	}
	return s
}

// logStates returns what an operation may find: rings that begin at their beginning, and rings whose next record lies across the end of the ring, or
// of all numbers of positions.
func logStates() (all []*lstate) {
	const large = protocol.MaxLogText
	rest := logRing - 4*(protocol.SizeofLogRecord+8) - 3*(protocol.SizeofLogRecord+large) - protocol.SizeofLogRecord
	for _, start := range []uint64{0, 1<<64 - 24, 1<<64 - 56} {
		for _, k := range []struct {
			name   string
			values []uint64
		}{
			{"empty", nil},
			{"three records", []uint64{100, 101, 102}},
			{"full, the oldest are small", []uint64{sized(8, 1), sized(8, 2), sized(5, 3), sized(1, 4), sized(large, 1), sized(large, 2), sized(large, 3), sized(rest, 1)}},
			{"full, the oldest is large", []uint64{sized(large, 1), sized(large, 2), sized(large, 3), sized(rest+4*(protocol.SizeofLogRecord+8), 1)}},
			{"the second lap", []uint64{sized(large, 1), 110, 111, 112, sized(large, 2), sized(large, 3), sized(large, 4), 113, 114}},
		} {
			all = append(all, newLog(k.name, start, k.values))
		}
	}
	return all
}

// reader is a reader of a log, and what it knows.
type reader struct {
	c    *protocol.LogCursor
	next uint64 // number of the record that must come next, 0 if any may
}

// rest reads all that there is: whole records, numbered on, those that are missing told.
func (r *reader) rest() (values []uint64, err error) {
	for {
		got, lost, ok, err := r.c.Next()
		if err != nil || !ok {
			return values, err
		}
		v, err := whole(got)
		if err != nil {
			return values, err
		}
		if r.next != 0 && got.Seq != r.next+lost {
			return values, fmt.Errorf("record %d came, %d were lost, and the next was to be %d", got.Seq, lost, r.next)
		}
		if len(values) > 0 && lost != 0 {
			return values, fmt.Errorf("%d records were lost in the middle", lost)
		}
		r.next = got.Seq + 1
		values = append(values, v)
	}
}

// readers returns readers of a log that lies as the state in mem: one that has read nothing, one that has read the oldest, one that has read all.
func (s *lstate) readers(mem []byte) (all []*reader, l *protocol.Log) {
	copy(mem, s.image)
	l = must(protocol.OpenLog(mem))
	all = []*reader{{c: l.Oldest()}, {c: l.Oldest()}, {c: l.Newest()}}
	if len(s.values) > 0 {
		r, _, _, err := all[1].c.Next()
		check(err)
		all[1].next = r.Seq + 1
		must(all[2].rest())
		all[2].next = 0
	}
	return all, l
}

// seen checks what readers find now, and reports whether the value v is there. Nothing is missing but the oldest, and of them those that had to go.
func (s *lstate) seen(all []*reader, l *protocol.Log, v uint64) (bool, error) {
	fresh := &reader{c: l.Oldest()}
	got, err := fresh.rest()
	if err != nil {
		return false, fmt.Errorf("a new reader: %w", err)
	}
	after := kept(s.values, v)
	there := len(got) > 0 && got[len(got)-1] == v
	switch {
	case there && !slices.Equal(got, after):
		return there, fmt.Errorf("values are %d, want %d", got, after)
	case !there && (len(got) > len(s.values) || len(got) < len(after)-1 || !slices.Equal(got, s.values[len(s.values)-len(got):])):
		return there, fmt.Errorf("values are %d, want the end of %d", got, s.values)
	case there && fresh.next != s.last+2, !there && len(got) > 0 && fresh.next != s.last+1:
		return there, fmt.Errorf("the next number is %d, the last was %d before", fresh.next, s.last)
	}
	for i, r := range all {
		from := r.next
		values, err := r.rest()
		if err != nil {
			return there, fmt.Errorf("reader %d: %w", i, err)
		}
		want := got
		if i == 2 {
			want = got[len(got)-map[bool]int{true: 1}[there]:]
		} else if from > 1 && fresh.next != 0 { // it has read the oldest before
			if oldest := fresh.next - uint64(len(got)); oldest < from {
				want = got[1:]
			}
		}
		if !slices.Equal(values, want) {
			return there, fmt.Errorf("reader %d got %d, want %d", i, values, want)
		}
	}
	return there, nil
}

// goesOn has the next writer write three laps beside readers.
func (s *lstate) goesOn(all []*reader, mem []byte, there bool) error {
	l := must(protocol.OpenLog(mem)) // another process
	if err := l.Resume(); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	values, last := s.values, s.last
	if there {
		values, last = kept(values, sent), last+1
	}
	for n := range 24 {
		v := uint64(200 + n)
		if n%2 == 1 {
			v = sized(protocol.MaxLogText-n, n)
		}
		r := recordOf(v)
		if n == 23 { // too long: it is cut
			v = sized(protocol.MaxLogText, n)
			r = recordOf(v)
			r.Text += strings.Repeat("and more", protocol.MaxLogText/4)
		}
		l.Write(r)
		last++
		values = kept(values, v)
		for i, r := range all {
			got, err := r.rest()
			if err == nil && (len(got) != 1 || got[0] != v || r.next != last+1) {
				err = fmt.Errorf("got %d, the next is %d", got, r.next)
			}
			if err != nil {
				return fmt.Errorf("the next writer's record %d, reader %d: %w", n, i, err)
			}
		}
	}
	got, err := (&reader{c: l.Oldest()}).rest()
	if err != nil || len(got) > len(values) || len(got) < min(3, len(values)) || !slices.Equal(got, values[len(values)-len(got):]) {
		return fmt.Errorf("after three laps: values are %d, %w; want the end of %d", got, err, values)
	}
	return nil
}

// TestLogKill kills the writer of a log at every instruction: readers see each record as a whole or not at all, in order and numbered on, and the
// next writer goes on.
func TestLogKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), make([]byte, logRoom)
	defer count.report("log, kill")
	log := logMemory(mem)
	for _, s := range logStates() {
		copy(log, s.image)
		x.begin(opWrite, victim, sent)
		var last uint64
		before := false
		judge := func() error {
			all, l := s.readers(scratch)
			copy(scratch, log)
			there, err := s.seen(all, l, sent)
			if err == nil && before && !there {
				err = errors.New("what was published is gone")
			}
			before = there
			if err == nil {
				err = s.goesOn(all, scratch, there)
			}
			return err
		}
		for i, more := 0, true; more; i++ {
			if h := maphash.Bytes(seed, log); i == 0 || h != last {
				last = h
				count.point(judge(), "%s, write killed at %d", s, i)
			} else {
				count.point(nil, "")
			}
			if count.points%everyKill() == 0 && !quick() {
				image := bytes.Clone(log)
				x.kill()
				count.killed++
				if !bytes.Equal(image, log) {
					count.point(errors.New("the memory changed"), "%s, write killed with SIGKILL at %d", s, i)
					count.points--
				}
				x.start()
				copy(log, s.image)
				x.begin(opWrite, victim, sent)
				x.steps(i)
			}
			more = x.step()
		}
		x.finish()
		err := judge()
		if err == nil && !before {
			err = errors.New("nobody sees it")
		}
		count.point(err, "%s, after write", s)
	}
}

// TestLogParked stops the writer at every instruction, beside readers that take what there is, lets it go on, and the readers get the rest.
func TestLogParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, image := newTally(t), make([]byte, logRoom)
	defer count.report("log, writer parked")
	log := logMemory(mem)
	for n, s := range logStates() {
		if (n >= 10 || n%5 > 2) && !torture() {
			continue
		}
		copy(log, s.image)
		x.begin(opWrite, victim, sent)
		var before []*reader
		x.everyPoint(func(i int) {
			copy(image, log)
			all, l := s.readers(log)
			before, _ = s.readers(log)
			copy(log, image)
			there, err := s.seen(all, l, sent)
			x.finish()
			for k, r := range all {
				got, e := r.rest()
				if want := map[bool]int{false: 1}[there]; err == nil && (e != nil || len(got) != want || want == 1 && got[0] != sent) {
					err = fmt.Errorf("reader %d got %d, %w, after the writer went on", k, got, e)
				}
			}
			if err == nil {
				there, err = s.seen(before, l, sent)
			}
			if err == nil && !there {
				err = errors.New("the record is not there in the end")
			}
			count.point(err, "%s, write parked at %d", s, i)
			copy(log, image)
		})
	}
}

// readRecord lets a reader go on to its end and returns the record that it read, which must be whole.
func (x *tracee) readRecord() (protocol.Record, error) {
	result, _ := x.finish()
	r := protocol.Record{Seq: get(x.mem, wordRecord), Time: time.Unix(0, int64(get(x.mem, wordRecord+1))), Level: int(get(x.mem, wordRecord+2)),
		Stream: protocol.Stream(get(x.mem, wordRecord+3)), Pid: int(get(x.mem, wordRecord+4)), Worker: int(get(x.mem, wordRecord+5))}
	n := int(get(x.mem, wordRecord+6))
	text := string(x.mem[8*wordText : 8*wordText+min(n, textRoom)])
	want := recordOf(uint64(r.Pid))
	switch {
	case result != resultOK:
		return r, fmt.Errorf("result %d", result)
	case n != len(want.Text) || text != want.Text[:min(n, textRoom)]:
		return r, fmt.Errorf("torn: record %d has %d bytes of text, %q", r.Seq, n, text)
	}
	r.Text, want.Seq = want.Text, r.Seq
	if r != want {
		return r, fmt.Errorf("torn: record %d is %.200v, want %.200v", r.Seq, r, want)
	}
	return r, nil
}

// TestLogReaderParked stops a reader at every instruction, lets the writer write one record, or laps, and lets the reader go on: it gets a record as a whole.
func TestLogReaderParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("log, reader parked")
	log := logMemory(mem)
	overtaken := 0
	for n, s := range logStates() {
		for k, writes := range [][]uint64{{300}, {300, 301, sized(protocol.MaxLogText, 4), sized(protocol.MaxLogText, 5), sized(protocol.MaxLogText, 6), 302, sized(protocol.MaxLogText, 7), 303}} {
			if len(s.values) == 0 || textLength(s.values[0]) > 64 || !torture() && n >= 5 && k == 0 {
				continue
			}
			copy(log, s.image)
			x.begin(opRead, victim, 0)
			set(x.mem, wordNoRuntime, 1)
			x.everyPoint(func(i int) {
				l := must(protocol.OpenLog(log))
				err := l.Resume()
				for _, v := range writes {
					l.Write(recordOf(v))
				}
				r, e := x.readRecord()
				if err == nil {
					err = e
				}
				if uint64(r.Pid) != s.values[0] {
					overtaken++
				}
				count.point(err, "%s, read parked at %d beside %d writes", s, i, len(writes))
				copy(log, s.image)
			})
		}
	}
	if overtaken == 0 {
		t.Error("the reader was never overtaken: the test does not see what it is for")
	}
}

// sleepForRecord is what a sleeper does with "read": it sleeps for the next record.
func sleepForRecord(l *protocol.Log) {
	c, bell := l.Newest(), l.Bell()
	fmt.Printf("bell %p\n", bell)
	for {
		value := bell.Load()
		r, _, ok, err := c.Next()
		if err != nil || ok {
			if err == nil {
				_, err = whole(r)
			}
			fmt.Printf("done %d %v\n", r.Pid, err)
			return
		}
		if err := sys.FutexWait(bell, value, time.Minute); err != nil && !errors.Is(err, sys.ErrAgain) {
			fmt.Println(err)
		}
	}
}

// TestLogWake kills the writer at every instruction beside a reader that sleeps for a record. Where the writer has published and not woken yet, the reader
// sleeps on, until the next writer has written something: it gets the first record then, and the next one after it.
func TestLogWake(t *testing.T) {
	f, mem := memfd(t)
	z := newDozer(t, f)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("log, wake")
	s := logStates()[1]
	lost := 0
	for i, more := 0, true; more; i += 2*stride() - 1 {
		copy(logMemory(mem), s.image)
		x.begin(opWrite, victim, sent)
		if err := z.sleep("read"); err != nil {
			t.Fatal(err)
		}
		want := uint64(sent)
		if more = x.steps(i); more { // it dies here
			if i%16 == 8 {
				x.kill()
				count.killed++
			}
			l := openLog(mem)
			r := &reader{c: l.Oldest()}
			values := must(r.rest())
			there := values[len(values)-1] == sent
			if there && !z.leaves() {
				lost++
			}
			if !there {
				want = 99
			}
			if !there || z.asleep() {
				check(l.Resume())
				l.Write(recordOf(99))
			}
		}
		line, err := z.says("done ")
		if say := fmt.Sprintf("done %d <nil>", want); err == nil && line != say {
			err = fmt.Errorf("the sleeper says %q, want %q", line, say)
		}
		count.point(err, "write killed at %d beside a process that sleeps for a record", i)
		if err != nil {
			t.FailNow()
		}
		if x.pid == 0 {
			x.start()
		} else {
			x.finish()
		}
	}
	t.Logf("beside write to a log: at %d points the wake-up is lost with the victim, and all are rescued by the next record", lost)
	if lost == 0 {
		t.Error("no wake-up is lost anywhere: the test does not see what it is for")
	}
}
