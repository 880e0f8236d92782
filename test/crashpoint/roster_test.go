package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

const (
	opSetWorker     = 5000 + iota // row 1, which is there
	opNewWorker                   // row 2, the next
	opSetAttachment               // row 2
	opSetGroup                    // row 1, which had another group
	opAddSegment
	opAddGroup
	opReadWorker // row 1
	opReadAttachment
	opReadGroup // row 1
)

func init() {
	for op, name := range map[uint64]string{opSetWorker: "SetWorker", opNewWorker: "SetWorker of a new row", opSetAttachment: "SetAttachment", opSetGroup: "SetGroup of a used row", opAddSegment: "AddSegment",
		opAddGroup: "AddGroup", opReadWorker: "Worker", opReadAttachment: "Attachment", opReadGroup: "Group"} {
		opNames[op] = name
	}
}

// Rows by value: every field depends on it.
func rowText(v uint64, n int) string {
	word := fmt.Sprintf("row-%d.", v)
	return strings.Repeat(word, n/len(word)+1)[:n]
}

func workerOf(v uint64) protocol.Worker {
	return protocol.Worker{Name: rowText(v, 20+int(v%9)), Group: int(v), Instance: int(v) + 1, State: protocol.State(1 + v%6), Pid: int(v) + 2, ShimPid: int(v) + 3, StartTicks: v << 33,
		Attachment: uint16(v), Since: time.Unix(0, int64(v)<<40+int64(v)), Restarts: v << 35, ExitCode: int(v % 256), ExitSignal: int(v % 64), Rolled: uint32(v) + 5, ConfigHash: v << 31, Stalled: v%2 == 0, Reason: rowText(v+1, 30+int(v%17)),
		Cause: protocol.Cause(1 + v%9), RestartsBy: [protocol.NumCauses]uint32{1: uint32(v), 3: uint32(v) + 1, 9: uint32(v) + 2}}
}

func attachmentOf(v uint64) protocol.Attachment {
	return protocol.Attachment{State: protocol.AttachmentState(1 + v%2), Pid: int(v) + 1, UID: uint32(v) + 2, StartTicks: v << 33, Worker: int(v), Role: protocol.Role(1 + v%4), Name: rowText(v, 20+int(v%9))}
}

func segmentOf(v uint64) protocol.Segment {
	return protocol.Segment{Name: rowText(v, 20+int(v%9)), Kind: protocol.Kind(1 + v%8), Size: int64(v << 20), Inode: v << 33}
}

func groupOf(v uint64) protocol.Group {
	return protocol.Group{Name: rowText(v, 20+int(v%9)), Restart: protocol.Restart(v % 3), Configured: int(v), Count: int(v) + 1, Most: int(v) + 2, Rollout: uint32(v) + 3, RolloutState: protocol.RolloutState(1 + v%3), RolloutNote: rowText(v+2, 30+int(v%9)), StopTimeout: time.Duration(v) << 33, Command: rowText(v+1, 40+int(v%17))}
}

// Values of rows.
const (
	rowBefore = 101
	rowNext   = 204 // after the victim
	rowFirst  = 300 // and so on: rows that nobody touches
)

func openRoster(b []byte) *protocol.Roster {
	return must(protocol.OpenRoster(b[queueAt : queueAt+queueRoom : queueAt+queueRoom]))
}

// write does what an operation does, with a value.
func writeRow(r *protocol.Roster, op, v uint64) error {
	switch op {
	case opSetWorker:
		return r.SetWorker(1, workerOf(v))
	case opNewWorker:
		return r.SetWorker(2, workerOf(v))
	case opSetAttachment:
		return r.SetAttachment(2, attachmentOf(v))
	case opSetGroup:
		return r.SetGroup(1, groupOf(v))
	case opAddSegment:
		return r.AddSegment(segmentOf(v))
	}
	_, err := r.AddGroup(groupOf(v))
	return err
}

// listed is the roster that a tracee works on, and what it writes, or may read.
var listed struct {
	r           *protocol.Roster
	worker      protocol.Worker
	attachment  protocol.Attachment
	segment     protocol.Segment
	group       protocol.Group
	workers     [3]protocol.Worker
	attachments [3]protocol.Attachment
	groups      [3]protocol.Group
}

