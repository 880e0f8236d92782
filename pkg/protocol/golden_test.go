package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Golden segments: testdata/golden/NAME.bin is a segment as its Format function and its writers leave it, NAME.json
// is what it says. The tests of every language read both (clients/c, clients/python). They are written by
//
//	go test ./pkg/protocol -run Golden -update
//
// A difference without a change of the layout on purpose is a broken promise to programs that are running.
var update = flag.Bool("update", false, "write testdata/golden anew")

// goldens are the segments, each with what makes it and what reads it back through the typed API.
var goldens = []struct {
	name string
	make func(t *testing.T) []byte
	read func(t *testing.T, b []byte)
}{
	{"roster", makeRoster, readRoster},
	{"command", makeCommand, readCommand},
	{"group", makeGroup, readGroup},
	{"queue", makeQueue, readQueue},
	{"call", makeCall, readCall},
	{"log", makeLog, readLog},
	{"topic", makeTopic, readTopic},
	{"latest", makeLatest, readLatest},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			bin := filepath.Join("testdata", "golden", g.name+".bin")
			text := filepath.Join("testdata", "golden", g.name+".json")
			made := g.make(t)
			if *update {
				writeGolden(t, bin, made)
				writeGolden(t, text, decodeSegment(t, made))
			}
			b := readGolden(t, bin)

			t.Run("typed", func(t *testing.T) { g.read(t, bytes.Clone(b)) })
			t.Run("metadata", func(t *testing.T) {
				if got, want := decodeSegment(t, b), readGolden(t, text); !bytes.Equal(got, want) {
					t.Errorf("%s decoded by Layouts and SegmentSections differs from %s at line %s", bin, text, firstDifference(got, want))
				}
			})
			t.Run("bytes", func(t *testing.T) {
				// What writers write today is what they wrote then, but for what names the build.
				for _, s := range [][]byte{made, b} {
					clear(s[OffsetofSegmentHeaderLayoutMinor:][:4])
					clear(s[OffsetofSegmentHeaderLayoutHash:][:8])
				}
				if len(made) != len(b) {
					t.Fatalf("%d bytes are written today, %s has %d", len(made), bin, len(b))
				}
				for i := range b {
					if made[i] != b[i] {
						t.Fatalf("byte %#x is written as %#02x today, %s has %#02x; if that is meant: go test ./pkg/protocol -run Golden -update", i, made[i], bin, b[i])
					}
				}
			})
		})
	}
}

// A golden segment that is damaged in its header must be refused with the error that says how.
func TestGoldenHeaderDamage(t *testing.T) {
	for name, c := range map[string]struct {
		offset int
		value  byte
		want   any
	}{
		"magic":   {OffsetofSegmentHeaderMagic, 'X', ErrForeign},
		"major":   {OffsetofSegmentHeaderLayoutMajor, 99, new(*VersionError)},
		"feature": {OffsetofSegmentHeaderIncompat + 7, 0x80, new(*FeatureError)},
		"kind":    {OffsetofSegmentHeaderKind, byte(KindLog), new(*KindError)},
		"size":    {OffsetofSegmentHeaderSegmentSize, 1, new(*CorruptError)},
	} {
		t.Run(name, func(t *testing.T) {
			b := readGolden(t, filepath.Join("testdata", "golden", "roster.bin"))
			b[c.offset] = c.value
			_, err := OpenRoster(b)
			want := reflect.TypeOf(c.want)
			if sentinel, ok := c.want.(error); ok {
				if err != sentinel {
					t.Errorf("error is %v, not %v", err, sentinel)
				}
			} else if reflect.TypeOf(err) != want.Elem() {
				t.Errorf("error is %T (%v), not %v", err, err, want.Elem())
			}
		})
	}
}

