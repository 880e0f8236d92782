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

// The upper half of the ledger says what was seen at each position: a message's number and 1, or gap.
const (
	positions = maxMessages / 2
	gap       = ^uint32(0) // a subscriber went past it: there is no message
	batch     = 5          // messages that a publisher publishes at a time
	topicSize = 1 << 10
)

// publishing publishes in all ways by turns.
func publishing(ctx context.Context, t *shm.Topic, l *ledger, r *shm.Region) error {
	p, err := t.Publisher()
	if err != nil {
		return err
	}
	defer p.Close()
	r.Ready()
	for l.done.Load() == 0 && r.Quit().Err() == nil { // the one that sees all is not there yet
		yield()
	}
	var msgs [batch][]byte
	for i := range msgs {
		msgs[i] = make([]byte, topicSize)
	}
	for round := 0; r.Quit().Err() == nil; round++ {
		count := uint64(1)
		if round%3 == 0 {
			count = batch
		}
		first := l.next.Add(count) - count
		if first+count >= positions {
			return errors.New("the ledger is full")
		}
		for i := range count {
			msgs[i] = msgs[i][:length(first+i)]
			pattern(msgs[i], first+i)
			l.words[first+i].Or(intended)
		}
		switch round % 3 {
		case 0:
			_, err = p.PublishBatch(ctx, msgs[:])
		case 1:
			err = p.Publish(ctx, msgs[0])
		default:
			var loan *shm.Publication
			if loan, err = p.Loan(ctx); err == nil {
				n := copy(loan.Bytes(), msgs[0])
				if first%8 == 0 {
					yield() // so that more kills find a loan
				}
				err = loan.Commit(n)
			}
		}
		if err != nil {
			return err
		}
		for i := range count {
			l.words[first+i].Or(committed)
		}
	}
	return nil
}

// reader judges what one subscription sees.
type reader struct {
	l          *ledger
	next       uint64 // position after the last message
	seen, lost uint64 // since begun
	gaps       uint64 // positions passed that had no message
	begun      bool   // next is known
	missing    uint64 // told since the last one
}

func (v *reader) lose(n uint64) {
	if v.begun { // else nobody knows from where
		v.missing += n
	}
}

func (v *reader) message(at, n uint64, ok bool) {
	l := v.l
	if !ok || n >= positions || at >= positions {
		l.bad[torn].Add(1)
		return
	}
	if l.words[n].Load()&intended == 0 {
		l.bad[neverSent].Add(1)
	}
	if v.begun {
		between := at - v.next
		switch {
		case at < v.next || v.missing > between:
			l.bad[miscount].Add(1)
		case v.missing == 0:
			for p := v.next; p < at; p++ {
				v.mark(p, gap)
			}
		}
		v.seen++
		v.lost += v.missing
		v.gaps += between - v.missing
	}
	v.begun, v.missing, v.next = true, 0, at+1
	v.mark(at, uint32(n)+1)
}

// mark says what is at a position; everybody has to say the same.
func (v *reader) mark(at uint64, what uint32) {
	w := &v.l.words[positions+at]
	if !w.CompareAndSwap(0, what) && w.Load() != what {
		v.l.bad[disorder].Add(1)
	}
}

// take takes one message and judges it; each nth is made a slow one. It returns its number.
func (v *reader) take(ctx context.Context, s *shm.Subscription, slow uint64) (uint64, error) {
	m, err := s.Receive(ctx)
	if gone, ok := errors.AsType[*shm.LostError](err); ok {
		v.lose(gone.Count)
		return 0, shm.ErrLapped
	}
	if err != nil {
		return 0, err
	}
	at, p := m.Position(), m.Bytes()
	n := binary.LittleEndian.Uint64(p[:8])
	ok := whole(p, n)
	if slow != 0 && at%slow == 0 {
		for until, spin := v.l.next.Load()+2*topicSlots, 0; v.l.next.Load() < until && spin < 1000; spin++ {
			yield()
		}
	}
	if err := m.Done(); err != nil {
		return 0, err
	}
	v.message(at, n, ok)
	return n, nil
}

const topicSlots = 32

// subscribing sees all there is, from a beginning that changes.
func subscribing(ctx context.Context, t *shm.Topic, l *ledger, r *shm.Region) error {
	s, err := t.Subscribe(shm.SubscribeOptions{From: []shm.From{shm.FromNew, shm.FromLast, shm.FromOldest}[l.next.Load()%3]})
	if err != nil {
		return err
	}
	defer s.Close()
	r.Ready()
	v := reader{l: l}
	for {
		if _, err := v.take(ctx, s, 500); err != nil && !errors.Is(err, shm.ErrLapped) {
			return err
		}
	}
}

