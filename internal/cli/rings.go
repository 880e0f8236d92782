package cli

import (
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// rings are the workers' own logs, for what the daemon has not put into the region's log: it is dead, it hangs, or it is about to.
type rings struct {
	all map[int]*ring // by worker
}

// ring is the log of one worker.
type ring struct {
	log     *protocol.InstanceLog
	after   uint64    // position behind what is in the region's log, or was taken from here
	number  uint32    // low half of the number of the last record before it
	taken   uint64    // position up to which records were taken from here, 0 if none was
	waiting time.Time // since when there is something behind after; zero: there is nothing
}

func newRings(s *session, workers []protocol.Worker) *rings {
	r := &rings{all: map[int]*ring{}}
	for i, w := range workers {
		if w.Group < 0 || w.Group >= len(s.Groups) || s.Groups[w.Group] == nil || w.Instance < 0 || w.Instance >= s.Groups[w.Group].Instances() {
			continue
		}
		if l := s.Groups[w.Group].Log(w.Instance); l != nil {
			position, number := s.Roster.Drained(i)
			r.all[i] = &ring{log: l, after: position, number: number}
		}
	}
	return r
}

// known takes down a record of the region's log, and reports whether it was taken from the worker's ring before.
func (r *rings) known(rec protocol.Record) bool {
	if r == nil || rec.Stream != protocol.StreamLog || r.all[rec.Worker] == nil {
		return false
	}
	w := r.all[rec.Worker]
	if w.taken != 0 && int64(rec.Position-w.taken) <= 0 {
		return true
	}
	if int64(rec.Position-w.after) > 0 {
		w.after, w.number, w.waiting = rec.Position, rec.Number, time.Time{}
	}
	return false
}

// take returns what the rings have that is not in the region's log although it has been there for a while, in the order of time. What was
// lost of a ring comes before what follows.
func (r *rings) take(patience time.Duration) (lines []line) {
	if r == nil {
		return nil
	}
	for i, w := range r.all {
		if w.log.Head() == w.after {
			w.waiting = time.Time{}
			continue
		}
		if patience > 0 {
			if w.waiting.IsZero() {
				w.waiting = time.Now()
			}
			if time.Since(w.waiting) < patience {
				continue
			}
		}
		for c := w.log.From(w.after); ; {
			rec, _, ok, err := c.Next()
			w.after = c.Position()
			if !ok || err != nil { // the daemon says that it makes no sense; the rest is for the next time
				break
			}
			if lost := int32(rec.Number - w.number - 1); lost > 0 {
				lines = append(lines, line{Record: protocol.Record{Time: rec.Time}, lost: uint64(lost)})
			}
			w.number, w.taken = rec.Number, w.after
			rec.Worker, rec.Seq = i, 0
			lines = append(lines, line{Record: rec})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return a.Time.Compare(b.Time) })
	return lines
}
