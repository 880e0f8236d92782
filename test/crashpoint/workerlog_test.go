package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// The log of an instance lies in a group segment, where logs lie.
const (
	opEnter   = 7000 + iota // one record into an instance's log
	opNext                  // the oldest record, by a reader that has read none
	opSucceed               // the next instance begins
	opOwn                   // one record into an instance's log, without a lock
)

func init() {
	opNames[opEnter], opNames[opNext], opNames[opSucceed], opNames[opOwn] = "log", "next", "resume", "log without a lock"
}

const (
	entryRing  = protocol.MinInstanceLog
	entryChunk = entryRing / 8
)

var entryGroup = protocol.GroupConfig{Instances: 1, LogSize: entryRing}

func entryMemory(b []byte) []byte {
	n := protocol.GroupSize(entryGroup)
	return b[logAt : logAt+n : logAt+n]
}

// entryRoom is entryMemory, and behind it the writer.
func entryRoom(b []byte) []byte {
	n := protocol.GroupSize(entryGroup) + 4096
	return b[logAt : logAt+n : logAt+n]
}

// entryBuffer is what a reader copies records to.
func entryBuffer(b []byte) []byte {
	room := entryRoom(b)
	return room[len(room)-2048:]
}

func openEntries(mem []byte) *protocol.InstanceLog { return must(protocol.OpenGroup(mem)).Log(0) }

// entered is what a tracee works on.
var entered struct {
	l     *protocol.InstanceLog
	w     *protocol.LogWriter
	o     *protocol.LogOwner
	c     *protocol.InstanceCursor
	entry *protocol.LogEntry
}

func readyEntries(b []byte) {
	entered.l = openEntries(entryMemory(b))
	entered.w, entered.o = nil, nil
	switch get(b, wordOp) {
	case opEnter, opOwn:
		entered.w = placeWriter(entryRoom(b)[protocol.GroupSize(entryGroup):], entered.l.Resume(1))
		entered.entry = entryFor(get(b, wordValue))
		if get(b, wordOp) == opOwn {
			entered.o = must(entered.w.Own())
		}
	case opNext:
		entered.c = placeBuffer(entryBuffer(b), entered.l.Oldest())
	}
}

func warmUpEntries(b []byte) {
	for op := uint64(opEnter); op <= opOwn; op++ {
		copy(entryMemory(b), newEntries("", []uint64{100, 101}).image)
		set(b, wordOp, op)
		set(b, wordValue, op)
		readyEntries(b)
		operateEntries(b, op)
	}
}

func operateEntries(b []byte, op uint64) uint64 {
	switch op {
	case opEnter:
		entered.w.Write(entered.entry)
		return resultOK
	case opOwn:
		entered.o.Write(entered.entry)
		return resultOK
	case opSucceed:
		entered.l.Resume(2)
		return resultOK
	case opNext:
		return nextEntry(b)
	}
	return resultError
}

// nextEntry reads the oldest record and puts what it got into the shared memory. It makes garbage, as a reader does.
func nextEntry(b []byte) uint64 {
	c := *entered.c
	r, lost, ok, err := c.Next()
	switch {
	case err != nil:
		set(b, wordRecord+4, uint64(copy(b[8*wordText:8*wordText+textRoom], err.Error())))
		return resultError
	case !ok:
		return resultEmpty
	}
	set(b, wordRecord, r.Seq)
	set(b, wordRecord+1, uint64(r.Time.UnixNano()))
	set(b, wordRecord+2, uint64(r.Level))
	set(b, wordRecord+3, lost)
	set(b, wordRecord+4, uint64(len(r.Text)))
	set(b, wordRecord+5, uint64(len(r.Attrs)))
	n := copy(b[8*wordText:8*wordText+textRoom], r.Text)
	copy(b[8*wordText+n:8*wordText+textRoom], r.Attrs)
	return resultOK
}

// entryFor is the record with value v: every field depends on it. Its body has textLength(v) bytes at least.
func entryFor(v uint64) *protocol.LogEntry {
	n := min(textLength(v), entryChunk-protocol.SizeofWorkerRecord-16)
	word := fmt.Sprintf("<%d>", v)
	text := strings.Repeat(word, n/len(word)+1)[:n]
	return &protocol.LogEntry{UnixNs: int64(v), Level: 3 + int(v%5), Text: text[:n/2], Attrs: []byte(text[n/2:]), Source: fmt.Sprintf("f:%d", v%1000)}
}

