package crashpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// mutantEnv is set in tests that look at a mutant: they may stop at the first difference.
const mutantEnv = "SHMD_CRASHPOINT_MUTANT"

// mutant is a wrong pkg/protocol (or the package that file leads to from there): in file, old is replaced by new. old must be there exactly once. by is the hunter that is sent
// first; core: is hunted in every run, not only with SHMD_TORTURE=1.
type mutant struct {
	name, by       string
	core           bool
	file, old, new string
}

// What Commit does, and the part of it that publishes.
const (
	publish = `	for {
		ready := MakeWord(PhaseReady, 0, 0, w.Lap())
		if s.State.CompareAndSwap(uint64(w), uint64(ready)) { // C: publishes payload and length; pairs with F
			break
		}
		if w = Word(s.State.Load()); w&^passedBit != l.word {
			return ErrLost
		}
	}
`
	commitBlock = "	sys.StoreRelease(s.meta(), meta)\n" + publish + `	if l.suspect || w.Passed() {
		q.lower(l.slot) // D: after C; pairs with H, J
	}
`
)

var mutants = []mutant{
	{"claim without owner", "kill", true, "queue.go", "mine := MakeWord(PhaseWriting, owner, 0, lap)", "mine := MakeWord(PhaseWriting, 0, 0, lap)"},
	{"tail moves before the claim", "parked", false, "queue.go",
		"			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // A",
		"			if !q.info.Tail.CompareAndSwap(t, t+1) {\n				continue\n			}\n			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // A"},
	{"nobody helps tail", "parked", false, "queue.go",
		"		if w.Lap() == lap { // claimed at this very position: tail lags behind\n			q.info.Tail.CompareAndSwap(t, t+1)\n			continue\n		}",
		"		if w.Lap() == lap {\n			return Loan{}, ErrFull\n		}"},
	{"a held slot stops producers", "parked", false, "queue.go", "if w.Phase() == PhaseReady {\n			// K", "if q.lower(t); true {\n			// K"},
	{"no help at full [K]", "parked", true, "queue.go", "if q.lower(t) {\n				q.Receivers.Ring(1)\n			}", ""},
	{"commit without lower [D]", "parked", true, "queue.go", "if l.suspect || w.Passed() {", "if false {"},
	{"commit lowers before it publishes", "parked", false, "queue.go", commitBlock,
		"	if l.suspect || w.Passed() {\n		q.lower(l.slot)\n	}\n	sys.StoreRelease(s.meta(), meta)\n" + publish},
	{"commit publishes before the length", "parked", false, "queue.go", commitBlock,
		publish + "	sys.StoreRelease(s.meta(), meta)\n	if l.suspect || w.Passed() {\n		q.lower(l.slot)\n	}\n"},
	{"commit in two steps, owner first", "kill", true, "queue.go", "	sys.StoreRelease(s.meta(), meta)\n	for {",
		"	sys.StoreRelease(s.meta(), meta)\n	if c := MakeWord(PhaseWriting, 0, 0, w.Lap()) | w&passedBit; s.State.CompareAndSwap(uint64(w), uint64(c)) {\n		w, l.word = c, c&^passedBit\n	}\n	for {"},
	{"commit without wake [E]", "wake", false, "queue.go", "	q.Receivers.RingOne() // E\n", ""},
	{"skip does not mark the slot [P]", "parked", false, "queue.go", "if !w.Passed() && !s.State", "if false && !s.State"},
	{"skip without looking back [J]", "parked", true, "queue.go", "if Word(s.State.Load()).Phase() == PhaseReady { // J", "if false { // J"},
	{"head moves before the lease", "parked", false, "queue.go",
		"			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // F",
		"			q.info.Head.CompareAndSwap(h, h+1)\n			if !s.State.CompareAndSwap(uint64(w), uint64(mine)) { // F"},
	{"lease without owner", "kill", false, "queue.go", "mine := MakeWord(PhaseReading, owner, w.Deliveries(), w.Lap())", "mine := MakeWord(PhaseReading, 0, w.Deliveries(), w.Lap())"},
	{"no lap check", "parked", true, "queue.go", "if int32(w.Lap()-q.lap(h)) > 0 && q.info.Tail.Load() != t {", "if false {"},
	{"no wake-up is passed on [L]", "unit", true, "queue.go", "if t-h > 1 && q.Receivers.Sleepers() != 0 {", "if false {"},
	{"no ringSenders at lease", "unit", true, "queue.go", "q.ringSenders(h) // producers that met", "// producers that met"},
	{"no ringSenders at claim", "unit", true, "queue.go", "q.ringSenders(t)                            // one slot", "// one slot"},
	{"ack keeps the lap", "parked", true, "queue.go", "uint64(MakeWord(PhaseFree, 0, 0, l.word.Lap()+1))) { // G", "uint64(MakeWord(PhaseFree, 0, 0, l.word.Lap()))) { // G"},
	{"ack without wake", "wake", false, "queue.go", "	q.counters(l.word.Owner()).Acked.Add(uint64(l.open))\n	q.Senders.RingOne()", "	q.counters(l.word.Owner()).Acked.Add(uint64(l.open))"},
	{"nack loses the message", "kill", true, "queue.go", "	next := MakeWord(PhaseReady, 0, n, w.Lap())", "	next := MakeWord(PhaseFree, 0, 0, w.Lap()+1)"},
	{"nack without lower", "kill", false, "queue.go", "		return\n	}\n	q.lower(i)\n}", "		return\n	}\n}"},
	{"deliveries are not raised", "kill", false, "queue.go", "n := min(w.Deliveries()+deliveries, maxDeliveries)", "n := min(w.Deliveries()+0*deliveries, maxDeliveries)"},
	{"repair forgets READING", "kill", true, "queue.go", "				if !q.giveBack(i, w, 1) {\n					continue\n				}\n", ""},
	{"repair does not raise deliveries", "kill", true, "queue.go", "				if !q.giveBack(i, w, 1) {\n					continue\n				}\n",
		"				if !s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseReady, 0, w.Deliveries(), w.Lap()))) {\n					continue\n				}\n				q.lower(i)\n"},
	{"repair publishes what was being written", "kill", false, "queue.go", "uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1))) { // R", "uint64(MakeWord(PhaseReady, 0, 0, w.Lap()))) { // R"},
	{"repair forgets MOVING", "kill", false, "queue.go", "				if !s.State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseDead, 0, w.Deliveries(), w.Lap())|w&reasonMask)) {\n					continue\n				}\n", ""},
	{"repair does not lower head", "kill", true, "queue.go", "p := t - min(t, q.mask+1)", "p := h + t - t"},
	{"repair without wake-all", "wake", true, "queue.go", "	q.Receivers.RingAll()\n	q.Senders.RingAll()\n", ""},
	{"repair does not look beyond tail", "kill", false, "queue.go", "if t := q.info.Tail.Load() + 1; t <= q.mask {", "if t := q.info.Tail.Load(); t <= q.mask {"},
	{"repair takes the slots of the living", "kill", false, "queue.go", "if w.Owner() == 0 || !dead(w.Owner()) {", "if w.Owner() == 0 {"},
	{"Present is not cleared", "kill", true, "queue.go", "q.deadLetter(i).Present.Store(0)", "_ = i"},
	{"hasDead is ignored", "kill", true, "deadletter.go", "copied := index == f.Len() || to.hasDead(position, index)", "copied := index == f.Len()"},
	{"a consumed dead letter is forgotten", "kill", false, "deadletter.go", "			if d.Present.Load() == 1 {", "			if false {"},
	{"slot freed before the dead letter is committed", "kill", false, "deadletter.go", "			loan, err := to.TryLoan(owner)\n",
		"			s.State.CompareAndSwap(uint64(moving), uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1)))\n			loan, err := to.TryLoan(owner)\n"},
	{"a rejected message has no reason", "kill", true, "reject.go", " | Word(reason)<<SlotPassedShift&reasonMask\n", "\n"},
	{"repair of a move forgets the reason", "kill", false, "queue.go", "uint64(MakeWord(PhaseDead, 0, w.Deliveries(), w.Lap())|w&reasonMask)", "uint64(MakeWord(PhaseDead, 0, w.Deliveries(), w.Lap()))"},
	{"reject goes by way of free", "kill", false, "reject.go", "	if !q.slot(i).State.CompareAndSwap(uint64(w), uint64(dead)) { // N", "	if !q.slot(i).State.CompareAndSwap(uint64(w), uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1))) || !q.slot(i).State.CompareAndSwap(uint64(MakeWord(PhaseFree, 0, 0, w.Lap()+1)), uint64(dead)) {"},
	{"trim claims without owner [A']", "admin", true, "queueadmin.go", "mine := MakeWord(PhaseWriting, owner, 0, w.Lap())", "mine := MakeWord(PhaseWriting, 0, 0, w.Lap())"},
	{"trim punches the first page too", "admin", false, "queueadmin.go", "punch(q.b[at+pageSize : at+q.stride])", "punch(q.b[at : at+q.stride])"},
	{"trim punches before it claims", "admin", false, "queueadmin.go", "		if w.Phase() != PhaseFree {\n			continue\n		}\n", "		if w.Phase() != PhaseFree {\n			punch(q.b[q.offset+i*q.stride+pageSize : q.offset+(i+1)*q.stride])\n			continue\n		}\n"},
	{"purge drops what it has not leased", "admin", false, "queueadmin.go", "		if q.Ack(l) == nil {\n", "		q.slot(l.slot ^ 1).State.Store(uint64(MakeWord(PhaseFree, 0, 0, l.word.Lap()+1)))\n		if q.Ack(l) == nil {\n"},
	{"trim does not see that its slot was passed", "beside", false, "queueadmin.go", "			if v = Word(s.Load()); v&^passedBit != mine {", "			if v = Word(s.Load()); v != mine {"},
	{"purge goes on as long as something comes", "beside", false, "queueadmin.go", "case !q.before(l, end):", "case !q.before(l, end+1<<20):"},
	{"purge counts what is another's again", "beside", false, "queueadmin.go", "		if q.Ack(l) == nil {\n			messages += l.Open()\n		}\n", "		messages += l.Open()\n		q.Return(l)\n		if l, err = q.TryReceive(owner); err == nil {\n			q.Ack(l)\n		}\n"},
	{"a drain does not count what is being written [Y]", "beside", true, "queueadmin.go", "return s.Writing + s.Ready", "return s.Ready"},
	{"a drain refuses nobody [Z]", "beside", false, "queueadmin.go", "if q.info.Drain.Load() == 0 { // Z", "if true { // Z"},
	{"RingAll keeps the count", "unit", false, "waiters.go", "		next := (w>>32 + 1) << 32\n", "		next := (w>>32+1)<<32 | w&counted\n"},
	{"who found a message passes nothing on [M]", "wake", true, "queue.go", "	if int64(q.info.Tail.Load()-q.info.Head.Load()) > 0 {", "	if false {"},
	{"who is on its way is relied on for ever", "unit", false, "waiters.go", "now-was < d.late || !d.chosen", "now-was >= 0 || !d.chosen"},
	{"nobody takes down when one was chosen", "unit", false, "waiters.go", "d.chosen.Store(uint64(sys.MonotonicNs()))", "d.chosen.Store(0)"},
	{"sleepers are not counted", "unit", false, "waiters.go", "		next := w + 1\n", "		next := w\n"},
}

