package daemon

import (
	"bufio"
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
}

// source is where a line comes from.
type source struct {
	worker      int // index in the roster
	name, group string
	pid         int
	stream      protocol.Stream
}

// capture reads r, which it closes, until its last writer has gone.
func (l *lines) capture(r *os.File, s source) {
	l.mu.Lock()
	if l.open == nil {
		l.open = map[*os.File]source{}
	}
	l.open[r] = s
	l.mu.Unlock()
	l.readers.Go(func() {
		defer func() {
			l.mu.Lock()
			delete(l.open, r)
			l.mu.Unlock()
			r.Close()
		}()
		in := bufio.NewReaderSize(r, protocol.MaxLogText)
		for {
			line, err := in.ReadSlice('\n') // a longer line comes in pieces
			if len(line) > 0 {
				l.line(s, strings.ToValidUTF8(strings.TrimRight(string(line), "\r\n"), "\uFFFD"))
			}
			if err != nil && err != bufio.ErrBufferFull {
				if err != io.EOF {
					l.log.Warn("cannot read a worker's output", "worker", s.name, "pid", s.pid, "stream", s.stream, "error", err)
				}
				return
			}
		}
	})
}

// lastWords is how long the last lines of workers that have ended may take to be read.
const lastWords = time.Second

// end waits until everything that ended workers wrote is in the log. A process that a worker left behind may have its output
// open for ever: it is not waited for.
func (l *lines) end() {
	l.mu.Lock()
	for r := range l.open {
		r.SetReadDeadline(time.Now().Add(lastWords))
	}
	l.mu.Unlock()
	defer time.AfterFunc(lastWords, l.spool.hurry).Stop()
	l.readers.Wait()
}

func (l *lines) line(s source, text string) {
	l.spool.room()
	if n := l.spool.lost(); n > 0 {
		l.log.Warn("log records were dropped: whoever reads the log did not keep up; shmctl logs has them", "records", n)
	}
	l.log.Info(text, "worker", s.name, "group", s.group, "pid", s.pid, "stream", s.stream.String())
}
