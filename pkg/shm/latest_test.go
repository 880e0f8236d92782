package shm_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

const latestRegion = "[region]\nname = \"test\"\n[channel.price]\nkind = \"latest\"\nslot_size = \"1KiB\"\n[channel.jobs]\n"

func init() {
	roles["setter"] = func() error { // puts its values, some by compare-and-set, and is ready when done
		ctx := context.Background()
		r, err := shm.Attach(ctx, shm.Options{})
		if err != nil {
			return err
		}
		defer r.Close()
		l, err := r.Latest("price")
		if err != nil {
			return err
		}
		for n := range setterValues {
			if n%10 == 9 { // count up what is there
				for {
					b, v, err := l.Get(nil)
					if errors.Is(err, shm.ErrOvertaken) {
						continue
					}
					if err != nil {
						return err
					}
					_, err = l.CompareAndSet(v, b)
					if _, stale := errors.AsType[*shm.VersionError](err); stale {
						continue
					}
					if err != nil {
						return err
					}
					break
				}
				continue
			}
			if _, err := l.Put(value(r.Worker(), n)); err != nil {
				return err
			}
		}
		r.Ready()
		<-r.Quit().Done()
		return nil
	}
}

const setterValues = 2000

// value is 8 to 1,024 bytes of which each says the same.
func value(who string, n int) []byte {
	b := make([]byte, 8+8*(n%128))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(n)<<8|uint64(who[len(who)-1]))
	}
	return b
}

// whole checks a value that value made.
func whole(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("a value of %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if want := value(string(rune(n&0xff)), int(n>>8)); string(want) != string(b) {
		return fmt.Errorf("torn: %x", b)
	}
	return nil
}