// latestMutants are for latest.go; latestHunters hunt them.
var latestMutants = []mutant{
	{"claim without owner", "kill", true, "latest.go", "mine := makeLatestWord(PhaseWriting, owner, c.next())", "mine := makeLatestWord(PhaseWriting, owner&0|uint16(w), c.next())"},
	{"claim takes the newest value's slot", "unit", false, "latest.go", "if c.version() != 0 && c.slot() == i {", "if c.version() == 0 && c.slot() == i+l.mask+1 {"},
	{"the newest is read before the slot [A1][A2]", "parked", true, "latest.go", "			w := LatestWord(s.State.Load()) // A1\n			if w.held() {\n				continue\n			}\n			c := l.current() // A2",
		"			c := l.current()\n			w := LatestWord(s.State.Load())\n			if w.held() {\n				continue\n			}\n			// A2"},
	{"claim keeps the version in the word", "kill", true, "latest.go", "mine := makeLatestWord(PhaseWriting, owner, c.next())", "mine := makeLatestWord(PhaseWriting, owner, w.Version()+0*c.next())"},
	{"the word keeps the version of the claim [C]", "late", true, "latest.go", "if !d.word.of(v) {", "if false {"},
	{"the slot is let go before it is published", "parked", true, "latest.go",
		"		if l.info.Current.CompareAndSwap(uint64(c), uint64(makeCurrent(v, d.slot))) { // D",
		"		s.State.CompareAndSwap(uint64(d.word), uint64(makeLatestWord(PhaseReady, 0, v)))\n		if l.info.Current.CompareAndSwap(uint64(c), uint64(makeCurrent(v, d.slot))) { // D"},
	{"the slot is never let go [E]", "unit", false, "latest.go", "s.State.CompareAndSwap(uint64(d.word), uint64(makeLatestWord(PhaseReady, 0, v))) // E", "// E"},
	{"published before the length", "kill", true, "latest.go", "	s.Length.Store(uint32(n))\n	for range mostTries {", "	defer s.Length.Store(uint32(n))\n	for range mostTries {"},
	{"published without a look at what is there", "parked", true, "latest.go", "if l.info.Current.CompareAndSwap(uint64(c), uint64(makeCurrent(v, d.slot))) { // D",
		"if l.info.Current.Store(uint64(makeCurrent(v, d.slot))); true { // D"},
	{"compare-and-set does not compare", "unit", false, "latest.go", "if !wanted(c.version()) {", "if false {"},
	{"published without a wake", "wake", true, "latest.go", "			l.Changes.Broadcast()\n", ""},
	{"a reader does not look at the version again [H]", "parked", true, "latest.go", "	sys.FenceLoads() // H: what was read, before the word; pairs with A and B\n	return LatestWord(g.slot.State.Load()).of(g.version)", "	return true"},
	{"a reader goes by the slot alone", "parked", false, "latest.go", "func (g *glimpse) begun() bool { return LatestWord(g.slot.State.Load()).of(g.version) }", "func (g *glimpse) begun() bool { g.version = LatestWord(g.slot.State.Load()).Version(); return true }"},
	{"repair forgets", "kill", false, "latest.go", "if !w.held() || !dead(w.Owner()) {", "if true {"},
	{"repair takes the slots of the living", "kill", false, "latest.go", "if !w.held() || !dead(w.Owner()) {", "if !w.held() {"},
	{"repair calls a published slot FREE", "kill", true, "latest.go", "if w.after(l.Version()) {", "if true {"},
	{"repair forgets the version", "pairs", false, "latest.go", "next := makeLatestWord(PhaseReady, 0, w.Version())\n		if", "next := makeLatestWord(PhaseReady, 0, 0)\n		if"},
	{"repair without wake-all", "wake", true, "latest.go", "	l.Changes.RingAll()\n	return r", "	return r"},
	{"0 is a version", "unit", false, "latest.go", "return max(1, (c.version()+1)&(1<<LatestInfoVersionBits-1))", "return (c.version() + 1) & (1<<LatestInfoVersionBits - 1)"},
	{"a draft holds the slot that it is given back from", "unit", false, "latest.go", "uint64(makeLatestWord(PhaseFree, 0, d.word.Version()))) { // G", "uint64(d.word)) { // G"},
}

