package crashpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
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

// TestLatestKill kills the victim at every instruction of every operation on a latest value, in every state.
func TestLatestKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, kill")
	for _, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			for op := uint64(opPut); op < opMend; op++ {
				x.beginLatest(s, op, victim, sent)
				var where []int
				var last uint64
				seen := false // the victim's value
				judge := func(image []byte) error {
					copy(scratch, image)
					value, version, err := s.judge(scratch, victim)
					if err == nil {
						err = s.expected(op, value, version)
					}
					if err == nil && seen && value != sent {
						err = errors.New("what was published is gone")
					}
					seen = seen || value == sent
					return err
				}
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); i == 0 || h != last {
						last = h
						err := s.unclaimed(mem)
						if err == nil {
							err = judge(mem)
						}
						count.point(err, "%s, %s killed at %d", s, opNames[op], i)
					} else {
						count.point(nil, "")
					}
					if count.points%everyKill() == 0 && !quick() {
						where = append(where, i)
					}
					more = x.step()
				}
				r, _ := x.finish()
				err := judge(mem)
				switch {
				case err != nil:
				case (op == opPut || op == opSet) && (r != resultOK || !seen || get(mem, wordVersion) != following(s.version, 1)),
					(op == opGet || op == opView) && s.value != 0 && (r != resultOK || get(mem, wordValue) != s.value || get(mem, wordVersion) != s.version),
					(op == opGet || op == opView) && s.version == 0 && r != resultEmpty,
					op == opDraft && r != resultOK:
					err = fmt.Errorf("result %d, value %d, version %#x", r, get(mem, wordValue), get(mem, wordVersion))
				}
				count.point(err, "%s, after %s", s, opNames[op])
				for _, i := range where {
					x.beginLatest(s, op, victim, sent)
					x.steps(i)
					x.kill()
					count.killed++
					value, version, err := s.judge(mem, victim)
					if err == nil {
						err = s.expected(op, value, version)
					}
					count.point(err, "%s, %s killed with SIGKILL at %d", s, opNames[op], i)
					count.points--
					x.start()
				}
			}
		}
	}
}

// TestLatestLateKill kills a writer at every instruction after others published since it claimed its slot.
func TestLatestLateKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, killed late")
	for _, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			if len(s.drafts) > 1 {
				continue
			}
			for _, puts := range []int{1, latestSlots} {
				x.beginLatest(s, opPut, victim, sent)
				for l := openLatest(mem); !l.Holds(func(o uint16) bool { return o == victim }); {
					x.step()
				}
				e := *s
				for range puts {
					e.puts(openLatest(mem), 1)
				}
				e.image = bytes.Clone(mem[latestAt : latestAt+latestRoom])
				e.stuck = false
				var last uint64
				for i, more := 0, true; more; i++ {
					if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); i == 0 || h != last {
						last = h
						copy(scratch, mem)
						err := e.unclaimed(mem)
						if value, version, e2 := holding(openLatest(mem)); err == nil && e2 != nil {
							err = fmt.Errorf("before the repair: value %d, version %#x, %w", value, version, e2)
						}
						if err == nil {
							var value, version uint64
							if value, version, err = s.late(scratch, &e); err == nil {
								err = e.expected(opPut, value, version)
							}
						}
						count.point(err, "%s, put killed %d instructions after the claim and %d puts of others", s, i, puts)
					} else {
						count.point(nil, "")
					}
					more = x.step()
				}
				x.finish()
			}
		}
	}
}

// late is judge for what became of s after others put values: e. A slot in which a peer stopped at the newest value of s is one less now.
func (s *vstate) late(mem []byte, e *vstate) (value, version uint64, err error) {
	if !s.stuck {
		return e.judge(mem, victim)
	}
	b := *e
	b.stuck, b.version = true, s.version
	return b.judge(mem, victim)
}

