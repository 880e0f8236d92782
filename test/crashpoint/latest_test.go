package crashpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// A latest value lies where the queue lies in the other tests.
const (
	latestAt    = queueAt
	latestRoom  = queueRoom
	latestSlots = 4
)

const (
	opPut   = 100 + iota
	opSet   // compare-and-set
	opGet   // a copy
	opView  // in place
	opDraft // half a value, and discard
	opMend  // repair
)

func init() {
	for op, name := range map[uint64]string{opPut: "put", opSet: "compare-and-set", opGet: "get", opView: "view", opDraft: "draft+discard", opMend: "repair"} {
		opNames[op] = name
	}
}

const (
	resultStale = 100 + iota
	resultOvertaken
)

// traced is the value that a tracee works on.
var traced *protocol.Latest

func openLatest(b []byte) *protocol.Latest {
	l, err := protocol.OpenLatest(b[latestAt : latestAt+latestRoom : latestAt+latestRoom])
	if err != nil {
		return nil
	}
	return l
}

func warmUpLatest(b []byte) {
	copy(b[latestAt:], latestStates(0)[0].image)
	traced = openLatest(b)
	for op := uint64(opPut); op <= opMend; op++ {
		set(b, wordOwner, victim)
		set(b, wordValue, op)
		operateLatest(b, traced, op)
	}
}

func operateLatest(b []byte, l *protocol.Latest, op uint64) uint64 {
	owner, v := uint16(get(b, wordOwner)), get(b, wordValue)
	var from, into [64]byte // on the stack, which frozen takes along
	var version uint64
	var err error
	switch op {
	case opPut:
		fill(from[:], v)
		version, err = l.Put(owner, from[:length(v)])
	case opSet:
		fill(from[:], v)
		version, err = l.CompareAndSet(owner, get(b, wordFor), from[:length(v)])
	case opGet, opView:
		var p []byte
		if op == opGet {
			p, version, err = l.Get(into[:0])
		} else {
			n := 0
			version, err = l.View(func(q []byte) error {
				n = copy(into[:], q)
				return nil
			})
			p = into[:n]
		}
		if err == nil {
			v, whole := message(p)
			if !whole {
				return resultTorn
			}
			set(b, wordValue, v)
		}
	case opDraft:
		var d protocol.Draft
		if d, err = l.TryDraft(owner); err == nil {
			fill(l.DraftBytes(d)[:32], 0)
			err = l.Discard(d)
		}
	case opMend:
		dead := uint16(get(b, wordDead))
		l.Repair(func(o uint16) bool { return o == dead })
	}
	set(b, wordVersion, version)
	switch {
	case errors.Is(err, protocol.ErrStale):
		return resultStale
	case errors.Is(err, protocol.ErrOvertaken):
		return resultOvertaken
	}
	return result(err)
}

// vstate is a latest value as it is before an operation, and what is known about it.
type vstate struct {
	name    string
	start   uint64
	image   []byte // from latestAt on
	version uint64
	value   uint64 // of that version, 0 for none
	drafts  []protocol.Draft
	stuck   bool // a peer stopped after it published and before it let the slot go
}

func (s *vstate) String() string { return fmt.Sprintf("%s, from version %#x", s.name, s.start) }

// room is how many drafts there can be at once.
func (s *vstate) room(version uint64) int {
	n := latestSlots - len(s.drafts)
	if version != 0 {
		n-- // the newest value's slot, whoever holds it
	}
	if s.stuck && version != s.version {
		n-- // the peer holds another one then
	}
	return n
}

// following returns the version n after v.
func following(v uint64, n int) uint64 {
	for range n {
		if v = (v + 1) & (1<<56 - 1); v == 0 {
			v = 1
		}
	}
	return v
}

func putValue(l *protocol.Latest, owner uint16, v uint64) (uint64, error) {
	var p [64]byte
	fill(p[:], v)
	return l.Put(owner, p[:length(v)])
}

