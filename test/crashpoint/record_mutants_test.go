package crashpoint

import "testing"

// recordMutants are for what has one writer: the log, the roster's rows, and segments that are being made; recordHunters hunt them.
var recordMutants = []mutant{
	{"log: head before the bytes [B]", "kill", false, "logring.go", "	l.seq++\n	for i, w :=", "	l.info.Head.Store(end)\n	l.seq++\n	for i, w :="},
	{"log: head before the text", "kill", false, "logring.go", "	at, have := head+SizeofLogRecord, 0\n", "	l.info.Head.Store(end)\n	at, have := head+SizeofLogRecord, 0\n"},
	{"log: tail after the bytes [A]", "kill", false, "logring.go", "	l.info.Tail.Store(tail) // A: before the bytes of what is dropped are overwritten\n", "	defer l.info.Tail.Store(tail)\n"},
	{"log: one record too few is dropped", "kill", false, "logring.go", "for end-tail > l.size() {", "for end-tail > l.size()+16 {"},
	{"log: no length check of the writer", "kill", false, "logring.go", "	if len(text)+len(attrs)+len(source) > MaxLogText {", "	if false {"},
	{"log: no length check of the reader", "unit", false, "logring.go", "good := n <= MaxLogText && int64(end-c.pos) >= int64(recordBytes(n)) && end-c.pos <= l.size()", "good := true"},
	{"log: what was read counts without a look at tail [A]", "pairs", false, "logring.go", "if int64(l.info.Tail.Load()-c.pos) > 0 { // A", "if false { // A"},
	{"log: head before tail", "reader", true, "logring.go", "		if tail := l.info.Tail.Load(); int64(tail-c.pos) > 0 {\n			c.pos = tail\n		}\n		end := l.info.Head.Load() //",
		"		end := l.info.Head.Load()\n		if tail := l.info.Tail.Load(); int64(tail-c.pos) > 0 {\n			c.pos = tail\n		} //"},
	{"log: a reader stays where it was overtaken", "kill", false, "logring.go", "int64(tail-c.pos) > 0 {\n			c.pos = tail\n", "int64(tail-c.pos) > 0 {\n			_ = tail\n"},
	{"log: nobody says what was lost", "kill", false, "logring.go", "lost = r.Seq - c.next", "lost = 0"},
	{"log: numbers begin anew", "kill", false, "logring.go", "l.seq = max(l.seq, r.Seq)", "_ = r"},
	{"log: written without wake", "wake", false, "logring.go", "	l.info.Bell.Add(1)\n	sys.FutexWake(&l.info.Bell, 1<<30)\n", "	l.info.Bell.Add(1)\n	sys.FutexWake(&l.info.Bell, 0)\n"},

	{"row: not odd before the fields", "roster", true, "header.go", "	seq.Store(s)        // A: pairs with the second load in readRow\n", ""},
	{"row: even again after a death", "roster", false, "header.go", "s := seq.Load() | 1", "s := seq.Load() + 1"},
	{"row: even before the fields", "roster", false, "header.go", "	fn()\n	seq.Store(s + 1) // B", "	defer fn()\n	seq.Store(s + 1) // B"},
	{"row: read without the second look", "rows", false, "header.go", "if s&1 == 0 && seq.Load() == s {", "if s&1 == 0 {"},
	{"row: read in the middle of a change", "roster", false, "header.go", "if s&1 == 0 && seq.Load() == s {", "if seq.Load() == s {"},
	{"row: a worker counts before it is there", "roster", false, "roster.go", "	writeRow(&p.Seq, func() {\n		p.State.Store(uint32(w.State))", "	if n := r.info.WorkerCount.Load(); uint32(i) == n {\n		r.info.WorkerCount.Store(n + 1)\n	}\n	writeRow(&p.Seq, func() {\n		p.State.Store(uint32(w.State))"},
	{"row: a segment counts before it is there", "roster", false, "roster.go", "	writeRow(&p.Seq, func() {\n		p.Kind.Store(uint32(s.Kind))", "	r.info.SegmentCount.Store(uint32(i + 1))\n	writeRow(&p.Seq, func() {\n		p.Kind.Store(uint32(s.Kind))"},

	{"metric: published before its texts [P]", "metric", true, "metric.go", "	r.Kind.Store(uint32(d.Kind))\n	r.Value.Store(0)\n", "	r.State.Store(uint32(MetricStatePublished))\n	r.Kind.Store(uint32(d.Kind))\n	r.Value.Store(0)\n"},
	{"metric: the reset clears what was counted", "metric", false, "metric.go", "		r.Owner.Store(0)\n", "		r.Owner.Store(0)\n		r.Value.Store(0)\n"},
	{"metric: a gauge has its owner before it begins anew", "metric", false, "metric.go", "			if d.Kind == MetricKindGauge && r.Owner.Load() != uint32(pid) {\n", "			r.Owner.Store(uint32(pid))\n			if d.Kind == MetricKindGauge {\n"},
	{"metric: every process defines its own", "metric", false, "metric.go", "		if r.says(d) {\n", "		if false {\n"},

	{"entry: head before the bytes [B]", "entry", true, "workerlog.go", "	w.seq++\n	b := l.ring", "	sys.StoreRelease(&l.info.Head, at+n)\n	w.seq++\n	b := l.ring"},
	{"entry: head before the text", "entry", false, "workerlog.go", "	b = b[SizeofWorkerRecord:]\n	copy(b, text)\n", "	sys.StoreRelease(&l.info.Head, at+n)\n	b = b[SizeofWorkerRecord:]\n	copy(b, text)\n"},
	{"entry: limit after the bytes [A]", "entry", false, "workerlog.go", "		w.begin()\n	}\n	at := w.head\n",
		"		before := l.info.Limit.Load()\n		w.begin()\n		defer l.info.Limit.Store(l.info.Limit.Load())\n		l.info.Limit.Store(before)\n	}\n	at := w.head\n"},
	{"entry: no limit", "unit", false, "workerlog.go", "	sys.StoreRelease(&l.info.Limit, w.end) // A\n", ""},
	{"entry: the rest of a chunk is not marked", "unit", false, "workerlog.go", "	if w.end != w.head {\n		binary", "	if false {\n		binary"},
	{"entry: numbers begin anew", "entry", false, "workerlog.go", "				w.seq = r.Seq\n", "				_ = r\n"},
	{"entry: a death after A is damage", "entry", false, "workerlog.go", "limit != w.end && limit != w.end+chunk {", "limit != w.end {"},
	{"entry: the next begins where the last one began", "entry", false, "workerlog.go", "w.end = (w.head + chunk - 1) &^ (chunk - 1)", "w.head = w.head &^ (chunk - 1)\n	w.end = w.head"},
	{"entry: read without a look at limit [A]", "entry", false, "workerlog.go", "		if l.info.Limit.Load()-c.pos > size {\n			continue", "		if false {\n			continue"},
	{"entry: a reader stays where it was overtaken", "unit", false, "workerlog.go", "			c.pos = (limit - size + chunk - 1) &^ (chunk - 1)\n			continue\n", "			continue\n"},
	{"entry: nobody says what was lost", "unit", false, "workerlog.go", "					lost = r.Seq - c.next\n", ""},
	{"entry: no length check of the reader", "unit", false, "workerlog.go", "good := n >= SizeofWorkerRecord && n%8 == 0 && n <= left && n <= head-c.pos", "good := n != 0"},
	{"entry: an owner looks whether the log is wanted before it is inside", "entry", false, "logowner.go", "	sys.StorePlain(&w.inside, 1)\n	if w.wanted.Load() != 0 ||",
		"	wanted := w.wanted.Load()\n	sys.StorePlain(&w.inside, 1)\n	if wanted != 0 ||"},
	{"entry: an owner publishes before the bytes [B]", "entry", false, "logowner.go", "	putEntry(b, e, ", "	sys.StoreRelease(&l.info.Head, at+n)\n	putEntry(b, e, "},
	{"entry: everybody wakes", "unit", false, "workerlog.go", "nap == LogNapSleeps || nap == LogNapNaps && fills", "nap != LogNapAwake"},

	{"create: ready before the header", "create", false, "header.go", "	writeHeader(b, h)\n	return nil\n", "	publish(b)\n	writeHeader(b, h)\n	return nil\n"},
	{"create: a queue is ready before its geometry", "create", false, "queue.go", "	info.Slots.Store(uint32(o.Slots))\n", "	publish(b)\n	info.Slots.Store(uint32(o.Slots))\n"},
	{"create: a topic is ready before its slots", "create", false, "topic.go", "	info.Floor.Store(o.Start)\n	if o.Start != 0", "	info.Floor.Store(o.Start)\n	publish(b)\n	if o.Start != 0"},
	{"create: a log is ready before its size", "create", false, "logring.go", "	info.RingSize.Store(uint64(events))\n	publish(b)\n", "	publish(b)\n	info.RingSize.Store(uint64(events))\n"},
	{"create: the roster is ready before its directory", "create", false, "roster.go", "	SetText(info.Dir[:], c.Dir)\n	publish(b)\n", "	publish(b)\n	SetText(info.Dir[:], c.Dir)\n"},
	{"create: what is not ready is opened", "create", false, "header.go", "	case 0:\n		return Header{}, ErrNotReady\n", "	case 0:\n"},
}

var recordHunters = []hunter{
	{"unit", "./pkg/protocol", "^(Test|Fuzz)(Golden|Log|InstanceLog|Roster|Header)"},
	{"kill", "./test/crashpoint", "^TestLogKill$"},
	{"parked", "./test/crashpoint", "^TestLogParked$"},
	{"reader", "./test/crashpoint", "^TestLogReaderParked$"},
	{"wake", "./test/crashpoint", "^TestLogWake$"},
	{"roster", "./test/crashpoint", "^TestRosterKill$"},
	{"pairs", "./test/crashpoint", "^TestLogPairs$"},
	{"entry", "./test/crashpoint", "^Test(InstanceLog(Kill|Parked|ReaderParked)|LogOwnerEnters)$"},
	{"metric", "./test/crashpoint", "^TestMetricKill$"},
	{"rows", "./test/crashpoint", "^TestRosterReaderParked$"},
	{"create", "./test/crashpoint", "^TestCreateKill$"},
}

// TestRecordMutants is TestMutants for logs, rows, and creations.
func TestRecordMutants(t *testing.T) { hunt(t, recordMutants, recordHunters) }
