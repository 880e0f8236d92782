package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/internal/sys"
	"github.com/shmd/shmd/pkg/protocol"
)

// lines captures what workers write to their standard output and standard error, line by line, into the log. A line is put into the log while it is
// still in the pipe, and taken out of the pipe then: a daemon that is killed in between leaves it in both, and the next one logs it again. So nothing is
// lost, also no line whose end has not come: that waits in the pipe.
type lines struct {
	log     hclog.Logger
	spool   *spool
	readers sync.WaitGroup
	mu      sync.Mutex
	open    map[*os.File]*output
	pausing bool
	ending  bool
	left    []unread // while pausing: what has stopped

	taking sync.Mutex // one takes at a time
	peeker *sys.Peeker
	buf    []byte
}

// output is what a worker writes to one of the two.
type output struct {
	source
	from  *os.File
	begun []byte // of a line, which an older program took out of the pipe; taking is held
}

// unread is an output that nobody reads at the moment.
type unread struct {
	source
	from  *os.File
	begun []byte
}

// source is where a line comes from.
type source struct {
	worker      int // index in the roster
	name, group string
	pid         int
	stream      protocol.Stream
	limit       *rateLimit
}

const (
	takeBytes = 64 << 10 // looked at at once
	takeLines = 256      // put into the log before they are taken out of the pipe: those a killed daemon may leave in both
)

// begin makes what the others need. Without it lines are captured by nobody.
func (l *lines) begin(log hclog.Logger, s *spool) (err error) {
	l.log, l.spool, l.open, l.buf = log, s, map[*os.File]*output{}, make([]byte, takeBytes)
	switch l.peeker, err = sys.NewPeeker(); {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("the outputs of workers cannot be looked into: %w", err)
	case err != nil:
		return fmt.Errorf("the outputs of workers cannot be looked into: %w (a system-call filter must allow tee)", err)
	}
	return nil
}

func (l *lines) close() {
	if l.peeker != nil {
		l.peeker.Close()
	}
}

// capture reads r, which it closes, until its last writer has gone. begun is the begin of a line that was read before.
func (l *lines) capture(r *os.File, s source, begun []byte) {
	o := &output{s, r, begun}
	l.mu.Lock()
	l.open[r] = o
	l.mu.Unlock()
	l.readers.Go(func() {
		for {
			err := l.follow(o)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if l.hasStopped(o) {
					return
				}
				if !l.isEnding() {
					continue
				}
				if again := l.drain(o, true); again != nil {
					err = again
				}
			}
			if err == nil {
				continue
			}
			if err != io.EOF {
				l.log.Warn("cannot read a worker's output", "worker", s.name, "pid", s.pid, "stream", s.stream, "error", err)
			}
			l.mu.Lock()
			delete(l.open, r)
			l.mu.Unlock()
			r.Close()
			return
		}
	})
}

// partialBackstop is how long the rest of a line may lie in a pipe unnoticed: Linux before 5.10.56 does not tell of bytes that come to a pipe that has some.
const partialBackstop = 10 * time.Second

// follow waits until something is in the pipe, and takes it. Errors: io.EOF behind the last, os.ErrDeadlineExceeded when it is to stop or to look again.
func (l *lines) follow(o *output) error {
	rc, err := o.from.SyscallConn()
	if err != nil {
		return err
	}
	l.spool.room()
	var failed error
	waits := false
	err = rc.Read(func(uintptr) bool { // again after each change of the pipe
		if !l.spool.hasRoom() {
			return true
		}
		used, rest, err := l.take(o)
		if failed = err; used > 0 || err != nil {
			return true
		}
		if rest != waits {
			waits = rest
			l.backstop(o.from, rest)
		}
		return false
	})
	if waits {
		l.backstop(o.from, false)
	}
	if failed != nil {
		return failed
	}
	return err
}

// backstop has the reader of a pipe look again later, unless it is to stop anyway.
func (l *lines) backstop(r *os.File, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pausing || l.ending {
		return
	}
	at := time.Time{}
	if on {
		at = time.Now().Add(partialBackstop + rand.N(partialBackstop/4))
	}
	r.SetReadDeadline(at)
}