// TestTopicStorm kills publishers and subscribers, beside one subscriber that lives: all see the same message at the same position, whole; that one
// sees every committed message once, or is told how many it did not.
func TestTopicStorm(t *testing.T) {
	for _, c := range []struct {
		name       string
		publishers int
		drop       bool
	}{{"block", 3, false}, {"drop-oldest", 3, true}, {"block, one publisher", 1, false}, {"drop-oldest, one publisher", 1, true}} {
		t.Run(c.name, func(t *testing.T) { topicStorm(t, c.publishers, c.drop) })
	}
}

func topicStorm(t *testing.T, publishers int, drop bool) {
	kills := number(t, "SHMD_KILLS", 2000) / 8
	overflow, only := "block", 0
	if drop {
		overflow = "drop-oldest"
	}
	if publishers == 1 {
		only = 1
	}
	sc := begin(t, 3, fmt.Sprintf("[channel.news]\nkind = \"topic\"\nslots = %d\nslot_size = %d\noverflow = %q\npublishers = %d\n", topicSlots, topicSize, overflow, only),
		group{"subscriber", "consume", "news", 2}, group{"publisher", "produce", "news", publishers})
	l := sc.l
	topic, err := sc.r.Topic("news")
	if err != nil {
		t.Fatal(err)
	}
	s, err := topic.Subscribe(shm.SubscribeOptions{From: shm.FromNew})
	if err != nil {
		t.Fatal(err)
	}
	st, err := topic.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v := reader{l: l, begun: true, next: st.Tail}
	ctx, cancel := context.WithCancel(sc.ctx)
	ended := make(chan error, 1)
	go func() { // the one that lives
		slow := uint64(0)
		if drop {
			slow = 1000
		}
		for {
			n, err := v.take(ctx, s, slow)
			switch {
			case errors.Is(err, shm.ErrLapped):
			case err != nil:
				s.Close()
				ended <- err
				close(ended)
				return
			default:
				if l.words[n].Add(received)>>8&0xff != 1 {
					l.bad[afterAck].Add(1)
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	l.done.Store(1)
	took := sc.rampage(kills, 200)
	// Nobody is stopped: there is traffic after the last kill.
	until := l.next.Load() + 1000
	sc.until("publishers do not go on", func() bool { return l.next.Load() > until })
	sc.stop("publisher")
	sc.until("a subscriber has not seen all", func() bool { // its row says so once it has found nothing more
		st, err := topic.Stat()
		if err != nil || st.Writing != 0 {
			return false
		}
		for _, c := range st.Subscribers {
			if c.Owner == sc.r.AttachmentID() && c.Lag != 0 {
				return false
			}
		}
		return true
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the subscriber that lives: %v", err)
	}
	sc.stop("subscriber")
	if st, err = topic.Stat(); err != nil {
		t.Fatal(err)
	}

	var sent, lost, unsure uint64
	for n := range min(l.next.Load(), positions) {
		switch w := l.words[n].Load(); {
		case w&committed != 0:
			sent++
			if w>>8&0xff == 0 {
				lost++
			}
		case w>>8&0xff != 0:
			unsure++ // its publisher was killed between the commit and the note of it
		}
	}
	passed := batch * uint64(sc.killed["publisher"]) // positions that killed publishers left without a message, at most
	t.Logf("%d kills in %v (%v), %d messages committed, %d seen by the subscriber that lives, which was told that it lost %d; not seen %d, torn %d, never sent %d, twice %d, two at one position %d, wrong counts %d, positions given up %d",
		kills, took.Round(time.Millisecond), sc.killed, sent, v.seen, v.lost, lost, l.bad[torn].Load(), l.bad[neverSent].Load(), l.bad[afterAck].Load(),
		l.bad[disorder].Load(), l.bad[miscount].Load(), v.gaps)
	switch {
	case l.bad[torn].Load() != 0 || l.bad[neverSent].Load() != 0 || l.bad[afterAck].Load() != 0:
		t.Error("subscribers saw what they must not")
	case l.bad[disorder].Load() != 0:
		t.Error("subscribers saw different messages at one position")
	case l.bad[miscount].Load() != 0:
		t.Error("subscribers were told wrong counts of what they lost")
	case !drop && (lost != 0 || v.lost != 0):
		t.Errorf("%d committed messages were not seen, and %d were told as lost, by a subscriber that publishers wait for", lost, v.lost)
	case drop && (v.lost == 0 || lost > v.lost):
		t.Errorf("%d committed messages were not seen, and %d were told as lost", lost, v.lost)
	case v.gaps > passed || only == 1 && v.gaps != 0:
		t.Errorf("%d positions had no message and were not told as lost, with %d kills of publishers", v.gaps, sc.killed["publisher"])
	case unsure > passed:
		t.Errorf("%d messages were seen whose publishers did not know, with %d kills of publishers", unsure, sc.killed["publisher"])
	case v.next+v.missing > st.Tail || st.Tail-v.next-v.missing > passed:
		t.Errorf("all to %d was seen, and %d told as lost after it; the topic ends at %d", v.next, v.missing, st.Tail)
	case sent < uint64(kills):
		t.Errorf("only %d messages in %d kills: there was no traffic", sent, kills)
	}
}
