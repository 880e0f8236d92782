package shm_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func topicRegion(keys string) string {
	return "[region]\nname = \"test\"\n[channel.news]\nkind = \"topic\"\nslots = 16\nslot_size = \"64B\"\n" + keys + "\n[worker.idle]\nbuiltin = \"idle\"\n"
}

func topic(t testing.TB, r *shm.Region) *shm.Topic {
	t.Helper()
	c, err := r.Topic("news")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func subscribe(t testing.TB, c *shm.Topic, from shm.From) *shm.Subscription {
	t.Helper()
	s, err := c.Subscribe(shm.SubscribeOptions{From: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// another attaches to the test's region in another process.
func another(o shm.Options) (*shm.Region, *shm.Topic, error) {
	o.Region, o.Socket = os.Getenv("SHM_TEST_REGION"), os.Getenv("SHM_TEST_SOCKET")
	r, err := shm.Attach(context.Background(), o)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.Topic("news")
	return r, c, err
}

func init() {
	roles["publisher"] = func() error { // numbers that begin with its argument
		r, c, err := another(shm.Options{Produce: []string{"news"}})
		if err != nil {
			return err
		}
		defer r.Close()
		first, _ := strconv.ParseUint(os.Getenv("SHM_TEST_FIRST"), 10, 64)
		count, _ := strconv.ParseUint(os.Getenv("SHM_TEST_COUNT"), 10, 64)
		for i := range count {
			if err := c.Publish(context.Background(), binary.LittleEndian.AppendUint64(nil, first+i)); err != nil {
				return err
			}
		}
		return nil
	}
	roles["subscriber"] = func() error { // says what it gets, a number a line; "ready" first
		r, c, err := another(shm.Options{Consume: []string{"news"}})
		if err != nil {
			return err
		}
		defer r.Close()
		s, err := c.Subscribe(shm.SubscribeOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Println("ready")
		for {
			b, err := s.ReceiveCopy(context.Background(), nil)
			if err != nil {
				fmt.Println(err)
				return nil
			}
			fmt.Println(binary.LittleEndian.Uint64(b))
		}
	}
	roles["loaner"] = func() error { // takes a loan and a cursor, says so, and waits to be killed
		_, c, err := another(shm.Options{Produce: []string{"news"}})
		if err != nil {
			return err
		}
		if _, err := c.Subscribe(shm.SubscribeOptions{}); err != nil {
			return err
		}
		if _, err := c.Loan(context.Background()); err != nil {
			return err
		}
		fmt.Println("ready")
		io.Copy(io.Discard, os.Stdin)
		return nil
	}
}

// topicProcess is another process of the test.
type topicProcess struct {
	*exec.Cmd
	t   testing.TB
	out *bufio.Scanner
}

func startTopic(t testing.TB, d *testregion.Region, role string, env ...string) *topicProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &topicProcess{Cmd: exec.Command(exe), t: t}
	p.Env = append(append(os.Environ(), "SHM_TEST_ROLE="+role, "SHM_TEST_SOCKET="+d.Socket, "SHM_TEST_REGION="+d.Name), env...)
	p.Stderr = os.Stderr
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		p.Process.Kill()
		p.Wait()
	})
	return p
}

// says returns the next line of the process.
func (p *topicProcess) says() string {
	p.t.Helper()
	timer := time.AfterFunc(testregion.Limit, func() { p.Process.Kill() })
	defer timer.Stop()
	if !p.out.Scan() {
		p.t.Fatal("the process ended or hung")
	}
	return p.out.Text()
}

func num(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// Two publishers and two subscribers in four processes, and one more here: one order for all.
func TestTopicOneOrder(t *testing.T) {
	for _, keys := range []string{"", "overflow = \"drop-oldest\"\nslots = 65536"} {
		conf := topicRegion(keys)
		if keys != "" {
			conf = strings.Replace(conf, "slots = 16\n", "", 1)
		}
		d := testregion.Start(t, conf)
		r := d.Attach(shm.Options{Consume: []string{"news"}})
		s := subscribe(t, topic(t, r), shm.FromNew)
		const n = 5000
		subs := []*topicProcess{startTopic(t, d, "subscriber"), startTopic(t, d, "subscriber")}
		for _, p := range subs {
			p.says()
		}
		for i := range 2 {
			startTopic(t, d, "publisher", fmt.Sprintf("SHM_TEST_FIRST=%d", 1000000*(i+1)), fmt.Sprintf("SHM_TEST_COUNT=%d", n))
		}
		got := make([][]uint64, 3)
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
			defer cancel()
			for len(got[2]) < 2*n {
				if _, err := s.ReceiveBatch(ctx, 100, func(p []byte) error {
					got[2] = append(got[2], binary.LittleEndian.Uint64(p))
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for i, p := range subs { // at the same time: who does not read what it is told stops the topic
			wg.Go(func() {
				timer := time.AfterFunc(testregion.Limit, func() { p.Process.Kill() })
				defer timer.Stop()
				for len(got[i]) < 2*n && p.out.Scan() {
					v, err := strconv.ParseUint(p.out.Text(), 10, 64)
					if err != nil {
						t.Error(err)
						return
					}
					got[i] = append(got[i], v)
				}
			})
		}
		wg.Wait()
		if len(got[0]) != 2*n {
			t.Fatalf("a subscriber got %d of %d", len(got[0]), 2*n)
		}
		if !slices.Equal(got[0], got[1]) || !slices.Equal(got[0], got[2]) {
			t.Error("the subscribers disagree about the order")
		}
		last := map[uint64]uint64{}
		for _, v := range got[0] {
			if v != last[v/1000000]+1 && last[v/1000000] != 0 {
				t.Fatalf("%d came after %d", v, last[v/1000000])
			}
			last[v/1000000] = v
		}
	}
}

// A subscriber that is stopped blocks publishers, until it is evicted; when it goes on, it finds out.
func TestTopicAStoppedSubscriberIsEvicted(t *testing.T) {
	for _, keys := range []string{"", "publishers = 1"} {
		d := testregion.Start(t, topicRegion(keys))
		r := d.Attach(shm.Options{Produce: []string{"news"}, Consume: []string{"news"}})
		c := topic(t, r)
		p := startTopic(t, d, "subscriber")
		p.says()
		ctx := within(t)
		if err := c.Publish(ctx, num(0)); err != nil {
			t.Fatal(err)
		}
		if got := p.says(); got != "0" {
			t.Fatal(got)
		}
		p.Process.Signal(syscall.SIGSTOP)
		if _, err := syscall.Wait4(p.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil { // until it has stopped
			t.Fatal(err)
		}
		v := uint64(1)
		for ; c.TryPublish(num(v)) == nil; v++ {
		}
		if v < 16 || v > 18 { // it may have been stopped with one in its hand
			t.Fatalf("full after %d messages", v)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if err := c.Publish(short, num(v)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("publish beside a stopped subscriber: %v", err)
		}
		st, err := c.Stat()
		if err != nil || len(st.Subscribers) != 1 || !st.Subscribers[0].Blocks || st.Subscribers[0].Lag != 16 {
			t.Fatalf("%+v, %v", st, err)
		}
		done := make(chan error)
		go func() { done <- c.Publish(ctx, num(v)) }()
		for { // until it sleeps
			if st, _ := c.Stat(); st.Senders > 0 {
				break
			}
		}
		if err := c.Evict(st.Subscribers[0].Row); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatalf("publish after the eviction: %v", err)
		}
		p.Process.Signal(syscall.SIGCONT)
		for {
			line := p.says()
			if line == shm.ErrEvicted.Error() {
				break
			}
			if n, err := strconv.ParseUint(line, 10, 64); err != nil || n > v {
				t.Fatalf("the evicted subscriber says %q", line)
			}
		}
	}
}

func TestTopicEvictAfter(t *testing.T) {
	d := testregion.Start(t, topicRegion("evict_after = \"200ms\""))
	r := d.Attach(shm.Options{Produce: []string{"news"}, Consume: []string{"news"}})
	c := topic(t, r)
	stuck, reads := subscribe(t, c, shm.FromNew), subscribe(t, c, shm.FromNew)
	ctx := within(t)
	reading, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := reads.ReceiveCopy(reading, nil); err != nil {
				return
			}
		}
	})
	defer wg.Wait()
	defer stop()
	begin := time.Now()
	for i := range uint64(40) {
		if err := c.Publish(ctx, num(i)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("evicted after %v", took)
	}
	if _, err := stuck.Receive(ctx); !errors.Is(err, shm.ErrEvicted) {
		t.Errorf("the subscriber that read nothing: %v", err)
	}
	if st, _ := c.Stat(); st.Evicted != 1 {
		t.Errorf("%+v", st)
	}
}

// endsWithin is a context that has ended when it is asked for the second time: after Messages has looked at it, and before Receive has come back.
type endsWithin struct {
	context.Context
	asked int
}

func (c *endsWithin) Err() error {
	if c.asked++; c.asked == 1 {
		return nil
	}
	return context.Canceled
}

// A gap is told by Messages also if its context ends while it is found: nobody tells it again.
func TestMessagesTellTheLastGap(t *testing.T) {
	d := testregion.Start(t, topicRegion("overflow = \"drop-oldest\""))
	r := d.Attach(shm.Options{Produce: []string{"news"}, Consume: []string{"news"}})
	c := topic(t, r)
	s := subscribe(t, c, shm.FromNew)
	for i := range uint64(c.Slots()) + 5 {
		if err := c.TryPublish(num(i)); err != nil {
			t.Fatal(err)
		}
	}
	told := uint64(0)
	for _, err := range s.Messages(&endsWithin{Context: t.Context()}) {
		var gap *shm.LostError
		if !errors.As(err, &gap) {
			t.Fatalf("%v where a gap was", err)
		}
		told += gap.Count
	}
	if told == 0 || told != s.Lost() {
		t.Errorf("%d messages were lost, and %d were told", s.Lost(), told)
	}
}

// The death of a process ends its cursors and loans, and wakes who waited for them.
func TestTopicDeath(t *testing.T) {
	for _, keys := range []string{"", "publishers = 1", "overflow = \"drop-oldest\""} {
		d := testregion.Start(t, topicRegion(keys))
		r := d.Attach(shm.Options{Consume: []string{"news"}})
		s := subscribe(t, topic(t, r), shm.FromNew)
		p := startTopic(t, d, "loaner")
		p.says()
		if keys == "publishers = 1" {
			if _, err := shm.Attach(within(t), shm.Options{Region: d.Name, Socket: d.Socket, Produce: []string{"news"}}); err == nil || !strings.Contains(err.Error(), "publishers = 1") {
				t.Fatalf("a second publisher: %v", err)
			}
			if err := topic(t, r).TryPublish(nil); !errors.Is(err, shm.ErrNotPublisher) {
				t.Fatalf("publish by who was not admitted: %v", err)
			}
		}
		p.Process.Kill()
		d.WaitLog("outsider gone", fmt.Sprintf("\"pid\":%d", p.Process.Pid))
		q := d.Attach(shm.Options{Produce: []string{"news"}})
		c := topic(t, q)
		done := make(chan error)
		go func() {
			for i := range uint64(100) {
				if err := c.Publish(within(t), num(i)); err != nil {
					done <- err
				}
			}
			close(done)
		}()
		for i := uint64(0); i < 100; {
			b, err := s.ReceiveCopy(within(t), nil)
			var gap *shm.LostError
			switch {
			case errors.As(err, &gap) && strings.Contains(keys, "drop"):
				i += gap.Count
				if i > 0 && gap.Count > 100 {
					t.Fatal(err)
				}
			case err != nil:
				t.Fatal(err)
			default:
				i = binary.LittleEndian.Uint64(b) + 1
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st, _ := c.Stat(); len(st.Subscribers) != 1 || st.Writing != 0 {
			t.Errorf("%+v", st)
		}
	}
}

func TestTopicInPlace(t *testing.T) {
	d := testregion.Start(t, topicRegion("publishers = 1"))
	r := d.Attach(shm.Options{Produce: []string{"news"}, Consume: []string{"news"}})
	c := topic(t, r)
	s := subscribe(t, c, shm.FromNew)
	ctx := within(t)
	l, err := c.Loan(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.TryPublish(num(9)); !errors.Is(err, shm.ErrFull) {
		t.Fatalf("publish beside the one publisher's loan: %v", err)
	}
	other := make(chan error)
	go func() { other <- c.Publish(ctx, num(2)) }()
	if err := l.Commit(copy(l.Bytes(), num(1))); err != nil {
		t.Fatal(err)
	}
	if err := <-other; err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publisher(); !errors.Is(err, shm.ErrNotPublisher) {
		t.Fatalf("a second publishing end: %v", err)
	}
	for want := uint64(1); want < 3; want++ {
		m, err := s.Receive(ctx)
		if err != nil || binary.LittleEndian.Uint64(m.Bytes()) != want {
			t.Fatal(m, err)
		}
		if _, err := s.TryReceive(); !errors.Is(err, shm.ErrBusy) {
			t.Fatalf("two messages at a time: %v", err)
		}
		if err := m.Done(); err != nil {
			t.Fatal(err)
		}
		if err := m.Done(); !errors.Is(err, shm.ErrLost) {
			t.Fatal(err)
		}
	}
	if n, err := c.PublishBatch(ctx, [][]byte{num(3), num(4), num(5)}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	var got []uint64
	for m, err := range s.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, binary.LittleEndian.Uint64(m.Bytes())); len(got) == 3 {
			break
		}
	}
	if !slices.Equal(got, []uint64{3, 4, 5}) {
		t.Fatal(got)
	}
	if _, err := s.TryReceive(); !errors.Is(err, shm.ErrEmpty) {
		t.Fatal(err)
	}
	if err := c.Publish(ctx, make([]byte, 65)); err == nil {
		t.Fatal("a message that is too large")
	}
	if cs := r.Channels(); !slices.Equal(cs, []string{"news"}) || r.Kind("news") != protocol.KindTopic {
		t.Error(cs)
	}
}

// TryReceiveBatch takes what is there, up to max, and waits for nothing.
func TestTopicTryReceiveBatch(t *testing.T) {
	d := testregion.Start(t, topicRegion(""))
	r := d.Attach(shm.Options{Produce: []string{"news"}, Consume: []string{"news"}})
	c := topic(t, r)
	s := subscribe(t, c, shm.FromNew)
	var got []string
	take := func(p []byte) error { got = append(got, string(p)); return nil }
	if n, err := s.TryReceiveBatch(4, take); n != 0 || !errors.Is(err, shm.ErrEmpty) {
		t.Error(n, err)
	}
	if _, err := c.PublishBatch(within(t), [][]byte{[]byte("a"), []byte("b"), []byte("c")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{2, 1} {
		if n, err := s.TryReceiveBatch(2, take); n != want || err != nil {
			t.Error(n, err)
		}
	}
	if n, err := s.TryReceiveBatch(2, take); n != 0 || !errors.Is(err, shm.ErrEmpty) || strings.Join(got, "") != "abc" {
		t.Error(n, err, got)
	}
}

// A process has one Topic of a channel: what one goroutine asked for is the same publisher as what another did.
func TestTopicTwice(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.news]\nkind = \"topic\"\npublishers = 1\n[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"news"}})
	for range 2 {
		topic, err := r.Topic("news")
		if err != nil {
			t.Fatal(err)
		}
		if err := topic.TryPublish([]byte("a")); err != nil {
			t.Fatal(err)
		}
	}
}
