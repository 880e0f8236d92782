package shm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

func init() {
	roles["server"] = serve
	roles["calling"] = calling
	roles["serving"] = serving
}

// callRegion is a region with two call channels and, if n > 0, n servers of the first.
func callRegion(n int) string {
	s := "[region]\nname = \"test\"\n[channel.service]\nkind = \"call\"\nslots = 8\nslot_size = \"1KiB\"\nmax_deliveries = 2\n" +
		"[channel.strict]\nkind = \"call\"\nslots = 2\nslot_size = 64\non_server_death = \"fail\"\n"
	if n > 0 {
		exe, err := os.Executable()
		if err != nil {
			panic(err)
		}
		s += fmt.Sprintf("[worker.server]\ncount = %d\ncommand = [%q]\nenv = { SHM_TEST_ROLE = \"server\" }\nconsume = [\"service\"]\n", n, exe)
	}
	return s
}

// serve answers with what it got, or does what that says.
func serve() error {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		return err
	}
	defer r.Close()
	c, err := r.Call("service")
	if err != nil {
		return err
	}
	r.Ready()
	err = c.Serve(ctx, func(req []byte, reply *shm.Answer) error {
		switch string(req) {
		case "fail":
			return &shm.CallError{Code: 42, Text: "as you wish"}
		case "error":
			return errors.New("an error without a code")
		case "large":
			_, err := reply.Write(make([]byte, c.SlotSize()+1))
			return err
		case "whole":
			return reply.SetLen(c.SlotSize())
		case "die":
			os.Exit(1)
		case "deliveries":
			fmt.Fprint(reply, reply.Deliveries())
			return nil
		}
		_, err := reply.Write(req)
		return err
	})
	if errors.Is(err, shm.ErrQuit) {
		return nil
	}
	return err
}

// calling sends a request that nobody serves, says so, and waits to be killed.
func calling() error {
	ctx := context.Background()
	c, err := otherCall(ctx, shm.Options{Produce: []string{"strict"}})
	if err != nil {
		return err
	}
	q, err := c.Request(ctx)
	if err != nil {
		return err
	}
	reply, err := q.Send(copy(q.Bytes(), "of a caller that dies"))
	if err != nil {
		return err
	}
	fmt.Println("called")
	_, err = reply.Wait(ctx)
	return err
}

// serving takes a request, says so, and waits to be killed.
func serving() error {
	ctx := context.Background()
	c, err := otherCall(ctx, shm.Options{Consume: []string{"strict"}})
	if err != nil {
		return err
	}
	if _, err := c.Accept(ctx); err != nil {
		return err
	}
	fmt.Println("accepted")
	select {}
}

func otherCall(ctx context.Context, o shm.Options) (*shm.Call, error) {
	o.Socket = os.Getenv("SHM_TEST_SOCKET")
	r, err := shm.Attach(ctx, o)
	if err != nil {
		return nil, err
	}
	return r.Call("strict")
}

func callOf(t testing.TB, r *shm.Region, name string) *shm.Call {
	t.Helper()
	c, err := r.Call(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// process is a role in a process of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout io.Reader
}

// outsider starts a role that attaches as an outsider.
func outsider(t *testing.T, d *testregion.Region, role string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "SHM_TEST_ROLE="+role, "SHM_TEST_SOCKET="+d.Socket)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &process{t, cmd, stdout}
}

