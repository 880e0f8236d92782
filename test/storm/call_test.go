package storm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// Bits of a request's word, by its number. One and only one of the first group but intended is how it ended for its caller.
const (
	asked    = 1 << 0  // its caller is about to send it
	replied  = 1 << 1  // its caller has the reply
	broken   = 1 << 2  // its caller was told that its server died
	left     = 1 << 3  // its caller did not wait for the answer
	answered = 1 << 8  // added by each Answer that was told no error; 8 bits
	served   = 1 << 16 // added by each Accept; 8 bits
)

// A request and its reply are numbers from which all their bytes follow; a reply's is its request's with this bit.
const isReply = 1 << 63

const callSize = 1 << 10

func pattern(p []byte, n uint64) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], n*0x9e3779b97f4a7c15+uint64(i))
	}
	binary.LittleEndian.PutUint64(p, n)
}

// length is how long message n is.
func length(n uint64) int { return 64 + int(n%8)*120 }

// whole reports whether p is message n, and all of it.
func whole(p []byte, n uint64) bool {
	if len(p) != length(n) || binary.LittleEndian.Uint64(p) != n {
		return false
	}
	for i := 8; i+8 <= len(p); i += 8 {
		if binary.LittleEndian.Uint64(p[i:]) != n*0x9e3779b97f4a7c15+uint64(i) {
			return false
		}
	}
	return true
}

// calling sends requests, by turns one with Do and some at a time, and of the latter leaves one now and then.
func calling(ctx context.Context, c *shm.Call, l *ledger, r *shm.Region) error {
	var req, buf []byte
	for round := 0; l.halt.Load() == 0; round++ {
		if round%2 == 0 {
			n := l.next.Add(1) - 1
			if n >= maxMessages {
				return errors.New("the ledger is full")
			}
			req = append(req[:0], make([]byte, length(n))...)
			pattern(req, n)
			l.words[n].Or(asked)
			reply, err := c.Do(ctx, req, buf[:0])
			buf = reply
			if err := settle(l, n, reply, err); err != nil {
				return err
			}
			continue
		}
		var replies [holds]*shm.Reply
		var numbers [holds]uint64
		for i := range replies {
			q, err := c.Request(ctx)
			if err != nil {
				return err
			}
			n := l.next.Add(1) - 1
			if n >= maxMessages {
				return errors.New("the ledger is full")
			}
			pattern(q.Bytes()[:length(n)], n)
			l.words[n].Or(asked)
			if replies[i], err = q.Send(length(n)); err != nil {
				return err
			}
			numbers[i] = n
		}
		for i := range replies {
			if round%8 == 1 && i == 1 {
				l.words[numbers[i]].Or(left)
			} else {
				p, err := replies[i].Wait(ctx)
				if err := settle(l, numbers[i], p, err); err != nil {
					return err
				}
			}
			if err := replies[i].Done(); err != nil {
				return err
			}
		}
	}
	l.done.Add(1)
	<-r.Quit().Done()
	return nil
}

// settle judges what a caller got for request n.
func settle(l *ledger, n uint64, reply []byte, err error) error {
	bit := uint32(replied)
	switch {
	case errors.Is(err, shm.ErrServerDied):
		bit = broken
	case err != nil:
		return err
	case !whole(reply, n|isReply):
		l.bad[torn].Add(1)
	}
	if l.words[n].Or(bit)&(replied|broken|left) != 0 {
		l.bad[disorder].Add(1)
	}
	return nil
}

// serving takes up to two requests at a time and answers the later one first.
func serving(ctx context.Context, c *shm.Call, l *ledger) error {
	for {
		m, err := c.Accept(ctx)
		if err != nil {
			return err
		}
		ms := []*shm.Incoming{m}
		if m, err := c.TryAccept(); err == nil {
			ms = append(ms, m)
		}
		for i := len(ms) - 1; i >= 0; i-- {
			m := ms[i]
			n := binary.LittleEndian.Uint64(m.Bytes())
			if n >= maxMessages || !whole(m.Bytes(), n) {
				l.bad[torn].Add(1)
				n = maxMessages - 1
			}
			switch w := l.words[n].Add(served); {
			case w&asked == 0:
				l.bad[neverSent].Add(1)
			case w>>8&0xff != 0 || w&(replied|broken) != 0:
				l.bad[afterAck].Add(1)
			}
			pattern(m.Room()[:length(n)], n|isReply)
			for range n % 4 * 10 { // long enough that kills find some at work
				yield()
			}
			switch err := m.Answer(length(n)); {
			case err == nil:
				l.words[n].Add(answered)
			case !errors.Is(err, shm.ErrCallerLeft):
				return err
			}
		}
	}
}