// TestLatestRepairKilled kills the repair that follows a death at every instruction, and repairs again.
func TestLatestRepairKilled(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("latest, repair killed")
	for _, start := range latestStarts(1) {
		for _, s := range latestStates(start) {
			for _, op := range []uint64{opPut, opDraft} {
				copy(mem[latestAt:], s.image)
				for k, image := range x.latestImages(op, s.version, victim, sent) {
					copy(scratch[latestAt:], image)
					want, wantVersion, err := s.judge(scratch, victim)
					if err != nil {
						count.point(err, "%s, %s, image %d", s, opNames[op], k)
						continue
					}
					copy(mem[latestAt:], image)
					x.begin(opMend, second, 0)
					var last uint64
					for j, more := 0, true; more; j++ {
						if h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom]); j == 0 || h != last {
							last = h
							copy(scratch, mem)
							value, version, err := s.judge(scratch, victim)
							if err == nil && (value != want || version != wantVersion) {
								err = fmt.Errorf("the newest value is %d, version %#x; after a repair that lived it is %d, version %#x", value, version, want, wantVersion)
							}
							count.point(err, "%s, %s, image %d, repair killed at %d", s, opNames[op], k, j)
						} else {
							count.point(nil, "")
						}
						more = x.step()
					}
					x.finish()
				}
			}
		}
	}
}

// latestImages runs an operation on what lies in memory and returns all that the memory looked like.
func (x *tracee) latestImages(op, for_ uint64, owner uint16, value uint64) (images [][]byte) {
	seen := map[uint64]bool{}
	x.beginFor(op, owner, value, for_)
	for more := true; more; more = x.step() {
		if h := maphash.Bytes(seed, x.mem[latestAt:latestAt+latestRoom]); !seen[h] {
			seen[h] = true
			images = append(images, slices.Clone(x.mem[latestAt:latestAt+latestRoom]))
		}
	}
	x.finish()
	return images
}

// TestLatestParked stops the victim at every instruction, lets others put values, and then lets it go on: nobody waits for it, and it reads no
// torn value and overwrites none.
func TestLatestParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("latest, parked")
	for g, start := range latestStarts(2) {
		for _, s := range latestStates(start) {
			for op := uint64(opPut); op < opMend; op++ {
				if len(s.drafts) > 1 && op != opGet && op != opView {
					continue // a third writer holds the last slot: full, as it says
				}
				for _, puts := range []int{1, latestSlots, 2, 3 * latestSlots} {
					if !torture() && (puts == 2 || puts > latestSlots || g > 0 && puts == 1) {
						continue
					}
					x.beginLatest(s, op, victim, sent)
					x.everyPoint(func(i int) {
						count.point(s.parked(x, op, puts), "%s, %s parked at %d beside %d puts", s, opNames[op], i, puts)
					})
				}
			}
		}
	}
}

// parked does what peers do beside a parked operation, lets that go on, and checks all that was seen.
func (s *vstate) parked(x *tracee, op uint64, puts int) error {
	l := openLatest(x.mem)
	is, before, err := holding(l)
	if err != nil {
		return err
	}
	if err := s.expected(op, is, before); err != nil {
		return err
	}
	v := before
	values := map[uint64]uint64{before: is} // by version
	finish := func() error {
		for n := range uint64(puts) {
			v = following(v, 1)
			got, err := putValue(l, other, 20000+n)
			if got != v || err != nil {
				return fmt.Errorf("a put beside it made version %#x, %w; want %#x", got, err, v)
			}
			values[v] = 20000 + n
			if is, at, err := holding(l); is != 20000+n || at != v || err != nil {
				return fmt.Errorf("value %d, version %#x, %w; want %d, version %#x", is, at, err, 20000+n, v)
			}
		}
		// A reader that holds the newest value while the operation goes on: what View accepts has not changed under it.
		calls := 0
		var first []byte
		changed := false
		_, err := l.View(func(p []byte) error {
			if calls++; calls == 1 {
				first = bytes.Clone(p)
				x.finish()
				changed = !bytes.Equal(first, p)
			}
			return nil
		})
		if err == nil && calls == 1 && changed {
			return errors.New("torn: a value changed under its reader")
		}
		return err
	}
	if err := finish(); err != nil {
		return err
	}
	r, version, value := get(x.mem, wordResult), get(x.mem, wordVersion), get(x.mem, wordValue)
	switch op {
	case opPut, opSet:
		published := following(v, 1) // after the others
		if is == sent {
			published = before
		}
		switch {
		case op == opSet && is != sent:
			if r != resultStale || version != v {
				return fmt.Errorf("result %d, version %#x, of a compare-and-set that was overtaken", r, version)
			}
		case r != resultOK || version != published:
			return fmt.Errorf("result %d, version %#x; want version %#x", r, version, published)
		case is != sent:
			v, values[published] = published, sent
		}
	case opGet, opView:
		from := max(s.version, 1)
		_, known := values[version]
		switch {
		case r == resultEmpty && s.version == 0:
		case r != resultOK || !known || values[version] != value || version < from && v >= from:
			return fmt.Errorf("result %d, value %d, version %#x; versions are %v", r, value, version, values)
		}
	default:
		if r != resultOK {
			return fmt.Errorf("result %d", r)
		}
	}
	if is, at, err := holding(l); is != values[v] || at != v || err != nil {
		return fmt.Errorf("in the end value %d, version %#x, %w; want %d, version %#x", is, at, err, values[v], v)
	}
	_, _, err = s.judge(x.mem, 0)
	return err
}