var latestHunters = []hunter{
	{"unit", "./pkg/protocol", "^TestLatest"},
	{"kill", "./test/crashpoint", "^TestLatestKill$"},
	{"parked", "./test/crashpoint", "^TestLatestParked$"},
	{"late", "./test/crashpoint", "^TestLatestLateKill$"},
	{"wake", "./test/crashpoint", "^TestLatestWake$"},
	{"repair", "./test/crashpoint", "^TestLatestRepairKilled$"},
	{"pairs", "./test/crashpoint", "^TestLatestPairs$"},
}

// topicMutants are for the topic; topicHunters hunt them.
var topicMutants = []mutant{
	{"join without raising the version [J]", "join", true, "topicsub.go", "if t.info.Limit.CompareAndSwap(w, w+1<<32) {", "if w != w+1 {"},
	{"join stays where it was overtaken", "joiner", false, "topicsub.go", "if floor := limit - t.mask - 1; int64(floor-s.next) > 0 {", "if floor := limit; false && floor != 0 {"},
	{"what was read counts without a look at the row", "parked", true, "topicsub.go", "	if s.row.State.Load() != s.state {\n		return s.ended()\n	}\n	if s.t.dropOldest && int64", "	if s.t.dropOldest && int64"},
	{"what was read counts without a look at floor [D]", "unit", true, "topicsub.go", "if s.t.dropOldest && int64(s.t.info.Floor.Load()-s.next) > 0 { // D", "if false { // D"},
	{"claim without owner", "kill", true, "topicpub.go", "mine := MakeWord(PhaseWriting, p.owner, 0, lap)", "mine := MakeWord(PhaseWriting, 0, 0, lap)"},
	{"published before the payload's length", "kill", true, "topicpub.go", "	binary.LittleEndian.PutUint32(t.length(l.position), uint32(n))\n	t.store(&s.State,", "	defer binary.LittleEndian.PutUint32(t.length(l.position), uint32(n))\n	t.store(&s.State,"},
	{"publishers go one beyond the slowest cursor", "unit", false, "topicpub.go", "		next := lowest + t.mask + 1\n", "		next := lowest + t.mask + 2\n"},
	{"repair publishes what was being written", "kill", true, "topicpub.go", "uint64(MakeWord(PhaseSkip, 0, 0, w.Lap()))", "uint64(MakeWord(PhaseReady, 0, 0, w.Lap()))"},
	{"repair forgets cursors", "kill", false, "topicstat.go", "if t.free(row, w) { // R", "if true { // R"},
	{"repair gives up the loans of the living", "pairs", false, "topicstat.go", "if w.Phase() != PhaseWriting || !dead(w.Owner()) {", "if w.Phase() != PhaseWriting {"},
	{"repair ends the cursors of the living", "pairs", false, "topicstat.go", "if CursorPhase(w&cursorPhaseMask) == CursorPhaseFree || !dead(cursorOwner(w)) {", "if CursorPhase(w&cursorPhaseMask) == CursorPhaseFree {"},
	{"repair keeps the publisher", "kill", false, "topicstat.go", "t.info.Publisher.CompareAndSwap(o, 0)", "_ = o"},
	{"repair does not help tail", "kill", false, "topicstat.go", "t.info.Tail.CompareAndSwap(tail, tail+1)", "break"},
	{"a run counts without a look at floor [D]", "batch", false, "topicsub.go", "		if t.dropOldest && int64(t.info.Floor.Load()-s.next) > 0 { // D\n", "		if false { // D\n"},
	{"a run counts without a look at the row", "batch", false, "topicsub.go", "		if s.row.State.Load() != s.state {\n			return n, s.ended()\n		}\n", ""},
	{"a batch moves tail before it writes", "batch", false, "topicpub.go", "	t.writeAll(position, msgs)\n	t.store(&t.info.Tail, position+uint64(len(msgs))) // F\n", "	t.store(&t.info.Tail, position+uint64(len(msgs)))\n	t.writeAll(position, msgs)\n"},
	{"a batch is gathered a place too early", "unit", false, "topicpub.go", "sys.Gather64(t.b[t.payloads+at*64:]", "sys.Gather64(t.b[t.payloads+(at-1)&t.mask*64:]"},
	{"a batch publishes the last message first", "batch", false, "topicpub.go", "		at := first.position + uint64(i)\n		t.store(", "		at := first.position + uint64(n-1-i)\n		t.store("},
	{"TryPublish moves tail before it writes", "batch", false, "topicpub.go", "	t.putSmall(position, msg)\n	t.store(&t.info.Tail, position+1) // F\n", "	t.store(&t.info.Tail, position+1)\n	t.putSmall(position, msg)\n"},
	{"a large message moves tail before it is written", "unit", false, "topicpub.go", "	t.write(position, msg)\n	t.store(&t.info.Tail, position+1) // F\n", "	t.store(&t.info.Tail, position+1)\n	t.payload(position, 1)[0]++\n"},
	{"one publisher, TryPublish without wake", "wake", false, "topicpub.go", "	if t.Receivers.Sleepers() != 0 {  // W: the membarrier of a subscriber that registers orders it behind F\n		t.Receivers.Ring(Everybody)\n	}\n", ""},
	{"publish without wake", "wake", true, "topicpub.go", "uint64(MakeWord(PhaseReady, 0, 0, l.word.Lap()))) // F\n	t.Receivers.Ring(Everybody)\n", "uint64(MakeWord(PhaseReady, 0, 0, l.word.Lap()))) // F\n"},
	{"one publisher, without wake", "wake", false, "topicpub.go", "		t.store(&t.info.Tail, l.position+1) // F: publishes payload and length; pairs with G\n		t.Receivers.Ring(Everybody)\n", "		t.store(&t.info.Tail, l.position+1) // F\n"},
	{"receive without wake", "wake", false, "topicsub.go", "	if !s.t.dropOldest {\n		s.t.Senders.Ring(Everybody)\n	}\n", ""},
	{"repair wakes nobody", "wake", false, "topicstat.go", "	t.Receivers.RingAll()\n	t.Senders.RingAll()\n", ""},
	{"an evicted row is freed before it is noted", "evictor", true, "topicsub.go", "	if CursorPhase(w&cursorPhaseMask) == CursorPhaseEvicted {\n		row.note(w)\n	}\n", ""},
	{"an eviction is noted without a look at the row", "evictor", false, "topicevict.go", "		if row.State.Load() != w {", "		if false {"},
	{"an eviction's record comes after it is counted [N]", "evictor", false, "topicevict.go", "		if old != w && !place.CompareAndSwap(old, w) {\n			continue\n		}\n", "		defer place.CompareAndSwap(old, w)\n"},
	{"an eviction's record is a plain store", "evictor", false, "topicevict.go", "		if old != w && !place.CompareAndSwap(old, w) {\n			continue\n		}\n", "		place.Store(w + old&0)\n"},
	{"an eviction forgets its cause [K]", "evictor", false, "topicevict.go", " | uint64(why)<<evictCauseShift", ""},
	{"a lapped subscriber miscounts", "unit", false, "topicsub.go", "gone := to - s.next", "gone := to - s.next - 1"},
}