// said waits until the process says how far it is.
func (p *process) said() {
	p.t.Helper()
	if _, err := io.ReadFull(p.stdout, make([]byte, 1)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func TestCall(t *testing.T) {
	d := testregion.Start(t, callRegion(2))
	r := d.Attach(shm.Options{Produce: []string{"service"}})
	c := callOf(t, r, "service")
	if again := callOf(t, r, "service"); again != c {
		t.Error("two handles of one channel")
	}
	if _, err := r.Queue("service"); !errors.As(err, new(*protocol.KindError)) {
		t.Errorf("Queue of a call channel: %v", err)
	}
	ctx := within(t)
	buf := []byte("before ")
	for _, n := range []int{0, 1, 16, 17, 32, 33, 64, 1000, 1024} {
		req := bytes.Repeat([]byte{byte('a' + n%26)}, n)
		got, err := c.Do(ctx, req, buf)
		if err != nil || string(got) != "before "+string(req) {
			t.Fatalf("%d bytes: %q, %v", n, got, err)
		}
	}
	var large *shm.TooLargeError
	if _, err := c.Do(ctx, make([]byte, 1025), nil); !errors.As(err, &large) || large.Limit != 1024 {
		t.Errorf("a request that is too large: %v", err)
	}
	for req, want := range map[string]shm.CallError{
		"fail":  {Code: 42, Text: "as you wish"},
		"error": {Code: 1, Text: "an error without a code"},
		"large": {Code: 1, Text: (&shm.TooLargeError{Channel: "service", Size: 1025, Limit: 1024}).Error()},
	} {
		var e *shm.CallError
		if _, err := c.Do(ctx, []byte(req), nil); !errors.As(err, &e) || *e != want {
			t.Errorf("%s: got %v, want %v", req, err, &want)
		}
	}
	if p, err := c.Do(ctx, []byte("whole"), nil); err != nil || len(p) != 1024 {
		t.Errorf("a whole slot: %d bytes, %v", len(p), err)
	}

	// Several under way at once, in place, answered in whichever order.
	var replies []*shm.Reply
	for i := range 8 {
		q, err := c.Request(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if _, err := q.Send(2000); !errors.As(err, &large) {
				t.Errorf("Send of too much: %v", err)
			}
		}
		p, err := q.Send(copy(q.Bytes(), fmt.Sprint("number ", i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Abort(); err != shm.ErrLost {
			t.Errorf("Abort after Send: %v", err)
		}
		replies = append(replies, p)
	}
	for i, p := range replies {
		if got, err := p.Wait(ctx); err != nil || string(got) != fmt.Sprint("number ", i) {
			t.Errorf("reply %d: %q, %v", i, got, err)
		}
		if err := p.Done(); err != nil {
			t.Error(err)
		}
		if _, err := p.Wait(ctx); err != shm.ErrLost {
			t.Errorf("Wait after Done: %v", err)
		}
	}

	// Many goroutines, more than slots.
	var all sync.WaitGroup
	for g := range 32 {
		all.Go(func() {
			var req, buf []byte
			for i := range 50 {
				req = binary.LittleEndian.AppendUint64(req[:0], uint64(g<<32|i))
				var err error
				if buf, err = c.Do(ctx, req, buf[:0]); err != nil || !bytes.Equal(req, buf) {
					t.Errorf("goroutine %d, call %d: %x, %v", g, i, buf, err)
					return
				}
			}
		})
	}
	all.Wait()
	st, err := c.Stat()
	if err != nil || st.Calling+st.Waiting+st.InService+st.Broken != 0 || st.Answered > 1 {
		t.Errorf("at rest: %+v, %v", st, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Do(ctx, nil, nil); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Do after Close: %v", err)
	}
	other := callOf(t, d.Attach(shm.Options{Produce: []string{"service"}}), "service")
	if st, err := other.Stat(); err != nil || st.Free != st.Slots {
		t.Errorf("after Close: %+v, %v", st, err)
	}
}

func TestCallServerDies(t *testing.T) {
	d := testregion.Start(t, callRegion(2)+"restart = \"always\"\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\ncrash_limit = 0\n")
	c := callOf(t, d.Attach(shm.Options{Produce: []string{"service"}}), "service")
	ctx := within(t)
	if _, err := c.Do(ctx, []byte("die"), nil); !errors.Is(err, shm.ErrServerDied) {
		t.Errorf("a request that kills each server: %v", err)
	}
	waitStat(t, c, func(s protocol.CallStat) bool { return s.Retried == 1 && s.Failed == 1 })
	if p, err := c.Do(ctx, []byte("deliveries"), nil); err != nil || string(p) != "0" {
		t.Errorf("the next request: %q, %v", p, err)
	}
}

// A server that is killed with a request, where the configuration says fail; a caller that is killed before and while it is served.
func TestCallDeaths(t *testing.T) {
	d := testregion.Start(t, callRegion(0)+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"strict"}, Consume: []string{"strict"}})
	c := callOf(t, r, "strict")
	ctx := within(t)

	server := outsider(t, d, "serving")
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(ctx, []byte("to a server that dies"), nil)
		done <- err
	}()
	server.said()
	server.kill()
	if err := <-done; !errors.Is(err, shm.ErrServerDied) {
		t.Errorf("server killed: %v", err)
	}

	caller := outsider(t, d, "calling")
	caller.said()
	m, err := c.Accept(ctx)
	if err != nil || string(m.Bytes()) != "of a caller that dies" {
		t.Fatalf("%v, %v", m, err)
	}
	caller.kill()
	waitStat(t, c, func(s protocol.CallStat) bool { return s.Left == 1 })
	if err := m.Answer(copy(m.Room(), "too late")); !errors.Is(err, shm.ErrCallerLeft) {
		t.Errorf("answer to a dead caller: %v", err)
	}
	caller = outsider(t, d, "calling")
	caller.said()
	caller.kill()
	waitStat(t, c, func(s protocol.CallStat) bool { return s.Left == 2 })
	waitStat(t, c, func(s protocol.CallStat) bool { return s.Free+s.Answered == s.Slots })
}

// Cancel at each stage; quit; full.
func TestCallCancel(t *testing.T) {
	d := testregion.Start(t, callRegion(0)+"[worker.idle]\nbuiltin = \"idle\"\n")
	both := []string{"service", "strict"}
	r := d.Attach(shm.Options{Produce: both, Consume: both})
	c := callOf(t, r, "strict")
	ctx := within(t)

	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	if _, err := c.Do(short, []byte("nobody serves"), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Do without a server: %v", err)
	}
	cancel()
	if st, _ := c.Stat(); st.Free != st.Slots || st.Left != 1 {
		t.Errorf("after a timeout: %+v", st)
	}

	while, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := c.Do(while, []byte("is being served"), nil)
		done <- err
	}()
	m, err := c.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while served: %v", err)
	}
	if st, _ := c.Stat(); st.InService != 1 {
		t.Errorf("the server still works: %+v", st)
	}
	if err := m.Fail(7, "x"); !errors.Is(err, shm.ErrCallerLeft) {
		t.Errorf("answer to a caller that left: %v", err)
	}
	if err := m.Fail(7, "x"); !errors.Is(err, shm.ErrLost) {
		t.Errorf("a second answer: %v", err)
	}
	if st, _ := c.Stat(); st.Free != st.Slots {
		t.Errorf("after the last left: %+v", st)
	}

	// Full: a caller waits for a slot, and gets it when one is freed.
	a, err1 := c.Request(ctx)
	b, err2 := c.Request(ctx)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	go func() {
		q, err := c.Request(ctx)
		if err == nil {
			err = q.Abort()
		}
		done <- err
	}()
	waitStat(t, c, func(s protocol.CallStat) bool { return s.Callers == 1 })
	a.Abort()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// A reply may be waited for again after its context ended.
	p, err := b.Send(copy(b.Bytes(), strings.Repeat("é", 32)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(while); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	if m, err = c.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.GiveBack(); err != nil {
		t.Error(err)
	}
	if m, err = c.Accept(ctx); err != nil || m.Deliveries() != 1 {
		t.Fatalf("%v, %v", m, err)
	}
	if err := m.Fail(7, "x"+string(m.Bytes())); err != nil {
		t.Error(err)
	}
	var e *shm.CallError
	if _, err := p.Wait(ctx); !errors.As(err, &e) || e.Code != 7 || e.Text != "x"+strings.Repeat("é", 31) {
		t.Errorf("an error that is cut: %v", err)
	}
	p.Done()

	// A panic is to the request what the server's death is: it fails, or is served again. Close ends Serve and Do.
	panics := func(c *shm.Call) (done chan error) {
		done = make(chan error, 1)
		go func() {
			_, err := c.Do(ctx, []byte("panic"), nil)
			done <- err
		}()
		defer func() {
			if recover() == nil {
				t.Error("Serve swallowed a panic")
			}
		}()
		c.Serve(ctx, func([]byte, *shm.Answer) error { panic("x") })
		return done
	}
	if err := <-panics(c); !errors.Is(err, shm.ErrServerDied) {
		t.Errorf("on_server_death = \"fail\", after a panic: %v", err)
	}
	c = callOf(t, r, "service")
	again := panics(c)
	served := make(chan error, 1)
	go func() {
		served <- c.Serve(ctx, func(req []byte, reply *shm.Answer) error {
			if reply.Deliveries() != 1 {
				return fmt.Errorf("delivered %d times before", reply.Deliveries())
			}
			return nil
		})
	}()
	if err := <-again; err != nil {
		t.Error(err)
	}
	r.Close()
	if err := <-served; !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
}

// waitStat waits until the channel looks so.
func waitStat(t *testing.T, c *shm.Call, ok func(protocol.CallStat) bool) {
	t.Helper()
	for end := time.Now().Add(testregion.Limit); ; {
		st, err := c.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if ok(st) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it stays %+v", st)
		}
		runtime.Gosched()
	}
}