func readyRoster(b []byte, op uint64) {
	v := get(b, wordValue)
	listed.r = openRoster(b)
	listed.worker, listed.attachment, listed.segment, listed.group = workerOf(v), attachmentOf(v), segmentOf(v), groupOf(v)
	for i, v := range []uint64{rowBefore, sent, rowNext} {
		listed.workers[i], listed.attachments[i], listed.groups[i] = workerOf(v), attachmentOf(v), groupOf(v)
	}
	listed.groups[0] = groupOf(beforeOf(opSetGroup))
}

func warmUpRoster(b []byte) {
	for op := uint64(opSetWorker); op <= opReadGroup; op++ {
		copy(b[queueAt:], rosterImage())
		set(b, wordValue, sent)
		readyRoster(b, op)
		operateRoster(b, op)
	}
}

func operateRoster(b []byte, op uint64) uint64 {
	r := listed.r
	switch op {
	case opSetWorker:
		return result(r.SetWorker(1, listed.worker))
	case opNewWorker:
		return result(r.SetWorker(2, listed.worker))
	case opSetAttachment:
		return result(r.SetAttachment(2, listed.attachment))
	case opSetGroup:
		return result(r.SetGroup(1, listed.group))
	case opAddSegment:
		return result(r.AddSegment(listed.segment))
	case opAddGroup:
		_, err := r.AddGroup(listed.group)
		return result(err)
	case opReadWorker:
		w, err := r.Worker(1)
		if err != nil {
			return resultLost
		}
		for i := range listed.workers {
			if w == listed.workers[i] {
				set(b, wordValue, uint64(i))
				return resultOK
			}
		}
		return resultTorn
	case opReadAttachment:
		a, err := r.Attachment(2)
		if err != nil {
			return resultLost
		}
		for i := range listed.attachments {
			if a == listed.attachments[i] {
				set(b, wordValue, uint64(i))
				return resultOK
			}
		}
		return resultTorn
	case opReadGroup:
		g, err := r.Group(1)
		if err != nil {
			return resultLost
		}
		for i := range listed.groups {
			if g == listed.groups[i] {
				set(b, wordValue, uint64(i))
				return resultOK
			}
		}
		return resultTorn
	}
	return resultError
}

// rosterImage is a roster with two rows of each table, from queueAt on.
func rosterImage() []byte {
	b := make([]byte, queueRoom)
	h := protocol.Header{Name: "roster", Region: "crashpoint", Generation: 1, Created: time.Unix(1, 0)}
	r := must(protocol.FormatRoster(b, h, protocol.RosterConfig{Segments: 4, Groups: 4, Workers: 4, Attachments: 3, Dir: "/run/shmd"}))
	check(r.SetWorker(0, workerOf(rowFirst)))
	check(r.SetWorker(1, workerOf(rowBefore)))
	check(r.SetAttachment(1, attachmentOf(rowFirst)))
	check(r.SetAttachment(2, attachmentOf(rowBefore)))
	for v := range uint64(2) {
		check(r.AddSegment(segmentOf(rowFirst + v)))
		must(r.AddGroup(groupOf(rowFirst + v)))
	}
	return b
}

// What a reader finds in the victim's row.
const (
	rowOld = iota
	rowTorn
	rowNew
)

// torn reports whether the error is the one for a row whose writer died.
func torn(err error) bool {
	var corrupt *protocol.CorruptError
	return err != nil && !errors.As(err, &corrupt) && strings.Contains(err.Error(), "row is in the middle of a change")
}