func entryBytes(v uint64) int {
	e := entryFor(v)
	return protocol.SizeofWorkerRecord + (len(e.Text)+len(e.Attrs)+len(e.Source)+7)&^7
}

// wholeEntry returns the value of a record, which must be what entryFor makes.
func wholeEntry(r protocol.Record) (uint64, error) {
	v := uint64(r.Time.UnixNano())
	want := entryFor(v)
	if r.Text != want.Text || r.Attrs != string(want.Attrs) || r.Source != want.Source || r.Level != want.Level || r.Stream != protocol.StreamLog || r.Number != uint32(r.Seq) {
		return v, fmt.Errorf("torn: record %d is %.200v", r.Seq, r)
	}
	return v, nil
}

// estate is a log as it is before an operation, and what is in it.
type estate struct {
	name   string
	image  []byte
	values []uint64 // kept, the oldest first
	last   uint64   // number of the newest
	next   int      // bytes from the head to the end of its chunk
}

func (s *estate) String() string { return s.name }

func newEntries(name string, values []uint64) *estate {
	s := &estate{name: name, image: make([]byte, protocol.GroupSize(entryGroup))}
	must(protocol.FormatGroup(s.image, protocol.Header{Name: "group/w", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}, entryGroup))
	l := openEntries(s.image)
	w := l.Resume(1)
	for _, v := range values {
		w.Write(entryFor(v))
		s.last++
	}
	s.values, _ = restOfEntries(l.Oldest())
	s.next = int(-l.Head() & (entryChunk - 1))
	return s
}

// restOfEntries reads all that there is, in order.
func restOfEntries(c *protocol.InstanceCursor) (values []uint64, err error) {
	var next uint64
	for {
		r, lost, ok, err := c.Next()
		if err != nil || !ok {
			return values, err
		}
		v, err := wholeEntry(r)
		if err != nil {
			return values, err
		}
		if next != 0 && (r.Seq != next || lost != 0) {
			return values, fmt.Errorf("record %d came, %d lost, and the next was to be %d", r.Seq, lost, next)
		}
		next = r.Seq + 1
		values = append(values, v)
	}
}

// entryStates returns what an operation may find: the next record fits into the chunk, fills it, or does not fit; the chunk is full; the first lap and
// later ones.
func entryStates() (all []*estate) {
	fill := func(n int) (values []uint64) { // records that take n bytes
		for n > 0 {
			v := sized(min(n, 1000)-protocol.SizeofWorkerRecord-8, n%97)
			for entryBytes(v) > n {
				v -= 800 // eight bytes less
			}
			for entryBytes(v) < min(n, 1000)&^7 && entryBytes(v+800) <= n {
				v += 800
			}
			values = append(values, v)
			n -= entryBytes(v)
			if n < protocol.SizeofWorkerRecord+8 {
				break
			}
		}
		return values
	}
	size := entryBytes(sent)
	for _, lap := range []int{0, 2} {
		for _, k := range []struct {
			name string
			used int // of the chunk
		}{{"empty", 0}, {"some", 504}, {"just enough", entryChunk - size}, {"too little", entryChunk - size + 8}, {"one word left", entryChunk - 8}} {
			var values []uint64
			for range 8 * lap {
				values = append(values, fill(entryChunk)...)
			}
			s := newEntries(fmt.Sprintf("lap %d, %s in the chunk", lap, k.name), append(values, fill(k.used)...))
			all = append(all, s)
		}
	}
	return all
}

// seen checks what a new reader finds, and reports whether v is there.
func (s *estate) seen(mem []byte, v uint64) (bool, error) {
	got, err := restOfEntries(openEntries(mem).Oldest())
	if err != nil {
		return false, err
	}
	there := len(got) > 0 && got[len(got)-1] == v
	before := got
	if there {
		before = got[:len(got)-1]
	}
	switch gone := len(s.values) - len(before); {
	case gone < 0 || !slices.Equal(before, s.values[gone:]):
		return there, fmt.Errorf("values are %d, want the end of %d", got, s.values)
	case gone > 0 && (len(before) < 8 || s.next >= entryBytes(v)): // a chunk's at most, and only if another is begun
		return there, fmt.Errorf("%d of %d are gone", gone, len(s.values))
	}
	return there, nil
}

