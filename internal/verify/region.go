// Package verify checks every invariant of a region, alive or in a dump: those of each segment (protocol.Verify), and those between segments, which are here.
package verify

import (
	"fmt"
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// Memory is one segment to be checked.
type Memory struct {
	Name  string // as the directory says
	Bytes []byte // 8-byte aligned; may be in use
	Copy  bool   // a copy that was made while processes wrote
}

// Region checks segments of one region. Without the roster among them, what needs it is not checked. It only reads.
func Region(segments []Memory) []protocol.Violation { return check(segments, false) }

func check(segments []Memory, lives bool) []protocol.Violation {
	var list []protocol.Violation
	var o protocol.VerifyOptions
	var roster *protocol.Roster
	for _, m := range segments {
		if m.Name != "roster" {
			continue
		}
		if r, err := protocol.OpenRoster(m.Bytes); err == nil {
			roster = r
			o.InUse = func(id uint16) bool {
				a, err := r.Attachment(id)
				return err != nil && int(id) < r.AttachmentCap() || err == nil && a.State != protocol.AttachmentFree // a row that cannot be read may be anybody's
			}
		}
	}
	for _, m := range segments {
		o.Copy = m.Copy
		for _, v := range protocol.Verify(m.Bytes, o) {
			v.Segment = m.Name // its own head may say anything, or nothing
			list = append(list, v)
		}
	}
	if roster != nil {
		list = append(list, directory(roster, segments, list)...)
		list = append(list, attachments(roster, lives)...)
	}
	return list
}

// Lasting checks a living region. What it finds counts if it is still there at each of some looks: the middle of somebody's operation is over by then.
func Lasting(segments []Memory) []protocol.Violation {
	list := check(segments, true)
	for wait := time.Millisecond; len(list) > 0 && wait < 200*time.Millisecond; wait *= 2 {
		time.Sleep(wait)
		begun := time.Now()
		type place struct {
			segment string
			offset  int64
			rule    string
		}
		again := map[place]bool{}
		for _, v := range check(segments, true) {
			again[place{v.Segment, v.Offset, v.Rule}] = true
		}
		var still []protocol.Violation
		for _, v := range list {
			if again[place{v.Segment, v.Offset, v.Rule}] {
				still = append(still, v)
			}
		}
		list = still
		if time.Since(begun) > time.Second { // rows whose writer does not come to an end are waited for, so what is still there has lasted
			break
		}
	}
	return list
}

// directory compares the segments with their rows. told are the rows that cannot be read, among others: to try again takes its time.
func directory(r *protocol.Roster, segments []Memory, told []protocol.Violation) (list []protocol.Violation) {
	byName := map[string]protocol.Segment{}
	for i := range r.SegmentCount() {
		if slices.ContainsFunc(told, func(v protocol.Violation) bool { return v.Segment == "roster" && v.Offset == r.SegmentOffset(i) }) {
			continue
		}
		if row, err := r.Segment(i); err == nil {
			byName[row.Name] = row
		}
	}
	for _, m := range segments {
		h, err := protocol.ReadHeader(m.Bytes)
		if err != nil {
			continue // told already
		}
		add := func(offset int64, rule, format string, args ...any) {
			list = append(list, protocol.Violation{Segment: m.Name, Offset: offset, Rule: rule, What: fmt.Sprintf(format, args...)})
		}
		row, ok := byName[m.Name]
		switch {
		case !ok:
			add(0, "directory.row", "the roster has no row for it")
			continue
		case row.Kind != h.Kind:
			add(protocol.OffsetofSegmentHeaderKind, "directory.kind", "it is a %v, the roster says %v", h.Kind, row.Kind)
		case row.Size != int64(h.Size):
			add(protocol.OffsetofSegmentHeaderSegmentSize, "directory.size", "it has %d bytes, the roster says %d", h.Size, row.Size)
		}
		if h.Name != m.Name {
			add(protocol.OffsetofSegmentHeaderName, "directory.name", "it calls itself %q", h.Name)
		}
		if want := r.Header(); h.Generation != want.Generation || h.Region != want.Region {
			add(protocol.OffsetofSegmentHeaderGeneration, "directory.generation", "it is of region %q, generation %016x; the roster of %q, %016x", h.Region, h.Generation, want.Region, want.Generation)
		}
	}
	return list
}

// attachments compares workers with the processes that the attachment table has for them. A dump may show an instant between
// two stores of the daemon: an attachment is free already, and the row of its worker, which has ended, not yet written. Of a region that lives Lasting looks again.
func attachments(r *protocol.Roster, lives bool) (list []protocol.Violation) {
	for i := range r.WorkerCount() {
		w, err := r.Worker(i)
		if err != nil || w.Attachment == 0 {
			continue
		}
		a, err := r.Attachment(w.Attachment)
		if err != nil || w.Pid == 0 { // between the id and the process
			continue
		}
		if a.State == protocol.AttachmentFree && !lives {
			continue
		}
		if a.State == protocol.AttachmentFree || a.Worker != i {
			list = append(list, protocol.Violation{Segment: "roster", Offset: r.WorkerOffset(i) + protocol.OffsetofWorkerRowAttachment, Rule: "roster.attachment",
				What: fmt.Sprintf("worker %q has attachment %d, whose row is %v and of worker %d", w.Name, w.Attachment, a.State, a.Worker)})
		}
	}
	return list
}
