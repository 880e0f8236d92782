package crashpoint

import "testing"

// laneMutants are for lane.go, lanerepair.go, laneend.go, lanebatch.go, frame.go and what frames have of deadletter.go; laneHunters hunt them.
var laneMutants = []mutant{
	{"acked moves before the stamps [Y]", "kill", true, "lane.go", "		l.stampLeases(p)\n		l.done(p + 1)\n	default: // it was overtaken",
		"		old := l.acked\n		l.done(p + 1)\n		now := l.acked\n		l.acked = old\n		l.stampLeases(p)\n		l.acked = now\n	default: // it was overtaken"},
	{"leases that are overtaken have no name", "kill", false, "lane.go", "uint64(MakeWord(PhaseReading, l.receiver, 0, l.q.lap(o)))) // Y", "uint64(MakeWord(PhaseReading, 0, 0, l.q.lap(o)))) // Y"},
	{"loans that are overtaken are not stamped [X]", "unit", false, "lane.go", "		if l.isLoaned(l.tail) {\n", "		if false {\n"},
	{"tail moves over all loans at once", "kill", false, "lane.go", "		sys.StoreRelease(&q.info.Tail, l.tail+1) // B\n	}", "	}"},
	{"tail moves before the commit [C]", "parked", true, "lane.go", "	sys.StoreRelease(&s.State, uint64(q.ready(p))) // C: publishes payload and length; pairs with F\n	l.tail = p + 1\n	l.publish()\n",
		"	l.tail = p + 1\n	l.publish()\n	sys.StoreRelease(&s.State, uint64(q.ready(p)))\n"},
	{"committed before the length", "parked", false, "lane.go", "	sys.StoreRelease(s.meta(), meta)\n	sys.StoreRelease(&s.State, uint64(q.ready(p))) // C",
		"	sys.StoreRelease(&s.State, uint64(q.ready(p)))\n	sys.StoreRelease(s.meta(), meta)\n	// C"},
	{"no second look at the slot", "parked", true, "lane.go", "		if Word(s.State.Load()) == q.ready(p) { // it was committed between the two loads\n			continue\n		}\n", ""},
	{"the consumer goes by the phase alone [F]", "unit", false, "lane.go", "if Word(s.State.Load()) == q.ready(p) { // F: pairs with C", "if Word(s.State.Load()).Phase() == PhaseReady { // F"},
	{"a slot that came back is free", "kill", false, "lane.go", "w.Phase() == PhaseReady && !w.Passed()\n}", "w.Phase() == PhaseReady\n}"},
	{"head is not stored", "kill", true, "lane.go", "		sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery\n", "		_ = l.head\n"},
	{"acked before head in ReceiveTo", "kill", false, "lane.go", "	sys.StoreRelease(&q.info.Head, l.head) // before G: Acked is never beyond Head\n	l.end(lease)\n	l.countAck(1)\n",
		"	l.end(lease)\n	sys.StoreRelease(&q.info.Head, l.head)\n	l.countAck(1)\n"},
	{"a position that is passed over is not acked", "unit", false, "lane.go", "		l.stampLeases(p)\n		l.done(p + 1)\n	}\n	return Lease{}, q.corrupt", "	}\n	return Lease{}, q.corrupt"},
	{"a nack does not count [G]", "unit", false, "lane.go", "	if leased {\n		l.done(p + 1) // after N\n	}\n", ""},
	{"a nack before the stamps", "kill", false, "lane.go", "	if leased {\n		l.stampLeases(p)\n	}\n	if !how(p, w) { // N\n		return ErrLost\n	}\n", "	if leased {\n		old := l.acked\n		l.done(p + 1)\n		l.acked, old = old, l.acked\n		l.stampLeases(p)\n		l.acked = old\n		leased = false\n	}\n	if !how(p, w) { // N\n		return ErrLost\n	}\n"},
	{"a new consumer goes back to tail", "parked", false, "lane.go", "t-l.head+1 > q.mask+2", "t-l.head > q.mask+1"},
	{"a new producer does not look at head", "unit", false, "lanerepair.go", " && int64(q.info.Head.Load()-t) <= 0 ||", " ||"},
	{"a new producer does not mend tail", "kill", false, "lanerepair.go", "		t := q.info.Tail.Load()\n		if Word(q.slot(t).State.Load()) != q.ready(t) && ", "		t := q.info.Tail.Load()\n		if "},
	{"no look at acked again before full", "unit", false, "lane.go", "if room == l.room {", "if true {"},
	{"what came back is not announced", "unit", false, "queue.go", "		q.info.Returned.Add(1)\n		return\n", "		return\n"},
	{"Producer.SendRun before its messages", "kill", false, "laneend.go", "	n, meta := p.l.q.putRun(at, b, size)\n	p.l.commitAt(at, meta, n)\n", "	n, meta := p.l.q.putRun(at, make([]byte, len(b)), size)\n	p.l.commitAt(at, meta, n)\n	p.l.q.putRun(at, b, size)\n"},
	{"Producer.SendBatch before its messages", "kill", false, "laneend.go", "	n, meta := l.q.putBatch(at, msgs)\n	l.commitAt(at, meta, n)\n", "	blank := make([][]byte, len(msgs))\n	for i := range blank {\n		blank[i] = make([]byte, len(msgs[i]))\n	}\n	n, meta := l.q.putBatch(at, blank)\n	l.commitAt(at, meta, n)\n	l.q.putBatch(at, msgs)\n"},
	{"Consumer.TryReceive without head", "kill", false, "laneend.go", "	sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery\n", "	_ = sys.FutexWake\n"},
	{"Lane.ReceiveBatch without head", "kill", false, "lanebatch.go", "			sys.StoreRelease(&l.q.info.Head, l.head) // before the caller sees it: a repair counts the delivery\n", "			_ = sys.FutexWake\n"},
	{"Lane.AckBatch counts and frees nothing", "kill", false, "lanebatch.go", "	if l.end(lease) {\n", "	if lease.open > 0 {\n"},
	{"lane: rejected by way of acked", "kill", false, "lane.go", "	if leased {\n		l.stampLeases(p)\n	}\n	if !how(p, w) { // N", "	if leased {\n		l.stampLeases(p)\n		if q := l.q; w.Phase() == PhaseReady && q.maxDeliveries > 0 {\n			sys.StoreRelease(&q.info.Acked, p+1)\n		}\n	}\n	if !how(p, w) { // N"},
	{"repair: owner cleared first", "repair", true, "lanerepair.go", "	acked, head := i.Acked.Load(), i.Head.Load()\n	from", "	i.ReceiveOwner.CompareAndSwap(o, 0)\n	acked, head := i.Acked.Load(), i.Head.Load()\n	from"},
	{"repair: acked moves first", "repair", false, "lanerepair.go", "	for p := from; p != head; p++ {\n		if q.giveBack", "	i.Acked.CompareAndSwap(acked, head)\n	for p := from; p != head; p++ {\n		if q.giveBack"},
	{"repair: acked does not move", "kill", false, "lanerepair.go", "	i.Acked.CompareAndSwap(acked, head) // after R", "	// after R"},
	{"repair: leases are forgotten", "kill", false, "lanerepair.go", "		if q.giveBack(p, q.ready(p), 1) { // R\n			leases++\n		}\n", ""},
	{"repair: the living producer's end is given free", "pairs", false, "lanerepair.go", "if o := i.SendOwner.Load(); o != 0 && dead(uint16(o)) {", "if o := i.SendOwner.Load(); o != 0 {"},
	{"repair: the living consumer's leases come back", "pairs", false, "lanerepair.go", "	if o == 0 || !dead(uint16(o)) {\n		return 0\n	}\n	acked,", "	if o == 0 {\n		return 0\n	}\n	acked,"},
	{"repair: the producer's end stays", "kill", false, "lanerepair.go", "i.SendOwner.CompareAndSwap(o, 0)", "_ = o"},
	{"send without wake [E]", "wake", false, "lane.go", "	l.commitAt(p, uint64(len(b)), 1)\n	l.q.Receivers.RingBrisk(&l.calm) // E\n", "	l.commitAt(p, uint64(len(b)), 1)\n"},
	{"a repair takes brisk away", "unit", false, "waiters.go", "			next |= w & brisk", "			next |= 0"},
	{"a sleeper that a repair forgot takes brisk away", "unit", false, "waiters.go", "if Ticket(w>>32) != t || w&brisk == 0 ||", "if w&brisk == 0 ||"},
	{"a sleeper leaves brisk", "unit", false, "waiters.go", "				d.slow(t)\n", ""},
	{"ack without wake", "wake", false, "lane.go", "	l.q.Senders.Ring(int(n))\n", "	_ = n\n"},
	{"a slot held for long is freed without wake", "wake", false, "lane.go", "		return false\n	}\n	q.Senders.Ring(1)\n	return true\n", "		return false\n	}\n	return true\n"},

	{"run: what was acked before comes with it", "unit", true, "frame.go", "	if overlayWord(p).Load() != 0 {\n		return nil, 0\n	}\n	return p[frameData:length:length]", "	return p[frameData:length:length]"},
	{"run: one that killed comes as a whole", "unit", true, "lane.go", "n > 0 && lease.word.Deliveries() == 0 {", "n > 0 {"},
	{"frame: the bit before the count [O][Q]", "kill", true, "frame.go", "	s := &q.slot(l.slot).State\n	if l.word.Deliveries() > 0 && f.FirstOpen(0) == i {", "	s := &q.slot(l.slot).State\n	if first := f.FirstOpen(0); l.word.Deliveries() > 0 && first == i {\n		f.done.Or(1 << i)"},
	{"frame: the count does not begin anew [O]", "unit", false, "frame.go", "if l.word.Deliveries() > 0 && f.FirstOpen(0) == i {", "if false {"},
	{"frame: the last message's ack does not end it", "kill", false, "frame.go", "if f.done == nil || f.Open() == 1 && !f.Done(i) {", "if f.done == nil {"},
	{"frame: [V] without looking for the copy", "kill", true, "deadletter.go", "	if copied {\n		f.done.Or(1 << index) // V\n	}\n", "	f.done.Or(1 << index) // V\n"},
	{"frame: [V] before [U]", "kill", false, "deadletter.go", "	bare := MakeWord(PhaseMoving, moving.Owner(), 0, moving.Lap())\n", "	bare := MakeWord(PhaseMoving, moving.Owner(), 0, moving.Lap())\n	if copied {\n		f.done.Or(1 << index)\n	}\n"},
	{"frame: dead without deliveries is copied", "kill", false, "deadletter.go", "if !copied && w.Deliveries() > 0 {", "if !copied {"},
	{"frame: copies are not told apart", "kill", false, "deadletter.go", "d.Position.Load() != position || int(d.Index.Load()) != index {", "d.Position.Load() != position {"},
}

var laneHunters = []hunter{
	{"unit", "./pkg/protocol", "^Test(Lane|Frame)"},
	{"kill", "./test/crashpoint", "^Test(Frame|Lane)Kill$"},
	{"parked", "./test/crashpoint", "^TestLaneParked$"},
	{"wake", "./test/crashpoint", "^TestLaneWake$"},
	{"repair", "./test/crashpoint", "^TestLaneRepairKilled$"},
	{"pairs", "./test/crashpoint", "^TestLanePairs$"},
}

// TestLaneMutants is TestMutants for lanes and frames.
func TestLaneMutants(t *testing.T) { hunt(t, laneMutants, laneHunters) }
