package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// newLog makes a log in ordinary memory.
func newLog(t *testing.T) *protocol.Log {
	const ring = 64 << 10
	log, err := protocol.FormatLog(make([]byte, protocol.LogSize(ring, ring)), protocol.Header{Name: "log", Region: "test", Generation: 1}, ring, ring)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Where the ring overtook the reader it says how much was lost, and goes on with the oldest that is left.
func TestLogsLost(t *testing.T) {
	log := newLog(t)
	write := func(from, to int) {
		for i := from; i <= to; i++ {
			log.Write(protocol.Record{Time: time.Unix(int64(i), 0), Level: 6, Stream: protocol.StreamStdout, Pid: 7, Worker: 0, Text: fmt.Sprintf("line %d %s", i, strings.Repeat(".", 500))})
		}
	}
	for _, output := range []string{"table", "json"} {
		var out bytes.Buffer
		p := logPrinter{a: &app{output: output, stdout: os.Stdout, noColor: true}, out: bufio.NewWriter(&out), workers: []protocol.Worker{{Name: "talk.0"}}, log: log, cursor: log.Oldest()}
		p.print = p.record
		if err := p.sel.parse(time.Now()); err != nil {
			t.Fatal(err)
		}
		write(1, 3)
		if err := p.drain(p.print); err != nil {
			t.Fatal(err)
		}
		write(4, 1000)
		if err := p.drain(p.print); err != nil {
			t.Fatal(err)
		}
		p.out.Flush()
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		want, kept := "lost ", 0
		if output == "json" {
			want = `{"lost":`
		}
		lost := -1
		for i, l := range lines {
			if strings.HasPrefix(l, want) {
				if lost >= 0 {
					t.Errorf("two lines say that something was lost: %q", l)
				}
				if _, err := fmt.Sscanf(l, want+"%d", &lost); err != nil || i == 0 {
					t.Errorf("line %d is %q", i, l)
				}
				continue
			}
			kept++
		}
		if lost < 100 || lost+kept != 1000 {
			t.Errorf("%s: %d lost and %d printed, of 1000", output, lost, kept)
		}
		log = newLog(t)
	}
}

// What a worker wrote cannot garble the terminal, or pass for another line.
func TestLogsPrintable(t *testing.T) {
	var out bytes.Buffer
	p := logPrinter{a: &app{output: "table", stdout: os.Stdout, noColor: true}, out: bufio.NewWriter(&out)}
	if err := p.record(line{Record: protocol.Record{Time: time.Unix(0, 0), Level: 3, Pid: 7, Worker: -1, Text: "a\x1b[31mb\nc\td\xff\u009b"}}); err != nil {
		t.Fatal(err)
	}
	p.out.Flush()
	if got := out.String(); !strings.HasSuffix(got, " shmd[7] ! a\uFFFD[31mb\uFFFDc    d\uFFFD\uFFFD\n") {
		t.Errorf("printed %q", got)
	}
}