func latest(t testing.TB, r *shm.Region, name string) *shm.Latest {
	t.Helper()
	l, err := r.Latest(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLatestBetweenProcesses(t *testing.T) {
	const setters = 3
	d := testregion.Launch(t, latestRegion+"[worker.setter]\ncount = "+strconv.Itoa(setters)+"\nproduce = [\"price\"]\n"+worker("setter", ""))
	r := d.Attach(shm.Options{Produce: []string{"price"}, Consume: []string{"price"}})
	l := latest(t, r, "price")
	ctx := within(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { // each version at most once, in order, whole
			var last uint64
			for v, err := range l.Values(ctx) {
				if errors.Is(err, shm.ErrOvertaken) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if err := whole(v.Bytes); err != nil || v.Version <= last {
					t.Errorf("version %d after %d: %v", v.Version, last, err)
					return
				}
				if last = v.Version; last == setters*setterValues {
					return
				}
			}
			t.Errorf("the values ended at version %d: %v", last, ctx.Err())
		})
	}
	wg.Go(func() {
		for range 20_000 {
			var err error
			v, e := l.View(func(p []byte) error {
				err = whole(p)
				return nil
			})
			if e != nil && !errors.Is(e, shm.ErrEmpty) && !errors.Is(e, shm.ErrOvertaken) || e == nil && err != nil {
				t.Errorf("version %d: %v, %v", v, e, err)
				return
			}
		}
	})
	wg.Wait()
	d.WaitReady()
	if v, err := l.Version(); v != setters*setterValues || err != nil {
		t.Errorf("version %d, %v after %d puts", v, err, setters*setterValues)
	}
	if s, err := l.Stat(); s.Held != 0 || s.Slots != 8 || err != nil {
		t.Errorf("at rest: %+v, %v", s, err)
	}
}

func TestLatestErrors(t *testing.T) {
	d := testregion.Start(t, latestRegion+"[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"price", "jobs"}})
	l := latest(t, r, "price")
	if _, err := r.Latest("jobs"); !isKind(err, protocol.KindQueue, protocol.KindLatest) {
		t.Errorf("a queue as a latest value: %v", err)
	}
	if _, err := r.Queue("price"); !isKind(err, protocol.KindLatest, protocol.KindQueue) {
		t.Errorf("a latest value as a queue: %v", err)
	}
	if _, err := r.Latest("prize"); !errors.Is(err, shm.ErrNoChannel) {
		t.Errorf("no channel: %v", err)
	}
	if b, v, err := l.Get([]byte("x")); string(b) != "x" || v != 0 || !errors.Is(err, shm.ErrEmpty) {
		t.Errorf("before the first value: %q, %d, %v", b, v, err)
	}
	if _, err := l.Put(make([]byte, 1025)); !isTooLarge(err) {
		t.Errorf("too large: %v", err)
	}
	if v, err := l.CompareAndSet(0, nil); v != 1 || err != nil {
		t.Errorf("the first value: %d, %v", v, err)
	}
	_, err := l.CompareAndSet(0, nil)
	if e, ok := errors.AsType[*shm.VersionError](err); !ok || *e != (shm.VersionError{Channel: "price", Have: 1, Want: 0}) {
		t.Errorf("stale: %v", err)
	}
	if v, err := l.Wait(context.Background(), 0); v != 1 || err != nil {
		t.Errorf("wait for the first: %d, %v", v, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with an ended context: %v", err)
	}
	ended := make(chan error)
	go func() {
		_, err := l.Wait(context.Background(), 1)
		ended <- err
	}()
	r.Close()
	if err := <-ended; !errors.Is(err, shm.ErrClosed) {
		t.Errorf("wait while the region is closed: %v", err)
	}
	if _, _, err := l.Get(nil); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("get from a closed region: %v", err)
	}
}

// A reading end reads what Get reads, keeps the region open until its Close, and is dead after that.
func TestLatestReader(t *testing.T) {
	d := testregion.Start(t, "[region]\nname = \"test\"\n[channel.price]\nkind = \"latest\"\nslot_size = 1024\n[worker.idle]\nbuiltin = \"idle\"\n")
	r := d.Attach(shm.Options{Produce: []string{"price"}, Consume: []string{"price"}})
	l := latest(t, r, "price")
	in, err := l.Reader()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := in.Get(nil); !errors.Is(err, shm.ErrEmpty) {
		t.Errorf("before the first value: %v", err)
	}
	for _, want := range []string{"", "one", strings.Repeat("long", 256)} {
		v, err := l.Put([]byte(want))
		if err != nil {
			t.Fatal(err)
		}
		if b, version, err := in.Get([]byte("x")); string(b) != "x"+want || version != v || err != nil {
			t.Errorf("Get: %q, %d, %v; want x%s, %d", b, version, err, want, v)
		}
		seen := ""
		if version, err := in.View(func(p []byte) error { seen = string(p); return nil }); seen != want || version != v || err != nil {
			t.Errorf("View: %q, %d, %v; want %s, %d", seen, version, err, want, v)
		}
		if version, err := in.Version(); version != v || err != nil {
			t.Errorf("Version: %d, %v; want %d", version, err, v)
		}
	}
	closed := make(chan struct{})
	go func() { r.Close(); close(closed) }()
	for { // until the region refuses
		if _, err := l.Version(); err != nil {
			break
		}
		runtime.Gosched()
	}
	if _, _, err := in.Get(nil); err != nil {
		t.Errorf("Get while the region waits for the reader: %v", err)
	}
	if err := errors.Join(in.Close(), in.Close()); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-closed
	if _, _, err := in.Get(nil); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	if _, err := in.View(func([]byte) error { return nil }); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if _, err := in.Version(); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Version after Close: %v", err)
	}
	if _, err := l.Reader(); !errors.Is(err, shm.ErrClosed) {
		t.Errorf("Reader of a closed region: %v", err)
	}
}

func isKind(err error, have, want protocol.Kind) bool {
	e, ok := errors.AsType[*protocol.KindError](err)
	return ok && e.Have == have && e.Want == want
}

func isTooLarge(err error) bool {
	e, ok := errors.AsType[*shm.TooLargeError](err)
	return ok && e.Channel == "price" && e.Limit == 1024
}