// holding returns the newest value and its version; 0, 0 if there is none.
func holding(l *protocol.Latest) (value, version uint64, err error) {
	p, version, err := l.Get(nil)
	if errors.Is(err, protocol.ErrEmpty) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	value, whole := message(p)
	if !whole {
		return value, version, fmt.Errorf("torn: version %#x, %x", version, p)
	}
	return value, version, nil
}

// latestStates returns what an operation may find.
func latestStates(start uint64) []*vstate {
	kinds := []struct {
		name string
		do   func(s *vstate, l *protocol.Latest)
	}{
		{"empty", func(s *vstate, l *protocol.Latest) {}},
		{"one value", func(s *vstate, l *protocol.Latest) { s.puts(l, 1) }},
		{"all versions kept", func(s *vstate, l *protocol.Latest) { s.puts(l, 6) }},
		{"a draft was discarded", func(s *vstate, l *protocol.Latest) {
			s.puts(l, 5)
			check(l.Discard(must(l.TryDraft(other))))
		}},
		{"a peer writes", func(s *vstate, l *protocol.Latest) {
			s.puts(l, 2)
			s.draft(l)
			s.puts(l, 3)
		}},
		{"two peers write", func(s *vstate, l *protocol.Latest) {
			s.puts(l, 2)
			s.draft(l)
			s.puts(l, 1)
			s.draft(l)
			s.puts(l, 3)
		}},
		{"a peer writes before the first value", func(s *vstate, l *protocol.Latest) { s.draft(l) }},
		{"a peer published and stopped", func(s *vstate, l *protocol.Latest) {
			s.puts(l, 5)
			for i := range latestSlots {
				if at := l.SlotAt(i); at.Word.Phase() == protocol.PhaseReady && at.Word.Version() == s.version&(1<<44-1) {
					word := uint64(at.Word)&^0xf | uint64(protocol.PhaseWriting) | peer<<protocol.LatestSlotOwnerShift
					binary.LittleEndian.PutUint64(s.image[at.Offset:], word)
					s.stuck = true
				}
			}
		}},
	}
	var all []*vstate
	for _, k := range kinds {
		if start != 0 && k.name[:5] == "empty" || start != 0 && k.name == "a peer writes before the first value" {
			continue
		}
		s := &vstate{name: k.name, start: start}
		mem := anonymous()
		s.image = mem[latestAt : latestAt+latestRoom]
		h := protocol.Header{Name: "latest", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
		l := must(protocol.FormatLatest(s.image, h, protocol.LatestOptions{Slots: latestSlots, SlotSize: 64, Start: start}))
		s.version = start
		k.do(s, l)
		all = append(all, s)
	}
	return all
}

func (s *vstate) puts(l *protocol.Latest, n int) {
	for range n {
		s.value = max(s.value, 99) + 1
		s.version = must(putValue(l, other, s.value))
	}
}

func (s *vstate) draft(l *protocol.Latest) {
	d := must(l.TryDraft(peer))
	fill(l.DraftBytes(d), 500+uint64(len(s.drafts)))
	s.drafts = append(s.drafts, d)
}

// mended repairs after the death of id and checks slot by slot what that did.
func mended(l *protocol.Latest, id uint16) error {
	isDead := func(o uint16) bool { return o == id }
	var before [latestSlots]protocol.LatestWord
	for i := range before {
		before[i] = l.SlotAt(i).Word
	}
	l.Repair(isDead)
	if again := l.Repair(isDead); again != (protocol.Repaired{}) || l.Holds(isDead) {
		return fmt.Errorf("a second repair found %+v", again)
	}
	if st := l.Stat(); st.Version != 0 && l.SlotAt(st.Slot).Word.Phase() == protocol.PhaseFree {
		return fmt.Errorf("the newest value lies in slot %d, which says FREE: that it was not published as what it is", st.Slot)
	}
	for i, w := range before {
		now := l.SlotAt(i).Word
		switch {
		case w.Owner() != id && now != w:
			return fmt.Errorf("repair turned slot %d from %#x into %#x, and its owner lives", i, w, now)
		case w.Owner() == id && (now.Owner() != 0 || now.Version() != w.Version() || now.Phase() == protocol.PhaseWriting):
			return fmt.Errorf("repair turned slot %d from %#x into %#x", i, w, now)
		}
	}
	return nil
}

// unclaimed checks that a slot whose word says the version of before has what it had then: a reader that came for it takes it.
func (s *vstate) unclaimed(mem []byte) error {
	l := openLatest(mem)
	for i := range latestSlots {
		at := l.SlotAt(i)
		end := at.Offset + protocol.SizeofLatestSlot + 64
		was := s.image[at.Offset:end]
		word := protocol.LatestWord(binary.LittleEndian.Uint64(was))
		if word.Phase() != protocol.PhaseReady || word.Version() != at.Word.Version() {
			continue
		}
		if now := mem[latestAt+at.Offset : latestAt+end]; !bytes.Equal(was[8:], now[8:]) {
			return fmt.Errorf("slot %d still says version %#x, and its contents changed", i, word.Version())
		}
	}
	return nil
}

// judge looks at memory after the death of id (0: nobody died): repairs, reads, puts three laps of values beside what peers hold, lets the peers
// publish, and counts the slots. It returns what was the newest value. It spoils mem.
func (s *vstate) judge(mem []byte, id uint16) (value, version uint64, err error) {
	l := openLatest(mem)
	if l == nil {
		return 0, 0, errors.New("the header is damaged")
	}
	if id != 0 {
		err := errors.Join(mended(l, id), sound(mem[latestAt:], func(o uint16) bool { return o == id }))
		if err != nil {
			return 0, 0, err
		}
	}
	value, version, err = holding(l)
	if err != nil {
		return value, version, err
	}
	v := version
	put := func(n uint64, publish func() (uint64, error)) error {
		v = following(v, 1)
		if got, err := publish(); got != v || err != nil {
			return fmt.Errorf("put of %d made version %#x, %w; want %#x", n, got, err, v)
		}
		if is, at, err := holding(l); is != n || at != v || err != nil {
			return fmt.Errorf("value %d, version %#x, %w after a put of %d, version %#x", is, at, err, n, v)
		}
		return nil
	}
	for n := range uint64(3*latestSlots + 1) {
		if err := put(10000+n, func() (uint64, error) { return putValue(l, other, 10000+n) }); err != nil {
			return value, version, fmt.Errorf("beside what is held: %w", err)
		}
	}
	var drafts []protocol.Draft
	for {
		d, err := l.TryDraft(other)
		if errors.Is(err, protocol.ErrFull) {
			break
		}
		if err != nil || len(drafts) > latestSlots {
			return value, version, fmt.Errorf("draft number %d: %w", len(drafts), err)
		}
		drafts = append(drafts, d)
	}
	if len(drafts) != s.room(v) {
		return value, version, fmt.Errorf("%d slots are free, want %d", len(drafts), s.room(v))
	}
	for _, d := range drafts {
		check(l.Discard(d))
	}
	for k, d := range s.drafts {
		n := 500 + uint64(k)
		if err := put(n, func() (uint64, error) { return l.Publish(d, length(n)) }); err != nil {
			return value, version, fmt.Errorf("a peer's draft: %w", err)
		}
	}
	return value, version, nil
}

// expected checks what an operation left as the newest value: what was there, or what a writer put.
func (s *vstate) expected(op, value, version uint64) error {
	if value == s.value && version == s.version {
		return nil
	}
	if (op == opPut || op == opSet) && value == sent && version == following(s.version, 1) {
		return nil
	}
	return fmt.Errorf("the newest value is %d, version %#x; it was %d, version %#x", value, version, s.value, s.version)
}

// latestStarts are first versions: none, and some shortly before the version wraps in a slot's word and in Current.
func latestStarts(most int) []uint64 {
	all := []uint64{0, 1<<56 - 8, 1<<44 - 8}
	if torture() {
		return all
	}
	if quick() {
		most = 1
	}
	return all[:most]
}

// beginLatest puts the state in place and lets the tracee begin.
func (x *tracee) beginLatest(s *vstate, op uint64, owner uint16, value uint64) {
	copy(x.mem[latestAt:], s.image)
	x.beginFor(op, owner, value, s.version)
}