// pick says which of the values a row has.
func pick[T comparable](row T, err error, of func(v uint64) T, values ...uint64) (uint64, error) {
	if torn(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, v := range values {
		if row == of(v) {
			return v, nil
		}
	}
	return 0, fmt.Errorf("torn: the row is %+v", row)
}

// rows says which of the values the row of the operation has, 0 if it is in the middle of a change, and for a new row none if it is not there yet; and
// checks all others.
func rowOf(r *protocol.Roster, op, none uint64, values ...uint64) (uint64, error) {
	ws, err := r.Workers()
	n := 2
	if op == opNewWorker && len(ws) > 2 {
		n = 3
	}
	at := map[uint64]int{opSetWorker: 1, opNewWorker: 2}[op]
	if err != nil && (at == 0 || !torn(err) || len(ws) != at) || err == nil && len(ws) != n || len(ws) == 0 || ws[0] != workerOf(rowFirst) ||
		op != opSetWorker && ws[1] != workerOf(rowBefore) || r.WorkerCount() != n {
		return 0, fmt.Errorf("workers are %+v, %w", ws, err)
	}
	if a, err := r.Attachment(1); err != nil || a != attachmentOf(rowFirst) {
		return 0, fmt.Errorf("attachment 1 is %+v, %w", a, err)
	}
	ss, serr := r.Segments()
	gs, gerr := r.Groups()
	if op == opSetGroup && (gerr == nil || torn(gerr)) && len(gs) == 2 { // its row is looked at below
		gs, gerr = append(gs[:1], groupOf(rowFirst+1)), nil
	}
	if len(ss) < 2 || ss[0] != segmentOf(rowFirst) || ss[1] != segmentOf(rowFirst+1) || len(gs) < 2 || gs[0] != groupOf(rowFirst) || gs[1] != groupOf(rowFirst+1) ||
		op != opAddSegment && len(ss) != 2 || op != opAddGroup && len(gs) != 2 || serr != nil || gerr != nil { // what is being appended is not seen before it is whole
		return 0, fmt.Errorf("segments are %+v, %w; groups are %+v, %w", ss, serr, gs, gerr)
	}
	switch op {
	case opSetWorker:
		w, err := r.Worker(1)
		return pick(w, err, workerOf, values...)
	case opNewWorker:
		if n == 2 {
			return none, nil
		}
		w, err := r.Worker(2)
		return pick(w, err, workerOf, values...)
	case opSetAttachment:
		a, err := r.Attachment(2)
		return pick(a, err, attachmentOf, values...)
	case opSetGroup:
		if r.GroupCount() != 2 {
			return 0, fmt.Errorf("there are %d groups", r.GroupCount())
		}
		g, err := r.Group(1)
		return pick(g, err, groupOf, values...)
	case opAddSegment:
		if len(ss) == 2 {
			return none, nil
		}
		return pick(ss[len(ss)-1], nil, segmentOf, values...)
	}
	if len(gs) == 2 {
		return none, nil
	}
	return pick(gs[len(gs)-1], nil, groupOf, values...)
}

// reuses reports whether an operation writes over a row that readers look at: a worker, an attachment or a group that takes the place of another.
func reuses(op uint64) bool { return op == opSetWorker || op == opSetAttachment || op == opSetGroup }

// beforeOf is the value that the row has before the operation.
func beforeOf(op uint64) uint64 {
	if op == opSetGroup {
		return rowFirst + 1
	}
	return rowBefore
}

// after checks what the next writer makes of it.
func rosterAfter(mem []byte, op uint64) error {
	r := openRoster(mem)
	if err := writeRow(r, op, rowNext); err != nil {
		return err
	}
	if v, err := rowOf(r, op, 0, rowNext); err != nil || v != rowNext {
		return fmt.Errorf("after the next writer: value %d, %w", v, err)
	}
	return nil
}

// TestRosterKill kills the writer of a row at every instruction, and the next writer, who finds what the first left, too: readers get the row
// from before, the new one, or are told that its writer died; never a mixture, and the next write mends it.
func TestRosterKill(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count, scratch := newTally(t), anonymous()
	defer count.report("roster, kill and parked")
	for op := uint64(opSetWorker); op <= opAddGroup; op++ {
		image := rosterImage()
		var middle [][]byte // what a death left in the middle of a row
		tornPoints, before := 0, beforeOf(op)
		for _, again := range []bool{false, true} {
			if again {
				image = middle[len(middle)/2]
			}
			copy(mem[queueAt:], image)
			x.begin(op, victim, sent)
			var last uint64
			stage := rowOld
			judge := func() error {
				copy(scratch, mem)
				r := openRoster(scratch)
				v, err := rowOf(r, op, rowBefore, before, sent)
				if err != nil {
					return err
				}
				now := map[uint64]int{rowBefore: rowOld, before: rowOld, 0: rowTorn, sent: rowNew}[v]
				if now == rowTorn {
					tornPoints++
				}
				if now < stage || now == rowTorn && !reuses(op) {
					return fmt.Errorf("value %d, after stage %d", v, stage)
				}
				stage = now
				return rosterAfter(scratch, op)
			}
			for i, more := 0, true; more; i++ {
				if h := maphash.Bytes(seed, mem[queueAt:queueAt+queueRoom]); i == 0 || h != last {
					last = h
					count.point(judge(), "%s killed at %d, again: %v", opNames[op], i, again)
					if stage != rowNew && i > 0 {
						middle = append(middle, bytes.Clone(mem[queueAt:queueAt+queueRoom]))
					}
				} else {
					count.point(nil, "")
				}
				if i == 120 && !quick() {
					now := bytes.Clone(mem[queueAt:])
					x.kill()
					count.killed++
					if !bytes.Equal(now, mem[queueAt:]) {
						t.Errorf("%s: the memory changed when its writer was killed", opNames[op])
					}
					x.start()
					copy(mem[queueAt:], image)
					x.begin(op, victim, sent)
					x.steps(i)
				}
				more = x.step()
			}
			r, _ := x.finish()
			err := judge()
			if err == nil && (r != resultOK || stage != rowNew) {
				err = fmt.Errorf("result %d, stage %d", r, stage)
			}
			count.point(err, "after %s", opNames[op])
		}
		if reuses(op) && tornPoints == 0 {
			t.Errorf("%s: no death was in the middle of the row: the test does not see what it is for", opNames[op])
		}
	}
}

// TestRosterReaderParked stops a reader at every instruction, has the row written once, twice, or half meanwhile, and lets the reader go on.
func TestRosterReaderParked(t *testing.T) {
	f, mem := memfd(t)
	x := newTracee(t, f, mem)
	count := newTally(t)
	defer count.report("roster, reader parked")
	for op, by := range map[uint64]uint64{opReadWorker: opSetWorker, opReadAttachment: opSetAttachment, opReadGroup: opSetGroup} {
		image := rosterImage()
		// What a writer leaves that dies half way.
		copy(mem[queueAt:], image)
		x.begin(by, victim, rowNext)
		var half []byte
		for i := 0; ; i++ {
			v, err := rowOf(openRoster(mem), by, 0, beforeOf(by), rowNext)
			if err != nil {
				t.Fatal(err)
			}
			if v == 0 && half == nil {
				x.steps(100)
				half = bytes.Clone(mem[queueAt : queueAt+queueRoom])
				break
			}
			if !x.step() {
				t.Fatal("no reader saw the row in the middle of a change")
			}
		}
		if v, _ := rowOf(openRoster(mem), by, 0, beforeOf(by), rowNext); v != 0 {
			t.Fatalf("100 instructions later the row is %d", v)
		}
		x.finish()
		was := [3]int{}
		for k, meanwhile := range []func(r *protocol.Roster){
			func(r *protocol.Roster) { check(writeRow(r, by, sent)) },
			func(r *protocol.Roster) { check(writeRow(r, by, sent)); check(writeRow(r, by, rowNext)) },
			func(r *protocol.Roster) { copy(mem[queueAt:], half) },
		} {
			copy(mem[queueAt:], image)
			x.begin(op, victim, 0)
			set(mem, wordNoRuntime, 1)
			x.everyPoint(func(i int) {
				if k == 2 && i%16 != 0 && !torture() {
					return // each costs thousands of tries
				}
				meanwhile(openRoster(mem))
				result, v := x.finish()
				var err error
				switch {
				case result == resultOK && v == 0: // before
					was[0]++
				case result == resultOK && (k == 0 && v == 1 || k == 1 && v == 2):
					was[1]++
				case result == resultLost && k == 2:
					was[2]++
				default:
					err = fmt.Errorf("result %d, value %d", result, v)
				}
				count.point(err, "%s parked at %d, meanwhile %d", opNames[op], i, k)
			})
		}
		if was[0] == 0 || was[1] == 0 || was[2] == 0 {
			t.Errorf("%s: the row from before, the new one, and the error were seen %d times: the test does not see what it is for", opNames[op], was)
		}
	}
}