var topicHunters = []hunter{
	{"unit", "./pkg/protocol", "^TestTopic"},
	{"kill", "./test/crashpoint", "^TestTopicKill$"},
	{"parked", "./test/crashpoint", "^TestTopic(Publisher)?Parked$"},
	{"wake", "./test/crashpoint", "^TestTopicWake$"},
	{"join", "./test/crashpoint", "^TestTopicJoin$"},
	{"repair", "./test/crashpoint", "^TestTopicRepairKilled$"},
	{"pairs", "./test/crashpoint", "^TestTopicPairs$"},
	{"batch", "./test/crashpoint", "^TestTopic(Batch(Kill|Parked)|RunParked)$"},
	{"joiner", "./test/crashpoint", "^TestTopicJoinerParked$"},
	{"evictor", "./test/crashpoint", "^TestTopicEvictor$"},
}

// callMutants are for call.go; callHunters hunt them.
var callMutants = []mutant{
	{"claim without caller [A]", "kill", true, "call.go", "mine := MakeCallWord(CallPhaseCalling, caller, 0, 0, w.Seq())", "mine := MakeCallWord(CallPhaseCalling, caller&0, 0, 0, w.Seq())"},
	{"accept without server [D]", "kill", true, "call.go", "mine := w.with(CallPhaseServing, w.Caller(), server)", "mine := w.with(CallPhaseServing, w.Caller(), server&0)"},
	{"accept forgets the caller", "kill", false, "call.go", "mine := w.with(CallPhaseServing, w.Caller(), server)", "mine := w.with(CallPhaseServing, 0, server)"},
	{"sent before the length [B]", "kill", true, "call.go", "	sys.StoreRelease(&s.Request, uint64(n)<<CallSlotLengthShift|uint64(ticket))\n", "	defer sys.StoreRelease(&s.Request, uint64(n)<<CallSlotLengthShift|uint64(ticket))\n"},
	{"SendCopy sends before it copies", "kill", false, "call.go", "	copy(to, p)\n	return c.send(r, len(to), ticket)\n", "	err := c.send(r, len(to), ticket)\n	copy(to, p)\n	return err\n"},
	{"answered before the length [E]", "parked", false, "call.go", "	sys.StoreRelease(&s.Reply, uint64(n)<<CallSlotReplyLengthShift|uint64(uint32(code)))\n", "	defer sys.StoreRelease(&s.Reply, uint64(n)<<CallSlotReplyLengthShift|uint64(uint32(code)))\n"},
	{"the caller frees what is served [H]", "kill", true, "call.go", "	if w.Phase() == CallPhaseServing {\n		next =", "	if false {\n		next ="},
	{"the server keeps what nobody waits for", "kill", true, "call.go", "if w.Caller() == 0 { // the last to leave frees the slot", "if false {"},
	{"the answer lies over the request", "unit", false, "call.go", "at := (SizeofCallSlot + uint64(n) + 7) &^ 7; at < 64", "at := uint64(SizeofCallSlot); n >= 0"},
	{"repair forgets servers [R]", "kill", true, "call.go", "if w.Phase() == CallPhaseServing && dead(w.Server()) {", "if false {"},
	{"repair forgets callers", "kill", true, "call.go", "if w.Phase() != CallPhaseFree && w.Caller() != 0 && dead(w.Caller()) {", "if false {"},
	{"repair forgets the second owner", "kill", true, "call.go", "	case w.Caller() == 0:\n		next = w.free()\n	case died", "	case died"},
	{"repair forgets what is answered", "kill", false, "call.go", "if w.Phase() != CallPhaseFree && w.Caller() != 0 && dead(w.Caller()) {", "if !w.settled() && w.Phase() != CallPhaseFree && w.Caller() != 0 && dead(w.Caller()) {"},
	{"repair serves again what is to fail", "kill", false, "call.go", "case died && c.flags&CallFlagFailOnDeath != 0, ", "case "},
	{"reach is raised after the claim", "kill", true, "call.go", "		c.info.Reach.CompareAndSwap(n, n+1) // before the claim: servers and repairs look at the slots below it\n		if r, ok := c.claim(n, caller); ok && c.info.Reach.Load() > n {",
		"		r, ok := c.claim(n, caller)\n		c.info.Reach.CompareAndSwap(n, n+1)\n		if ok && c.info.Reach.Load() > n {"},
	{"deliveries are not raised", "unit", false, "call.go", "n := min(w.Deliveries()+1, maxDeliveries)", "n := w.Deliveries()"},
	{"answered without a wake [F]", "wake", true, "call.go", "			c.wake(s, w)\n			c.counters(v.word.Server()).Answered.Add(1)", "			c.counters(v.word.Server()).Answered.Add(1)"},
	{"repair rings no caller", "wake", true, "call.go", "			if w.settled() { // who settled", "			if false { // who settled"},
	{"repair without wake-all", "wake", false, "call.go", "	c.Servers.RingAll()\n	c.Callers.RingAll()\n", ""},
	{"any request will do", "unit", true, "call.go", "!ok || int32(t-ticket) < 0", "!ok || t == ticket"},
	{"tickets without a wrap", "unit", false, "call.go", "int32(t-ticket) < 0", "t < ticket"},
}