// The values of the golden segments. Times are whole numbers of no meaning.
var (
	goldenTime   = time.Unix(1700000000, 123456789)
	goldenBootID = [16]byte{0x10, 0x21, 0x32, 0x43, 0x54, 0x65, 0x76, 0x87, 0x98, 0xa9, 0xba, 0xcb, 0xdc, 0xed, 0xfe, 0x0f}

	goldenDaemon = DaemonInfo{ConfigRefused: true, Pid: 4242, StartTicks: 987654321, State: DaemonStateRunning, Started: goldenTime,
		Version: "1.2.3-golden", Config: "/etc/shmd/golden.toml"}

	goldenSegments = []Segment{
		{Name: "roster", Kind: KindRoster, Size: 6848, Inode: 1001},
		{Name: "jobs", Kind: KindQueue, Size: 1 << 33, Inode: 1<<40 + 7, Stalled: 3, Staller: 5, StalledNs: 88_000_000_004},
		{Name: "group/" + strings.Repeat("n", 58), Kind: KindGroup, Size: 12288, Inode: 1003}, // fills its field
	}
	goldenGroups = []Group{
		{Name: "parser", Restart: RestartOnFailure, Configured: 3, Count: 2, Most: 1024, StopTimeout: 5 * time.Second, Command: "python3 parse.py"},
		{Name: "größe", Restart: RestartNever, Configured: 1, Count: 1, Most: 1, Rollout: 7, RolloutState: RolloutStopped, RolloutNote: "größe.0 failed: exit code 3", StopTimeout: 1500 * time.Millisecond, Command: "sleep 1"},
	}
	goldenWorkers = []Worker{
		{Name: "parser.0", Group: 0, Instance: 0, State: StateReady, Pid: 4300, StartTicks: 987654400, Attachment: 1,
			Since: goldenTime.Add(time.Second), Restarted: 3, Rolled: 2, ConfigHash: 0x0123456789abcdef},
		{Name: "parser.1", Group: 0, Instance: 1, State: StateBackoff, Since: goldenTime.Add(2 * time.Second), Restarts: 1<<32 + 3,
			ExitSignal: 9, Cause: CauseSignal, RestartsBy: [NumCauses]uint32{CauseExit: 1, CauseSignal: 2, CauseUnknown: 8, CauseReset: 9}, Reason: "killed by signal 9 – again in 400 ms"},
		{Name: "größe.0", Group: 1, Instance: 0, State: StateFailed, Since: goldenTime.Add(3 * time.Second), ExitCode: 3,
			Reason: "x" + strings.Repeat("é", 94) + "…"}, // as it reads back: written longer, cut at a whole character
		{Name: "filter.0", Group: 1, Instance: 1, State: StateReady, Pid: 4501, ShimPid: 4500, StartTicks: 987654600, Attachment: 2,
			Since: goldenTime.Add(4 * time.Second), Stalled: true, Trial: true, Reason: "stalled"},
	}
	goldenAttachments = map[uint16]Attachment{
		1: {State: AttachmentLive, Pid: 4300, UID: 1000, StartTicks: 987654400, Worker: 0, Role: RoleWorker, Name: "parser.0"},
		3: {State: AttachmentRepairing, Pid: 4400, UID: 65534, StartTicks: 987654500, Worker: -1, Role: RoleOperate, Name: "shmctl pub"},
	}

	goldenRecords = []Record{
		{Seq: 1, Time: goldenTime, Level: 6, Stream: StreamDaemon, Pid: 4242, Worker: -1, Text: "started parser.0"},
		{Seq: 2, Time: goldenTime.Add(1), Level: 6, Stream: StreamStdout, Pid: 4300, Worker: 0, Text: "this record wraps at the end of the ring, größer als 64"},
		{Seq: 3, Time: goldenTime.Add(2), Level: 3, Stream: StreamStderr, Pid: 4301, Worker: 1, Text: ""},
		{Seq: 4, Time: goldenTime.Add(3), Level: 7, Stream: StreamDaemon, Pid: 4242, Worker: -1, Text: "8 bytes."},
		{Seq: 5, Time: goldenTime.Add(4), Level: 4, Stream: StreamLog, Pid: 4301, Worker: 1, Text: "slow", Attrs: `"took":12.5,"größe":1`, Source: "serve.go:17", Position: 616, Number: 9},
	}
)

func goldenHeader(name string) Header {
	return Header{Generation: 0xfedcba9876543210, BootID: goldenBootID, Name: name, Region: "golden", Created: goldenTime}
}

func checkHeader(t *testing.T, b []byte, kind Kind, name string) {
	t.Helper()
	h, err := ReadHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	want := goldenHeader(name)
	want.Kind, want.Size, want.Major, want.Minor = kind, uint64(len(b)), LayoutMajor, h.Minor
	if h != want {
		t.Errorf("header is %+v, not %+v", h, want)
	}
}

