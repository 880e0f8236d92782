package cli

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/shmd/shmd/internal/stat"
	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// worker is a row of the roster as it is now: where no daemon keeps the roster up, with what the process and its page say.
type worker = stat.Worker

// kept reports whether a daemon keeps the roster up: it has answered, and has not died since.
func (s *session) kept() bool { return s.answers() && s.Daemon().Alive }

// worker returns row i; kept is what the function of that name said. Errors: a row that a daemon was killed in.
func (s *session) worker(i int, kept bool) (worker, error) { return stat.ReadWorker(s.Set, i, kept) }

// reader reads what the region is doing.
func (s *session) reader() *stat.Reader {
	return stat.NewReader(stat.Source{Set: s.Set, Kept: s.kept, Channel: s.openChannel})
}

// openChannel opens a channel whose memory is in our hands.
func (s *session) openChannel(name string) (protocol.Channel, error) {
	if seg := s.segments[name]; seg != nil {
		return protocol.OpenChannel(seg.Bytes())
	}
	return nil, s.noChannel(name)
}

// noChannel says why the memory of a channel is not in our hands.
func (s *session) noChannel(name string) error {
	if why := s.missing[name]; why != nil {
		return why
	}
	return errNotOurs
}

var errNotOurs = errors.New("only root and the daemon's user may look into its memory; who else may produce or consume has it for that alone")

// workers returns the rows of the given indexes.
func (s *session) workers(indexes []int) ([]worker, error) {
	list := make([]worker, 0, len(indexes))
	kept := s.kept()
	for _, i := range indexes {
		w, err := s.worker(i, kept)
		if err != nil {
			return list, err
		}
		list = append(list, w)
	}
	return list, nil
}

// groupName is the name of a worker's group.
func (s *session) groupName(w protocol.Worker) string {
	groups, _ := s.Roster.Groups()
	if w.Group >= 0 && w.Group < len(groups) {
		return groups[w.Group].Name
	}
	return ""
}

// pid is a process in JSON documents: null for none, since a signal to process 0 would be one to the reader's own group.
type pid int

// MarshalJSON implements json.Marshaler.
func (p pid) MarshalJSON() ([]byte, error) {
	if p <= 0 {
		return []byte("null"), nil
	}
	return strconv.AppendInt(nil, int64(p), 10), nil
}

// workerJSON is a worker in JSON documents.
type workerJSON struct {
	Name       string `json:"name"`
	Group      string `json:"group"`
	Instance   int    `json:"instance"`
	Pid        pid    `json:"pid"` // null: no process
	State      string `json:"state"`
	Desired    string `json:"desired"`
	Since      string `json:"since"`
	Restarts   uint64 `json:"restarts"`
	Attachment uint16 `json:"attachment"` // 0: none
	ExitCode   int    `json:"exit_code"`
	ExitSignal int    `json:"exit_signal"`
	Reason     string `json:"reason"`
	ShimPid    pid    `json:"shim_pid"` // of a filter, the process that holds its messages and pipes; null for another worker
	Stalled    bool   `json:"stalled"`  // a filter that does not answer, or who holds a slot for too long
}

func (s *session) workerJSON(w worker) workerJSON {
	return workerJSON{
		Name: w.Name, Group: s.groupName(w.Worker), Instance: w.Instance, Pid: pid(w.Pid), State: stateCell(w.State).text, Desired: w.Desired.String(),
		Since: timestamp(w.Since), Restarts: w.Restarts, Attachment: w.Attachment, ExitCode: w.ExitCode, ExitSignal: w.ExitSignal, Reason: w.Reason,
		ShimPid: pid(w.ShimPid), Stalled: w.Stalled,
	}
}

// workersJSON is the document that ps, start, restart and wait print.
type workersJSON struct {
	Schema  int          `json:"schema"`
	Region  string       `json:"region"`
	Workers []workerJSON `json:"workers"`
}

func (s *session) workersJSON(list []worker) workersJSON {
	doc := workersJSON{Schema: schema, Region: s.name(), Workers: []workerJSON{}}
	for _, w := range list {
		doc.Workers = append(doc.Workers, s.workerJSON(w))
	}
	return doc
}

// name is the region's name, as its memory says.
func (s *session) name() string { return s.Roster.Header().Region }

// timestamp is how JSON documents tell a time of the wall clock.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// look is how often an observer looks after what no futex tells it of: the death of a process, and the end of its own context.
const look = 100 * time.Millisecond

// await waits on the roster until check says that it is done. It returns an error of check, or the context's.
func (s *session) await(ctx context.Context, check func() (done bool, err error)) error {
	word := s.Roster.ChangeWord()
	for {
		before := word.Load()
		if done, err := check(); done || err != nil {
			return err
		}
		slice := look
		if deadline, ok := ctx.Deadline(); ok {
			slice = min(slice, max(time.Until(deadline), 0))
		}
		err := sys.FutexWait(word, before, slice)
		if err != nil && !errors.Is(err, sys.ErrAgain) && !errors.Is(err, sys.ErrTimedOut) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