var callHunters = []hunter{
	{"unit", "./pkg/protocol", "^TestCall"},
	{"kill", "./test/crashpoint", "^TestCallKill$"},
	{"parked", "./test/crashpoint", "^TestCallParked$"},
	{"wake", "./test/crashpoint", "^TestCallWake$"},
	{"pairs", "./test/crashpoint", "^TestCallPairs$"},
}

type hunter struct{ name, pkg, run string }

// hunters are what a mutant has to get past.
var hunters = []hunter{
	{"unit", "./pkg/protocol", "^TestQueue"},
	{"kill", "./test/crashpoint", "^TestKill$"},
	{"parked", "./test/crashpoint", "^TestParked$"},
	{"wake", "./test/crashpoint", "^TestWake$"},
	{"repair", "./test/crashpoint", "^TestRepairKilled$"},
	{"pairs", "./test/crashpoint", "^TestPairs$"},
	{"admin", "./test/crashpoint", "^Test(Trim|Purge)Kill$"},
	{"beside", "./test/crashpoint", "^Test((Drain|Drainer|Purge|Trim)Parked|PurgeEnds)$"},
}

// TestMutants breaks pkg/protocol on purpose, in many ways, one at a time, and looks who notices: tests that find nothing in right
// code are worth what they find in wrong code. A hunter that fails, or is not done in a minute (they take seconds), has found the mutant.
// One after the other is sent until one has found it. SHMD_TORTURE=1: all mutants; SHMD_TORTURE=all: and each hunter to each of them.
func TestMutants(t *testing.T) { hunt(t, mutants, hunters) }