func makeRoster(t *testing.T) []byte {
	c := RosterConfig{Segments: 4, Groups: 2, Workers: 4, Attachments: 3, Dir: "/run/shmd"}
	b := make([]byte, RosterSize(c))
	r, err := FormatRoster(b, goldenHeader("roster"), c)
	noErr(t, err)
	r.SetDaemon(goldenDaemon)
	for _, s := range goldenSegments {
		noErr(t, r.AddSegment(s))
	}
	for _, g := range goldenGroups {
		_, err := r.AddGroup(g)
		noErr(t, err)
	}
	for i, w := range goldenWorkers {
		if i == 2 {
			w.Reason += "éééé"
		}
		noErr(t, r.SetWorker(i, w))
	}
	for _, id := range []uint16{1, 3} {
		noErr(t, r.SetAttachment(id, goldenAttachments[id]))
	}
	return b
}

func readRoster(t *testing.T, b []byte) {
	checkHeader(t, b, KindRoster, "roster")
	r, err := OpenRoster(b)
	noErr(t, err)
	wantEqual(t, r.Daemon(), goldenDaemon)
	segments, err := r.Segments()
	noErr(t, err)
	wantEqual(t, segments, goldenSegments)
	groups, err := r.Groups()
	noErr(t, err)
	wantEqual(t, groups, goldenGroups)
	workers, err := r.Workers()
	noErr(t, err)
	wantEqual(t, workers, goldenWorkers)
	for id, want := range goldenAttachments {
		a, err := r.Attachment(id)
		noErr(t, err)
		wantEqual(t, a, want)
	}
	wantEqual(t, r.AttachmentCap(), 4)
}

func makeCommand(t *testing.T) []byte {
	b := make([]byte, CommandSize(2, 3))
	c, err := FormatCommand(b, goldenHeader("command"), 2, 3)
	noErr(t, err)
	c.AskRestart([]int{0})
	c.AskRestart([]int{0, 2})
	c.Stop([]int{1, 2}, []int{1}, true)
	c.Scale(0, 5)
	c.AskRollout(1, 2)
	c.info.FlaggedNs.Store(77_000_000_001) // instead of the clock's
	c.groups[1].FlaggedNs.Store(77_000_000_002)
	c.rows[1].FlaggedNs.Store(77_000_000_003)
	c.rows[2].FlaggedNs.Store(77_000_000_004)
	return b
}

func readCommand(t *testing.T, b []byte) {
	checkHeader(t, b, KindCommand, "command")
	c, err := OpenCommand(b)
	noErr(t, err)
	wantEqual(t, []int{c.Groups(), c.Workers()}, []int{2, 3})
	wantEqual(t, []Desired{c.RegionDesired(), c.GroupDesired(0), c.GroupDesired(1), c.WorkerDesired(0), c.WorkerDesired(1), c.WorkerDesired(2)},
		[]Desired{DesiredStop, DesiredRun, DesiredStop, DesiredRun, DesiredStop, DesiredStop})
	wantEqual(t, []bool{Flagged(c.RegionQuit()), Flagged(c.GroupQuit(0)), Flagged(c.GroupQuit(1)), Flagged(c.WorkerQuit(0)), Flagged(c.WorkerQuit(1)), Flagged(c.WorkerQuit(2))},
		[]bool{true, false, true, false, true, true})
	wantEqual(t, []uint32{c.RestartCount(0), c.RestartCount(1), c.RestartCount(2), c.Bell().Load()}, []uint32{2, 0, 1, 5})
	wantEqual(t, []int{c.GroupCount(0), c.GroupCount(1)}, []int{5, 0})
	n, most := c.GroupRollout(1)
	wantEqual(t, []int{int(n), most}, []int{1, 2})
	wantEqual(t, c.WorkerFlaggedNs(2), int64(77_000_000_004))
}