// TestLatestPairs parks A at every instruction, kills B at every instruction (those that leave the same memory count as one), lets a third put a
// value, repairs B's death, and lets A go on under the eyes of a reader that holds the value from before.
func TestLatestPairs(t *testing.T) {
	f, mem := memfd(t)
	a, b := newTracee(t, f, mem), newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("latest, pairs")
	for _, start := range latestStarts(1) {
		for k, s := range latestStates(start) {
			if !torture() && k != 2 && k != 3 || quick() && k != 3 {
				continue
			}
			ops := []uint64{opPut, opGet}
			if torture() {
				ops = []uint64{opPut, opSet, opGet, opView, opDraft}
			}
			for _, opA := range ops {
				for _, opB := range []uint64{opPut, opDraft} {
					a.beginLatest(s, opA, second, sent)
					var z frozen
					known := map[uint64][][]byte{} // what B does depends on the memory alone
					a.everyPoint(func(i int) {
						a.freeze(&z)
						h := maphash.Bytes(seed, mem[latestAt:latestAt+latestRoom])
						if known[h] == nil {
							known[h] = b.latestImages(opB, s.version, victim, sent+1)
							copy(mem[:controlSize], z.mem)
						}
						again := false
						for j, image := range known[h] {
							for _, more := range []int{0, 1} {
								if again {
									a.thaw(&z)
								}
								again = true
								copy(mem[latestAt:], image)
								count.point(s.paired(a, opA, more), "%s, %s parked at %d, %s killed at image %d, %d puts behind it", s, opNames[opA], i, opNames[opB], j, more)
							}
						}
					})
				}
			}
		}
	}
}

// paired lets a third put some values beside a parked operation and one that died, repairs the death, and lets the parked one go on.
func (s *vstate) paired(a *tracee, opA uint64, puts int) error {
	l := openLatest(a.mem)
	var err error
	calls, changed := 0, false
	_, e := l.View(func(p []byte) error {
		if calls++; calls > 1 {
			return nil
		}
		first := bytes.Clone(p)
		for n := range uint64(puts) {
			if _, e := putValue(l, other, 30000+n); e != nil {
				err = fmt.Errorf("a put beside them: %w", e)
			}
		}
		if e := mended(l, victim); e != nil {
			err = e
		}
		a.finish()
		changed = !bytes.Equal(first, p)
		return nil
	})
	switch {
	case errors.Is(e, protocol.ErrEmpty):
		if e := mended(l, victim); e != nil {
			return e
		}
		a.finish()
	case e != nil:
		return e
	case calls == 1 && changed:
		return errors.New("torn: a value changed under its reader")
	}
	if err != nil {
		return err
	}
	if r := get(a.mem, wordResult); r != resultOK && (r != resultStale || opA != opSet) && (r != resultEmpty || s.version != 0) {
		return fmt.Errorf("the parked process got result %d", r)
	}
	_, _, err = s.judge(a.mem, 0)
	return err
}
