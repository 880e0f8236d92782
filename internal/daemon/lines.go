package daemon

import (
	"bufio"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/shmd/shmd/pkg/protocol"
)

// lines captures what workers write to their standard output and standard error, line by line, into the log.
type lines struct {
	log     hclog.Logger
	readers sync.WaitGroup
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
	l.readers.Go(func() {
		defer r.Close()
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

func (l *lines) line(s source, text string) {
	l.log.Info(text, "worker", s.name, "group", s.group, "pid", s.pid, "stream", s.stream.String())
}