func makeGroup(t *testing.T) []byte {
	size := GroupConfig{Instances: 2, Metrics: 16, LogSize: MinInstanceLog}
	b := make([]byte, GroupSize(size))
	g, err := FormatGroup(b, goldenHeader("group/parser"), size)
	noErr(t, err)
	p := g.Page(0)
	p.AttachedPid.Store(4300)
	p.ReadyNs.Store(88_000_000_001)
	p.Ready.Store(1)
	g.Ring()
	p.HeartbeatNs.Store(88_000_000_002)
	p.Asleep.Store(1)
	p.Answered.Store(6)
	p.Ask.Store(9)
	g.SetRestarts(0, [NumCauses]uint32{CauseExit: 1, CauseSignal: 2, CauseUnknown: 8, CauseReset: 9})
	p.FilterPid.Store(4302)
	p.Stalled.Store(1)
	SetText(p.Note[:], "no answer, größer")
	for _, d := range goldenMetrics {
		c, err := g.Metrics(0).Define(d, 4300)
		noErr(t, err)
		if d.Kind == MetricKindHistogram {
			c.Observe(5)
			c.Observe(1000)
			c.Observe(1 << 60)
		} else {
			c.Value.Store(math.Float64bits(2.5))
		}
	}
	w := g.Log(0).Resume(4300)
	for i := range 3 { // the last one begins the second chunk
		w.Write(&LogEntry{UnixNs: goldenTime.UnixNano() + int64(i), Level: 6, Text: strings.Repeat("x", 700*i), Attrs: []byte(`"n":1`), Source: "main.go:9"})
	}
	p = g.Page(1)
	p.AttachedPid.Store(4301)
	p.QuitSeenNs.Store(88_000_000_003)
	return b
}

var goldenMetrics = []MetricDef{
	{MetricKindCounter, "jobs", "", "jobs done"},
	{MetricKindGauge, "backlog", "bytes", "größer als"},
	{MetricKindHistogram, "lookup", "nanoseconds", "round trip of a lookup"},
}

func readGroup(t *testing.T, b []byte) {
	checkHeader(t, b, KindGroup, "group/parser")
	g, err := OpenGroup(b)
	noErr(t, err)
	wantEqual(t, g.Instances(), 2)
	var logged []Record
	for c := g.Log(0).Oldest(); ; {
		r, _, ok, err := c.Next()
		noErr(t, err)
		if !ok {
			break
		}
		logged = append(logged, r)
	}
	wantEqual(t, len(logged), 3)
	wantEqual(t, logged[2], Record{Seq: 3, Time: goldenTime.Add(2), Level: 6, Stream: StreamLog, Pid: 4300, Worker: -1, Text: strings.Repeat("x", 1400), Attrs: `"n":1`,
		Source: "main.go:9", Position: 2048 + 1456, Number: 3})
	wantEqual(t, []uint64{g.Log(0).Head(), g.Log(1).Head()}, []uint64{2048 + 1456, 0})
	p, q := g.Page(0), g.Page(1)
	wantEqual(t, []uint32{p.FilterPid.Load(), p.Stalled.Load()}, []uint32{4302, 1})
	wantEqual(t, Text(p.Note[:]), "no answer, größer")
	metrics := g.Metrics(0).Read()
	wantEqual(t, len(metrics), 3)
	for i, m := range metrics {
		wantEqual(t, m.MetricDef, goldenMetrics[i])
		wantEqual(t, m.Owner, 4300)
	}
	wantEqual(t, []float64{math.Float64frombits(metrics[0].Count), metrics[1].Gauge}, []float64{2.5, 2.5})
	h := metrics[2]
	wantEqual(t, []uint64{h.Count, h.Sum, h.Buckets[MetricBucketOf(5)], h.Buckets[MetricBucketOf(1000)], h.Buckets[NumMetricBuckets-1]}, []uint64{3, 1005 + 1<<60, 1, 1, 1})
	wantEqual(t, len(g.Metrics(1).Read()), 0)
	wantEqual(t, []uint32{p.AttachedPid.Load(), p.Ready.Load(), p.Asleep.Load(), p.Answered.Load(), p.Ask.Load(), g.Bell().Load()}, []uint32{4300, 1, 1, 6, 9, 1})
	wantEqual(t, []uint64{p.ReadyNs.Load(), p.HeartbeatNs.Load(), p.QuitSeenNs.Load()}, []uint64{88_000_000_001, 88_000_000_002, 0})
	wantEqual(t, []uint64{uint64(q.AttachedPid.Load()), uint64(q.Ready.Load()), q.QuitSeenNs.Load()}, []uint64{4301, 0, 88_000_000_003})
}