// TestLatestMutants is TestMutants for the latest value.
func TestLatestMutants(t *testing.T) { hunt(t, latestMutants, latestHunters) }

// TestTopicMutants is TestMutants for the topic.
func TestTopicMutants(t *testing.T) { hunt(t, topicMutants, topicHunters) }

// TestCallMutants is TestMutants for calls.
func TestCallMutants(t *testing.T) { hunt(t, callMutants, callHunters) }

func hunt(t *testing.T, mutants []mutant, hunters []hunter) {
	if quick() {
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caught := map[string]int{}
	var table strings.Builder
	found, shown := 0, 0
	var mu sync.Mutex  // of all of these
	t.Cleanup(func() { // when all have ended
		t.Logf("mutants: %d of %d found (%d are known); %v%s", found, shown, len(mutants), caught, table.String())
	})
	for i, m := range mutants {
		overlay, err := m.overlay(root, dir, i)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if err != nil || !m.core && !torture() {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel() // a linker and a hunter take about one processor
			row := fmt.Sprintf("\n%-50s", m.name)
			yes := false
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				shown++
				table.WriteString(row)
				if yes {
					found++
				}
			}()
			binaries := map[string]string{}
			for _, h := range m.order(hunters) {
				if yes && os.Getenv(tortured) != "all" {
					break
				}
				bin, ok := binaries[h.pkg]
				if !ok {
					bin = filepath.Join(dir, strconv.Itoa(i)+strings.NewReplacer("/", "_", ".", "").Replace(h.pkg))
					out, err := command(root, 5*time.Minute, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", bin, h.pkg)
					if err != nil {
						t.Fatalf("build: %v\n%s", err, out)
					}
					binaries[h.pkg] = bin
				}
				out, err := command(filepath.Join(root, h.pkg), 70*time.Second, "env", "GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay, bin, "-test.run", h.run, "-test.failfast", "-test.timeout", "60s")
				switch {
				case err == nil:
					row += fmt.Sprintf(" %s: no;", h.name)
					continue
				case strings.Contains(string(out), "test timed out"):
					row += fmt.Sprintf(" %s: FOUND, hangs;", h.name)
				default:
					row += fmt.Sprintf(" %s: FOUND;", h.name)
				}
				if why := regexp.MustCompile(`(?m)^.*_test.go:\d+: (.*)$`).FindSubmatch(out); why != nil && !yes {
					row += fmt.Sprintf(" (%.110s)", why[1])
				}
				mu.Lock()
				caught[h.name]++
				mu.Unlock()
				yes = true
			}
			if !yes {
				t.Error("nobody found it")
			}
		})
	}
}

// order is hunters, beginning with the one who should find it.
func (m mutant) order(hunters []hunter) (o []hunter) {
	for _, h := range hunters {
		if h.name == m.by {
			o = append([]hunter{h}, o...)
		} else {
			o = append(o, h)
		}
	}
	return o
}

func (m mutant) overlay(root, dir string, i int) (string, error) {
	path := filepath.Join(root, "pkg/protocol", m.file)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return "", fmt.Errorf("what it replaces is %d times in %s: write the mutant anew", n, m.file)
	}
	changed := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(m.file)))
	if err := os.WriteFile(changed, []byte(strings.Replace(string(b), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	j, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, fmt.Sprintf("%d.json", i))
	return overlay, os.WriteFile(overlay, j, 0o600)
}

func command(dir string, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), mutantEnv+"=1")
	return c.CombinedOutput()
}