// TestCallStorm kills callers and servers: every request of a caller that lives is answered once, whole and to itself, or fails as the
// channel says; and in the end every slot is free.
func TestCallStorm(t *testing.T) {
	for _, death := range []string{"retry", "fail"} {
		t.Run(death, func(t *testing.T) { callStorm(t, death) })
	}
}

func callStorm(t *testing.T, death string) {
	kills := number(t, "SHMD_KILLS", 2000) / 4
	const callers = 3
	sc := begin(t, 2, fmt.Sprintf("[channel.work]\nkind = \"call\"\nslots = 8\nslot_size = %d\nmax_deliveries = 0\non_server_death = %q\n", callSize, death),
		group{"caller", "produce", "work", callers}, group{"server", "consume", "work", 3})
	l := sc.l
	took := sc.rampage(kills, 100)
	// No caller that lives waits for ever: all finish what they have under way.
	l.halt.Store(1)
	sc.until("callers wait for answers that nobody gives", func() bool { return l.done.Load() >= callers })
	sc.stop("caller", "server")
	c, err := sc.r.Call("work")
	if err != nil {
		t.Fatal(err)
	}
	sc.until("slots that nobody uses are not free", func() bool {
		s, err := c.Stat()
		return err == nil && s.Free == s.Slots
	})

	var got, failed, open, twice, more, nobody int
	for n := range min(l.next.Load(), maxMessages) {
		w := l.words[n].Load()
		if w&asked == 0 {
			continue
		}
		switch {
		case w&replied != 0:
			got++
			if w>>16 == 0 {
				nobody++
			}
		case w&broken != 0:
			failed++
		case w&left == 0:
			open++
		}
		if w>>8&0xff > 1 {
			twice++
		}
		if w>>16 > 1 {
			more += int(w>>16) - 1
		}
	}
	t.Logf("%d kills in %v (%v), %d requests answered, %d failed with their servers, %d ended with their callers, %d served again; answered twice %d, torn %d, never sent %d, served after the answer %d",
		kills, took.Round(time.Millisecond), sc.killed, got, failed, open, more, twice, l.bad[torn].Load(), l.bad[neverSent].Load(), l.bad[afterAck].Load())
	const atATime = 2 // requests that a server holds
	switch {
	case twice != 0 || nobody != 0 || l.bad[disorder].Load() != 0:
		t.Errorf("%d requests were answered more than once, %d by nobody, %d ended twice for their callers", twice, nobody, l.bad[disorder].Load())
	case l.bad[torn].Load() != 0:
		t.Errorf("%d requests or replies were torn, or another's", l.bad[torn].Load())
	case l.bad[neverSent].Load() != 0:
		t.Errorf("%d requests were served that nobody had sent", l.bad[neverSent].Load())
	case l.bad[afterAck].Load() != 0:
		t.Errorf("%d requests were served after they had ended", l.bad[afterAck].Load())
	case open > holds*sc.killed["caller"]:
		t.Errorf("%d requests have no end, with %d kills of callers", open, sc.killed["caller"])
	case death == "retry" && failed != 0, failed > atATime*sc.killed["server"]:
		t.Errorf("%d requests failed, with %d kills of servers and on_server_death = %q", failed, sc.killed["server"], death)
	case death == "fail" && more != 0, more > atATime*sc.killed["server"]:
		t.Errorf("%d requests were served again, with %d kills of servers and on_server_death = %q", more, sc.killed["server"], death)
	case got < kills:
		t.Errorf("only %d answers in %d kills: there was no traffic", got, kills)
	}
}