// makeQueue leaves a slot in each phase that a slot keeps for long, on two laps:
// 0 WRITING and passed, 1 READY a second time, 2 READING a second time, 3 DEAD.
func makeQueue(t *testing.T) []byte {
	const producer, consumer = 7, 9
	o := QueueOptions{Slots: 4, SlotSize: 48, MaxDeliveries: 2}
	size, err := QueueSize(o)
	noErr(t, err)
	b := make([]byte, size)
	q, err := FormatQueue(b, goldenHeader("jobs"), o)
	noErr(t, err)
	send := func(text string) {
		l, err := q.TryLoan(producer)
		noErr(t, err)
		noErr(t, q.Commit(l, copy(q.LoanBytes(l), text)))
	}
	receive := func(want string) Lease {
		l, err := q.TryReceive(consumer)
		noErr(t, err)
		if got := string(q.LeaseBytes(l)); got != want {
			t.Fatalf("received %q, not %q", got, want)
		}
		return l
	}
	send("a0")
	send("a1")
	noErr(t, q.Ack(receive("a0")))
	noErr(t, q.Ack(receive("a1")))
	send("b2: größe")
	send(strings.Repeat("b3", 24)) // fills the slot
	_, err = q.TryLoan(producer)   // position 4, never committed
	noErr(t, err)
	send("c5")
	noErr(t, q.Nack(receive("b2: größe")))
	receive("b2: größe") // keeps it
	noErr(t, q.Nack(receive(strings.Repeat("b3", 24))))
	noErr(t, q.Nack(receive(strings.Repeat("b3", 24))))
	noErr(t, q.Nack(receive("c5"))) // having passed position 4
	q.Receivers.Register()
	q.Senders.Register()
	return b
}

func readQueue(t *testing.T, b []byte) {
	checkHeader(t, b, KindQueue, "jobs")
	q, err := OpenQueue(b)
	noErr(t, err)
	wantEqual(t, []int{q.Slots(), q.SlotSize(), q.MaxDeliveries(), int(q.Flags())}, []int{4, 48, 2, 0})
	type slot struct {
		phase      Phase
		owner      uint16
		deliveries int
		passed     bool
		lap        uint32
	}
	var slots []slot
	for i := range 4 {
		w := q.SlotAt(i).Word
		slots = append(slots, slot{w.Phase(), w.Owner(), w.Deliveries(), w.Passed(), w.Lap()})
	}
	wantEqual(t, slots, []slot{{PhaseWriting, 7, 0, true, 1}, {PhaseReady, 0, 1, false, 1}, {PhaseReading, 9, 1, false, 0}, {PhaseDead, 0, 2, false, 0}})
	s := q.Stat()
	wantEqual(t, []uint64{s.Sent, s.Received, s.Acked, s.Redelivered, s.DeadLettered, s.Aborted, s.Tail}, []uint64{5, 7, 2, 3, 1, 0, 6})
	wantEqual(t, []int{s.Receivers, s.Senders, s.Depth()}, []int{1, 1, 3})
	l, err := q.TryReceive(11)
	noErr(t, err)
	wantEqual(t, string(q.LeaseBytes(l)), "c5")
	wantEqual(t, q.Position(l), uint64(5))
	noErr(t, q.Nack(l))
}

// makeLatest leaves a slot in each phase: 0 READY, an earlier version; 1 FREE, given back; 2 READY, the newest; 3 WRITING.
func makeLatest(t *testing.T) []byte {
	o := LatestOptions{Slots: 4, SlotSize: 48}
	size, err := LatestSize(o)
	noErr(t, err)
	b := make([]byte, size)
	l, err := FormatLatest(b, goldenHeader("price"), o)
	noErr(t, err)
	_, err = l.Put(7, []byte("v1"))
	noErr(t, err)
	late, err := l.TryDraft(8)
	noErr(t, err)
	_, err = l.Put(7, []byte("v2: größe"))
	noErr(t, err)
	if v, err := l.PublishIf(late, 2, 1); v != 2 || err != ErrStale {
		t.Fatalf("publish for version 1: %d, %v", v, err)
	}
	d, err := l.TryDraft(9) // for version 3, never published
	noErr(t, err)
	copy(l.DraftBytes(d), "not v3")
	l.Changes.Register()
	return b
}

