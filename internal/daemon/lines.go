package daemon

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/pkg/protocol"
)

// lines captures what workers write to their standard output and standard error, line by line, into the log.
type lines struct {
	log     hclog.Logger
	spool   *spool
	readers sync.WaitGroup
	mu      sync.Mutex
	open    map[*os.File]source
	pausing bool
	ending  bool
	left    []unread // while pausing: what has stopped
}

// unread is an output that nobody reads at the moment.
type unread struct {
	source
	from  *os.File
	begun []byte // of a line whose end was not there yet
}

// source is where a line comes from.
type source struct {
	worker      int // index in the roster
	name, group string
	pid         int
	stream      protocol.Stream
	limit       *rateLimit
}

// capture reads r, which it closes, until its last writer has gone. begun is the begin of a line that was read before.
func (l *lines) capture(r *os.File, s source, begun []byte) {
	l.mu.Lock()
	if l.open == nil {
		l.open = map[*os.File]source{}
	}
	l.open[r] = s
	l.mu.Unlock()
	l.readers.Go(func() {
		in := bufio.NewReaderSize(r, protocol.MaxLogText)
		for {
			line, err := in.ReadSlice('\n') // a longer line comes in pieces
			if errors.Is(err, os.ErrDeadlineExceeded) && !l.isEnding() {
				begun = append(begun, line...)
				if l.hasStopped(unread{s, r, begun}) {
					return
				}
				continue
			}
			if line = append(begun, line...); len(line) > 0 {
				l.line(s, strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "\uFFFD"))
			}
			begun = nil
			if err != nil && err != bufio.ErrBufferFull {
				if err != io.EOF {
					l.log.Warn("cannot read a worker's output", "worker", s.name, "pid", s.pid, "stream", s.stream, "error", err)
				}
				l.mu.Lock()
				delete(l.open, r)
				l.mu.Unlock()
				r.Close()
				return
			}
		}
	})
}

func (l *lines) isEnding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

// hasStopped notes that a reader ends, if it is to.
func (l *lines) hasStopped(u unread) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pausing {
		delete(l.open, u.from)
		l.left = append(l.left, u)
	}
	return l.pausing
}

// pause stops all reading, and returns what resume needs to go on. On an error some readers have not stopped; resume helps as well.
func (l *lines) pause(within time.Duration) ([]unread, error) {
	l.mu.Lock()
	l.pausing, l.left = true, nil
	for r := range l.open {
		r.SetReadDeadline(time.Unix(1, 0))
	}
	l.mu.Unlock()
	stopped := make(chan struct{})
	go func() { l.readers.Wait(); close(stopped) }()
	var err error
	select {
	case <-stopped:
	case <-time.After(within):
		err = errors.New("whoever reads the daemon's log does not keep up, so lines of workers are still on their way to it: try again later")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pausing = false
	for r := range l.open {
		r.SetReadDeadline(time.Time{})
	}
	return l.left, err
}

// resume goes on reading.
func (l *lines) resume(left []unread) {
	for _, u := range left {
		u.from.SetReadDeadline(time.Time{})
		l.capture(u.from, u.source, u.begun)
	}
}

// lastWords is how long the last lines of workers that have ended may take to be read.
const lastWords = time.Second

// end waits until everything that ended workers wrote is in the log. A process that a worker left behind may have its output
// open for ever: it is not waited for.
func (l *lines) end() {
	l.mu.Lock()
	l.ending = true
	for r := range l.open {
		r.SetReadDeadline(time.Now().Add(lastWords))
	}
	l.mu.Unlock()
	defer time.AfterFunc(lastWords, l.spool.hurry).Stop()
	l.readers.Wait()
}

// spoolLost is said of records that were dropped on their way out.
const spoolLost = "log records were dropped: whoever reads the log did not keep up; shmctl logs has them"

func (l *lines) line(s source, text string) {
	if !s.limit.allow() {
		return
	}
	l.spool.room()
	if n := l.spool.lost(); n > 0 {
		l.log.Warn(spoolLost, "records", n)
	}
	l.log.Info(text, "worker", s.name, "group", s.group, "pid", s.pid, "stream", s.stream)
}