// drain takes what is in a pipe now, waiting for nothing; of a line without an end only if it is the last. Errors: as follow.
func (l *lines) drain(o *output, last bool) error {
	waiting, _, err := sys.PipeState(o.from)
	if err != nil {
		return err
	}
	for waiting > 0 { // whoever goes on writing for ever must not hold it up
		used, _, err := l.take(o)
		if err != nil {
			return err
		}
		if used == 0 {
			break
		}
		waiting -= used
	}
	if last {
		return l.cut(o)
	}
	return nil
}

// ended takes what a process wrote that has ended, before anything is said of its end and its pipes are forgotten.
func (l *lines) ended(pid int) {
	l.mu.Lock()
	var of []*output
	for _, o := range l.open {
		if o.pid == pid {
			of = append(of, o)
		}
	}
	l.mu.Unlock()
	for _, o := range of {
		l.drain(o, false) // an error comes again, to its reader
	}
}

// take puts lines into the log and then takes them out of the pipe. It returns how many bytes they had, and if there were none, whether a line has begun. Errors: io.EOF
// behind the last line, others of reading.
func (l *lines) take(o *output) (used int, rest bool, err error) {
	l.taking.Lock()
	defer l.taking.Unlock()
	n, err := l.peeker.Peek(o.from, l.buf)
	if err == io.EOF && len(o.begun) > 0 { // its end will not come
		l.line(o, nil)
	}
	if err != nil || n == 0 {
		return 0, false, err
	}
	if used = l.whole(o, l.buf[:n]); used == 0 { // will there be more of it?
		waiting, closed, err := sys.PipeState(o.from) // before the next look
		if err != nil {
			return 0, false, err
		}
		full, err := sys.PipeFull(o.from)
		if err != nil {
			return 0, false, err
		}
		if n, err = l.peeker.Peek(o.from, l.buf); err != nil {
			return 0, false, err
		}
		if used = l.whole(o, l.buf[:n]); used == 0 {
			if !closed && !full && n >= waiting {
				return 0, true, nil
			}
			l.line(o, l.buf[:n])
			used = n
		}
	}
	return used, false, sys.PipeSkip(o.from, used, l.buf)
}

// cut takes a line out of the pipe whose end is not waited for.
func (l *lines) cut(o *output) error {
	l.taking.Lock()
	defer l.taking.Unlock()
	n, err := l.peeker.Peek(o.from, l.buf)
	if n == 0 && len(o.begun) == 0 || err != nil && err != io.EOF {
		return err
	}
	l.line(o, l.buf[:n])
	return sys.PipeSkip(o.from, n, l.buf)
}

// whole puts the lines at the beginning of b into the log that are there as a whole, and returns how many bytes they have. A longer line than a record holds
// comes in pieces.
func (l *lines) whole(o *output, b []byte) (used int) {
	for range takeLines {
		n := bytes.IndexByte(b[used:], '\n') + 1
		if n == 0 || n > protocol.MaxLogText+1 {
			if n = protocol.MaxLogText; n >= len(b)-used {
				break
			}
		}
		l.line(o, b[used:used+n])
		used += n
	}
	return used
}

func (l *lines) isEnding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ending
}

// hasStopped notes that a reader ends, if it is to.
func (l *lines) hasStopped(o *output) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pausing {
		delete(l.open, o.from)
		l.left = append(l.left, unread{o.source, o.from, o.begun})
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

// line puts a line into the log. The lock of taking is held.
func (l *lines) line(o *output, b []byte) {
	if len(o.begun) > 0 {
		b, o.begun = append(o.begun, b...), nil
	}
	if !o.limit.allow() {
		return
	}
	if n := l.spool.lost(); n > 0 {
		l.log.Warn(spoolLost, "records", n)
	}
	text := strings.ToValidUTF8(strings.TrimRight(string(b), "\r\n"), "\uFFFD")
	l.log.Info(text, "worker", o.name, "group", o.group, "pid", o.pid, "stream", o.stream)
}
