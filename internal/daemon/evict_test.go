package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/protocol"
	"github.com/shmd/shmd/pkg/shm"
)

const evicting = named + "[channel.news]\nkind = \"topic\"\nslots = 16\nslot_size = \"64B\"\nevict_after = \"20ms\"\n"

// An eviction is an event, as shmctl events prints it.
type evictEvent struct {
	Number      uint64
	Time        time.Time
	Subject     string
	Cause       string
	Subscribers int
	Row         int
	Name        string
	Pid         int
}

func evictEvents(t *testing.T, d *testregion.Region) (all []evictEvent) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(shmctl(t, d, "events", "-n", "all", "-o", "json", "evict")), "\n") {
		if line == "" {
			continue
		}
		var e evictEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Subject != "news" {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// evictions waits until there are events of so many evictions, and returns them in words.
func evictions(t *testing.T, d *testregion.Region, n int) (all []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d evictions are events", n), func() bool {
		all = nil
		told := 0
		for _, e := range evictEvents(t, d) {
			told += e.Subscribers
			all = append(all, fmt.Sprintf("%s %s %d", e.Cause, e.Name, e.Pid))
		}
		if told > n {
			t.Fatalf("events of %d evictions, of %d: %v", told, n, all)
		}
		return told == n
	})
	return all
}

// viewer attaches a subscriber.
func viewer(t *testing.T, d *testregion.Region, name string) (*shm.Region, *shm.Topic, *shm.Subscription) {
	t.Helper()
	r := d.Attach(shm.Options{Consume: []string{"news"}, Produce: []string{"news"}, Name: name})
	news, err := r.Topic("news")
	if err != nil {
		t.Fatal(err)
	}
	return r, news, subscribed(t, news)
}

func subscribed(t *testing.T, news *shm.Topic) *shm.Subscription {
	t.Helper()
	s, err := news.Subscribe(shm.SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // before the region, which waits for it
	return s
}

// evictAll evicts whoever is there, by hand.
func evictAll(t *testing.T, news *shm.Topic) {
	t.Helper()
	st, err := news.Stat()
	if err != nil || len(st.Subscribers) == 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	for _, c := range st.Subscribers {
		if err := news.Evict(c.Row); err != nil && c.Phase == protocol.CursorPhaseOpen {
			t.Fatal(err)
		}
	}
}

// tooSlow publishes until those who do not read are evicted.
func tooSlow(t *testing.T, news *shm.Topic) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testregion.Limit)
	defer cancel()
	for range 2*news.Slots() + 1 {
		if err := news.Publish(ctx, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// An eviction, which the evictor does alone, is an event at once, for the daemon is woken, and says whose it was and why.
func TestEvictionIsAnEventAtOnce(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, evicting+idle("w"))
	_, news, s := viewer(t, d, "viewer")
	var want []string
	for n := 1; n <= 4; n++ {
		before := time.Now()
		if n%2 == 1 {
			evictAll(t, news)
			want = append(want, fmt.Sprintf("operator viewer %d", os.Getpid()))
		} else {
			tooSlow(t, news)
			want = append(want, fmt.Sprintf("too-slow viewer %d", os.Getpid()))
		}
		if got := evictions(t, d, n); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		if took := evictEvents(t, d)[n-1].Time.Sub(before); took > 2*time.Second { // it was up to 10 s
			t.Errorf("the event came %v after the eviction", took)
		}
		s.Close()
		s = subscribed(t, news)
	}
}

// While the daemon is stopped, or dead, several are evicted, by each cause, of one row and of several, and some of them have gone when it looks, or the next one does.
func TestEvictionsWhileNobodyLooks(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			t.Parallel()
			d := testregion.Start(t, evicting+idle("w"))
			d.WaitReady()
			_, news, a := viewer(t, d, "a")
			b := exec.Command(filepath.Join(testregion.Binaries(t), "shmctl"), "-r", d.Name, "-s", d.Socket, "sub", "news")
			b.Env = append(os.Environ(), "RUNTIME_DIRECTORY="+d.Dir)
			if err := b.Start(); err != nil {
				t.Fatal(err)
			}
			rc, _, c := viewer(t, d, "c")
			eventually(t, "three are there", func() bool { st, err := news.Stat(); return err == nil && len(st.Subscribers) == 3 })
			if killed {
				d.Kill()
			} else {
				d.Cmd.Process.Signal(syscall.SIGSTOP)
			}
			evictAll(t, news)
			a.Close()
			b.Wait() // it finds out, and ends
			a = subscribed(t, news)
			tooSlow(t, news)
			a.Close()
			a = subscribed(t, news)
			evictAll(t, news) // c is there still, and was evicted
			if _, err := c.TryReceive(); !errors.Is(err, shm.ErrEvicted) {
				t.Error(err)
			}
			c.Close()
			rc.Close()
			if killed {
				d.Again()
			} else {
				d.Cmd.Process.Signal(syscall.SIGCONT)
			}
			got := evictions(t, d, 5)
			slices.Sort(got)
			var want []string
			for _, w := range []string{"operator a", "operator a", "operator c", "too-slow a"} {
				want = append(want, fmt.Sprint(w, " ", os.Getpid()))
			}
			want = append(want, fmt.Sprint("operator shmctl sub ", b.Process.Pid))
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// Daemons die and take over while subscribers are evicted without a pause: in the end there is an event of each eviction, and none twice.
func TestEvictionsWhileDaemonsDie(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, strings.Replace(evicting, "[region]\n", "[region]\nevents_size = \"1MiB\"\n", 1)+idle("w"))
	d.WaitReady()
	_, news, s := viewer(t, d, "viewer")
	stop, done := make(chan struct{}), make(chan struct{})
	operator := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
			if st, err := news.Stat(); err != nil || news.Evict(st.Subscribers[0].Row) != nil {
				t.Error("not evicted", err)
				return
			}
			operator++
			s.Close()
			var err error
			if s, err = news.Subscribe(shm.SubscribeOptions{}); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 8 {
		before := len(evictEvents(t, d))
		eventually(t, "more events", func() bool { return len(evictEvents(t, d)) > before })
		d.Kill()
		d.Again()
	}
	close(stop)
	<-done
	s.Close()
	evictions(t, d, operator)
	number, named := uint64(0), 0
	for _, line := range strings.Split(strings.TrimSpace(shmctl(t, d, "events", "-n", "all", "-o", "json")), "\n") {
		var e evictEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Number != number+1 {
			t.Fatalf("%s comes after event %d, %v", line, number, err)
		}
		if number = e.Number; e.Name == "viewer" {
			named += e.Subscribers
		}
	}
	t.Logf("%d evictions, %d of them with who it was", operator, named)
}
