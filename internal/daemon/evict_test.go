package daemon_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/shmd/shmd/internal/testregion"
	"github.com/shmd/shmd/pkg/shm"
)

// An eviction, which the evictor does alone, is an event at once: the daemon is woken.
func TestEvictionIsAnEventAtOnce(t *testing.T) {
	t.Parallel()
	d := testregion.Start(t, named+"[channel.news]\nkind = \"topic\"\nslots = 16\nslot_size = \"64B\"\n"+idle("w"))
	r := d.Attach(shm.Options{Consume: []string{"news"}, Name: "viewer"})
	news, err := r.Topic("news")
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		s, err := news.Subscribe(shm.SubscribeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := news.Stat()
		if err != nil || len(st.Subscribers) != 1 {
			t.Fatalf("%+v, %v", st, err)
		}
		before := time.Now()
		if err := news.Evict(st.Subscribers[0].Row); err != nil {
			t.Fatal(err)
		}
		var lines []string
		eventually(t, "the eviction is an event", func() bool {
			lines = strings.Split(strings.TrimSpace(shmctl(t, d, "events", "-n", "all", "-o", "json", "evict")), "\n")
			return len(lines) == n && lines[0] != ""
		})
		var e struct {
			Time        time.Time
			Subject     string
			Subscribers int
		}
		if err := json.Unmarshal([]byte(lines[n-1]), &e); err != nil || e.Subject != "news" || e.Subscribers != 1 {
			t.Fatalf("%s: %+v, %v", lines[n-1], e, err)
		}
		if took := e.Time.Sub(before); took > 2*time.Second { // it was up to 10 s
			t.Errorf("the event came %v after the eviction", took)
		}
		s.Close()
	}
}