func readLatest(t *testing.T, b []byte) {
	checkHeader(t, b, KindLatest, "price")
	l, err := OpenLatest(b)
	noErr(t, err)
	wantEqual(t, l.Stat(), LatestStat{Slots: 4, SlotSize: 48, Version: 2, Slot: 2, Length: 11, Held: 1, Aborted: 1, Sleepers: 1})
	type slot struct {
		phase   Phase
		owner   uint16
		version uint64
	}
	var slots []slot
	for i := range 4 {
		w := l.SlotAt(i).Word
		slots = append(slots, slot{w.Phase(), w.Owner(), w.Version()})
	}
	wantEqual(t, slots, []slot{{PhaseReady, 0, 1}, {PhaseFree, 0, 2}, {PhaseReady, 0, 2}, {PhaseWriting, 9, 3}})
	p, v, err := l.Get(nil)
	noErr(t, err)
	wantEqual(t, string(p), "v2: größe")
	wantEqual(t, v, uint64(2))
	v, err = l.Put(7, []byte("v3"))
	noErr(t, err)
	wantEqual(t, v, uint64(3))
}

func makeLog(t *testing.T) []byte {
	const ring = 64 << 10
	b := make([]byte, LogSize(ring, ring))
	l, err := FormatLog(b, goldenHeader("log"), ring, ring)
	noErr(t, err)
	l.info.Tail.Store(3*ring - 120) // as after two laps: the second record wraps
	l.info.Head.Store(3*ring - 120)
	for _, r := range goldenRecords {
		l.Write(r)
	}
	return b
}

func readLog(t *testing.T, b []byte) {
	checkHeader(t, b, KindLog, "log")
	l, err := OpenLog(b)
	noErr(t, err)
	var got []Record
	for c := l.Oldest(); ; {
		r, lost, ok, err := c.Next()
		noErr(t, err)
		if lost != 0 {
			t.Errorf("%d records lost before %q", lost, r.Text)
		}
		if !ok {
			break
		}
		got = append(got, r)
	}
	wantEqual(t, got, goldenRecords)
}

// decodeSegment is what a program does that knows nothing but Layouts and SegmentSections: the JSON of a segment.
// Names that begin with _ are derived: where a row lies, the parts of a state word, what follows a row.
func decodeSegment(t *testing.T, b []byte) []byte {
	t.Helper()
	header := decodeStruct(t, b, 0, "SegmentHeader")
	doc := object{{"header", header}}
	heads := map[string]object{"SegmentHeader": header}
	value := func(v SectionValue) int64 {
		if v.Struct == "" {
			return v.Number
		}
		n, ok := heads[v.Struct].get(v.Field).(uint64)
		if !ok || n > uint64(len(b)) {
			t.Fatalf("%s.%s is %v", v.Struct, v.Field, heads[v.Struct].get(v.Field))
		}
		return int64(n)
	}
	var sections []object
	for _, s := range SegmentSections {
		if s.Struct == "SegmentHeader" || s.Kind != Kind(header.get("kind").(uint64)).String() {
			continue
		}
		var rows []object
		for i := range value(s.Count) {
			at := value(s.Offset) + i*value(s.Stride)
			row := append(object{{"_offset", at}}, decodeStruct(t, b, at, s.Struct)...)
			if s.Stride == (SectionValue{}) {
				heads[s.Struct] = row
			}
			switch s.Struct {
			case "SlotHeader":
				row = append(row, decodeSlot(t, b[at:at+value(s.Stride)], row)...)
			case "LatestInfo":
				w := row.get("current").(uint64)
				row = append(row, member{"_slot", w & (1<<LatestInfoSlotBits - 1)}, member{"_version", w >> LatestInfoVersionShift})
			case "CallSlot":
				row = append(row, decodeCallSlot(b[at:at+value(s.Stride)], row)...)
			case "LatestSlot":
				row = append(row, decodeVersion(b[at:at+value(s.Stride)], row)...)
			}
			rows = append(rows, row)
		}
		sections = append(sections, object{{"struct", s.Struct}, {"what", s.Doc}, {"rows", rows}})
	}
	if info := heads["LogInfo"]; info != nil {
		sections = append(sections, object{{"struct", "LogRecord"}, {"what", ""}, {"rows", decodeRing(t, b, info)}})
	}
	doc = append(doc, member{"sections", sections})
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	noErr(t, e.Encode(doc))
	var indented bytes.Buffer
	noErr(t, json.Indent(&indented, out.Bytes(), "", "  "))
	return indented.Bytes()
}

