package wordcount

import "bytes"

// Merger adds up the results of one run. It is for one goroutine at a time.
//
// Of each job it takes the first attempt of which all parts have come, in any
// order; parts of other attempts, of other runs, and those that come twice are
// ignored.
type Merger struct {
	// Words has the counts of the jobs that are done.
	Words Counter
	// Errors has one entry for each file that was not counted, or not to its end.
	Errors []FileError
	// Bytes of text are counted in Words.
	Bytes uint64
	// Redelivered is how often a job was delivered again, as far as the results
	// tell: of each job the most that one of its attempts had seen.
	Redelivered uint64
	// Duplicates is how many attempts came whole although their job was done.
	Duplicates uint64
	// Foreign is how many messages were of another run.
	Foreign uint64

	run  uint64
	left int
	jobs []mergeJob
	seen map[string]bool // paths in Errors
}

type mergeJob struct {
	done       bool
	accepted   uint64 // attempt id, once done
	deliveries uint32
	attempts   map[uint64]*attempt // begun and not whole
}

type attempt struct {
	of    Attempt
	parts uint32
	have  map[uint32][]byte // by part number
}

// NewMerger waits for the jobs 0 to jobs-1 of a run.
func NewMerger(run uint64, jobs int) *Merger {
	return &Merger{run: run, left: jobs, jobs: make([]mergeJob, jobs), seen: map[string]bool{}}
}

// Left returns how many jobs have no result yet; the merger is done at 0.
func (m *Merger) Left() int { return m.left }

// Accept takes one result message, of which it keeps no reference, and tells
// whether a job became done by it. The error is an ErrMessage: the message, or
// the result that it made whole, is damaged and was not counted.
func (m *Merger) Accept(msg []byte) (done bool, err error) {
	p, err := decodePart(msg)
	if err != nil {
		return false, err
	}
	if p.Run != m.run {
		m.Foreign++
		return false, nil
	}
	if uint64(p.Job) >= uint64(len(m.jobs)) {
		return false, malformed("job number out of range")
	}
	j := &m.jobs[p.Job]
	if p.Deliveries > j.deliveries {
		m.Redelivered += uint64(p.Deliveries - j.deliveries)
		j.deliveries = p.Deliveries
	}
	if j.done {
		if p.ID != j.accepted && p.k == p.parts-1 { // a worker sends this part last
			m.Duplicates++
		}
		return false, nil
	}
	a := j.attempts[p.ID]
	if a == nil {
		a = &attempt{of: p.Attempt, parts: p.parts, have: map[uint32][]byte{}}
		if j.attempts == nil {
			j.attempts = map[uint64]*attempt{}
		}
		j.attempts[p.ID] = a
	}
	if a.of != p.Attempt || a.parts != p.parts {
		return false, malformed("two parts of one attempt disagree")
	}
	if a.parts > 1 {
		if _, twice := a.have[p.k]; twice {
			return false, nil
		}
		a.have[p.k] = bytes.Clone(p.payload)
		if len(a.have) < int(a.parts) {
			return false, nil
		}
		p.payload = a.stream()
	}
	errs, err := decodeResult(p.payload, &m.Words)
	if err != nil {
		delete(j.attempts, p.ID)
		return false, err
	}
	m.addErrors(errs)
	m.Bytes += p.Bytes
	m.left--
	j.done, j.accepted, j.attempts = true, p.ID, nil
	return true, nil
}

// addErrors keeps one error of each file: a large file is in many jobs.
func (m *Merger) addErrors(errs []FileError) {
	for _, e := range errs {
		if !m.seen[e.Path] {
			m.seen[e.Path] = true
			m.Errors = append(m.Errors, e)
		}
	}
}

// stream joins the parts of a whole attempt.
func (a *attempt) stream() []byte {
	var stream []byte
	for k := range a.parts {
		stream = append(stream, a.have[k]...)
	}
	return stream
}