// goesOn has the next instance write three laps beside a reader.
func (s *estate) goesOn(mem []byte, there bool) error {
	l := openEntries(mem)
	c := l.From(l.Head())
	w := l.Resume(2)
	last := s.last
	if there {
		last++
	}
	for n := range 60 {
		v := uint64(200 + n)
		if n%2 == 1 {
			v = sized(1900-n, n)
		}
		w.Write(entryFor(v))
		last++
		r, _, ok, err := c.Next()
		if err != nil || !ok {
			return fmt.Errorf("the next instance's record %d: %v, %w", n, ok, err)
		}
		if got, err := wholeEntry(r); err != nil || got != v || r.Seq != last || r.Pid != 2 {
			return fmt.Errorf("the next instance's record %d: number %d, want %d; value %d, want %d: %w", n, r.Seq, last, got, v, err)
		}
	}
	_, err := restOfEntries(l.Oldest())
	return err
}

// TestInstanceLogKill kills an instance at every instruction of a record and of its beginning: readers see each record as a whole or not at all, in order and
// numbered on, and the next instance goes on.
func TestInstanceLogKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), make([]byte, protocol.GroupSize(entryGroup))
	defer count.report("log of an instance, kill")
	log := entryMemory(mem)
	for _, op := range []uint64{opEnter, opOwn, opSucceed} {
		for _, s := range entryStates() {
			copy(log, s.image)
			x.begin(op, victim, sent)
			var last uint64
			before := false
			judge := func() error {
				copy(scratch, log)
				there, err := s.seen(scratch, sent)
				if err == nil && before && !there {
					err = errors.New("what was published is gone")
				}
				before = there
				if err == nil {
					err = s.goesOn(scratch, there)
				}
				return err
			}
			for i, more := 0, true; more; i++ {
				if h := maphash.Bytes(seed, log); i == 0 || h != last {
					last = h
					count.point(judge(), "%s, %s killed at %d", s, opNames[op], i)
				} else {
					count.point(nil, "")
				}
				if count.points%everyKill() == 0 && !quick() {
					image := bytes.Clone(log)
					x.kill()
					count.killed++
					if !bytes.Equal(image, log) {
						count.point(errors.New("the memory changed"), "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
						count.points--
					}
					x.start()
					copy(log, s.image)
					x.begin(op, victim, sent)
					x.steps(i)
				}
				more = x.step()
			}
			x.finish()
			err := judge()
			if err == nil && before != (op != opSucceed) {
				err = fmt.Errorf("the record is there: %v", before)
			}
			count.point(err, "%s, after %s", s, opNames[op])
		}
	}
}

// TestInstanceLogParked stops an instance at every instruction of a record, beside readers that take what there is, lets it go on, and they get the rest.
func TestInstanceLogParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, image := newTally(t), make([]byte, len(entryRoom(mem)))
	defer count.report("log of an instance, writer parked")
	log := entryRoom(mem)
	for k, s := range append(entryStates(), entryStates()...) {
		op := []uint64{opEnter, opOwn}[k/len(entryStates())]
		copy(log, s.image)
		x.begin(op, victim, sent)
		x.everyPoint(func(i int) {
			copy(image, log)
			there, err := s.seen(entryMemory(mem), sent)
			c := openEntries(entryMemory(mem)).Oldest()
			var first []uint64
			if err == nil {
				first, err = restOfEntries(c)
			}
			x.finish()
			rest, err2 := restOfEntries(c)
			if err == nil && (err2 != nil || len(rest) != map[bool]int{false: 1}[there] || len(rest) == 1 && rest[0] != sent) {
				err = fmt.Errorf("the reader got %d and then %d, %w", first, rest, err2)
			}
			count.point(err, "%s, %s parked at %d", s, opNames[op], i)
			copy(log, image)
		})
	}
}