func decodeStruct(t *testing.T, b []byte, at int64, name string) object {
	t.Helper()
	for _, s := range Layouts {
		if s.Name != name {
			continue
		}
		var o object
		for _, f := range s.Fields {
			p := b[at+int64(f.Offset):][:f.Bytes]
			var v any
			switch f.Type {
			case "u32":
				v = uint64(binary.LittleEndian.Uint32(p))
			case "u64":
				v = binary.LittleEndian.Uint64(p)
			case "text":
				text, _, _ := bytes.Cut(p, []byte{0})
				v = string(text)
			case "raw":
				v = hex.EncodeToString(p)
			default:
				t.Fatalf("%s.%s has the unknown type %q", name, f.Name, f.Type)
			}
			o = append(o, member{f.Name, v})
		}
		return o
	}
	t.Fatalf("Layouts has no %s", name)
	return nil
}

// decodeSlot returns the parts of a slot's state word, and the payload if the slot holds a message.
func decodeSlot(t *testing.T, slot []byte, row object) object {
	w := row.get("state").(uint64)
	part := func(shift, bits int) uint64 { return w >> shift & (1<<bits - 1) }
	o := object{
		{"_phase", part(SlotPhaseShift, SlotPhaseBits)},
		{"_owner", part(SlotOwnerShift, SlotOwnerBits)},
		{"_deliveries", part(SlotDeliveriesShift, SlotDeliveriesBits)},
		{"_passed", part(SlotPassedShift, SlotPassedBits)},
		{"_lap", part(SlotLapShift, SlotLapBits)},
	}
	payload := ""
	if p := Phase(part(SlotPhaseShift, SlotPhaseBits)); p == PhaseReady || p == PhaseReading || p == PhaseDead {
		payload = string(slot[SizeofSlotHeader:][:row.get("length").(uint64)])
	}
	return append(o, member{"_payload", payload})
}

// decodeVersion returns the parts of the state word of a slot of a latest value, and the value if it holds one.
func decodeVersion(slot []byte, row object) object {
	w := row.get("state").(uint64)
	value := ""
	if Phase(w&(1<<LatestSlotPhaseBits-1)) == PhaseReady {
		value = string(slot[SizeofLatestSlot:][:row.get("length").(uint64)])
	}
	return object{
		{"_phase", w & (1<<LatestSlotPhaseBits - 1)},
		{"_owner", w >> LatestSlotOwnerShift & (1<<LatestSlotOwnerBits - 1)},
		{"_version", w >> LatestSlotVersionShift},
		{"_value", value},
	}
}

// decodeRing returns the records from tail to head, oldest first.
func decodeRing(t *testing.T, b []byte, info object) []object {
	offset, size := info.get("ring_offset").(uint64), info.get("ring_size").(uint64)
	ring := b[offset:][:size]
	get := func(position, n uint64) []byte { // unwraps
		p := make([]byte, n)
		for i := range p {
			p[i] = ring[(position+uint64(i))&(size-1)]
		}
		return p
	}
	var rows []object
	for p := info.get("tail").(uint64); p != info.get("head").(uint64); {
		row := append(object{{"_position", p}}, decodeStruct(t, get(p, SizeofLogRecord), 0, "LogRecord")...)
		length, attrs, source := row.get("length").(uint64), row.get("attrs").(uint64), row.get("source").(uint64)
		n := length + attrs + source
		if n > size || len(rows) > 100 {
			t.Fatalf("record of %d bytes at position %d", n, p)
		}
		body := string(get(p+SizeofLogRecord, n))
		rows = append(rows, append(row, member{"_text", body[:length]}, member{"_attrs", body[length : length+attrs]}, member{"_source", body[length+attrs:]}))
		p += SizeofLogRecord + (n+7)&^7
	}
	return rows
}

// object is a JSON object that keeps its order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) get(name string) any {
	for _, f := range o {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:", f.name)
		if err := e.Encode(f.value); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func noErr(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantEqual(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n\t%+v, not\n\t%+v", got, want)
	}
}

func readGolden(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run: go test ./pkg/protocol -run Golden -update", err)
	}
	return b
}

func writeGolden(t *testing.T, path string, b []byte) {
	t.Helper()
	noErr(t, os.MkdirAll(filepath.Dir(path), 0o755))
	noErr(t, os.WriteFile(path, b, 0o644))
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("%d: %s, not %s", i+1, strings.TrimSpace(g[i]), strings.TrimSpace(w[i]))
		}
	}
	return fmt.Sprintf("%d: one is longer", min(len(g), len(w))+1)
}
