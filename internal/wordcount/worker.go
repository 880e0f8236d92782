package wordcount

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// Work is a worker's life: it receives jobs, counts, sends the result, and then
// acknowledges the job, until ctx ends or r is asked to quit (shm.ErrQuit), which
// it returns.
//
// Files stay mapped, up to a limit, and also when it returns: the end of the
// process unmaps them all at once, where one call for each of thousands would
// make it last. In a process that lives on, the garbage collector does it.
//
// A message that is no job is told on stderr and acknowledged: it would be no
// better at the next try. A file that cannot be counted is an error in the
// result of its job and nothing more.
func Work(ctx context.Context, r *shm.Region, in, out *shm.Queue) error {
	if in == nil || out == nil {
		return errors.New("wordcount: the worker needs one channel to consume and one to produce: set both in its [worker] table")
	}
	if out.SlotSize() <= resultHeader {
		return fmt.Errorf("wordcount: slots of %d bytes in channel %q hold no result: set its slot_size to 64KiB or so", out.SlotSize(), out.Name())
	}
	w := worker{out: out, files: newFiles(mappedLimit())}
	var err error
	if w.counted, err = r.Counter("counted", "bytes", "text whose words were counted"); err != nil {
		return err
	}
	took, err := r.Histogram("job", "nanoseconds", "time from a job to its result")
	if err != nil {
		return err
	}
	for {
		m, err := in.Receive(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := w.serve(ctx, m); err != nil {
			m.Nack()
			return err
		}
		took.Since(began)
		if err := m.Ack(); err != nil && !errors.Is(err, shm.ErrLost) {
			return err
		}
		r.Beat()
	}
}

type worker struct {
	out     *shm.Queue
	run     uint64
	files   *files
	words   Counter
	stream  []byte
	counted *shm.Counter
}

func (w *worker) serve(ctx context.Context, m *shm.Message) error {
	job, err := DecodeJob(m.Bytes())
	if err != nil {
		fmt.Fprintf(os.Stderr, "wordcount: dropped a message of %d bytes: %v\n", len(m.Bytes()), err)
		return nil
	}
	if job.Run != w.run { // the files may be others by now
		w.files.clear()
		w.run = job.Run
	}
	a := Attempt{Run: job.Run, ID: rand.Uint64(), Job: job.ID, Deliveries: uint32(m.Deliveries())}
	var errs []FileError
	a.Bytes, errs = w.files.count(job.Ranges, &w.words)
	w.counted.Add(uint64(a.Bytes))
	w.stream = EncodeResult(w.stream[:0], errs, &w.words)
	for k := range Parts(len(w.stream), w.out.SlotSize()) {
		l, err := w.out.Loan(ctx)
		if err != nil {
			return err
		}
		if err := l.Commit(EncodePart(l.Bytes(), a, w.stream, k)); err != nil {
			return err
		}
	}
	if cap(w.stream) > keptArena {
		w.stream = nil
	}
	return nil
}
