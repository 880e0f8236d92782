package storm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// setSize is the size of the values: large enough that most kills hit a writer in the middle of one.
const setSize = 16 << 10

// setting puts values, each of them one number in every word, by turns and by compare-and-set.
func setting(l *shm.Latest, led *ledger, r *shm.Region) error {
	p := make([]byte, setSize)
	for r.Quit().Err() == nil {
		n := led.next.Add(1)
		for i := 0; i < len(p); i += 8 {
			binary.LittleEndian.PutUint64(p[i:], n*0x9e3779b97f4a7c15+uint64(i))
		}
		var err error
		if n%4 == 0 {
			v, _ := l.Version()
			_, err = l.CompareAndSet(v, p)
		} else {
			_, err = l.Put(p)
		}
		if _, stale := errors.AsType[*shm.VersionError](err); err != nil && !stale {
			return err
		}
	}
	return nil
}

// watching reads values, in both ways, and looks at every word.
func watching(l *shm.Latest, led *ledger, r *shm.Region) error {
	var buf []byte
	var last uint64
	for n := 0; r.Quit().Err() == nil; n++ {
		var v uint64
		var err error
		whole := true
		check := func(p []byte) error {
			whole = len(p) == setSize
			for i := 0; whole && i < len(p); i += 8 {
				whole = binary.LittleEndian.Uint64(p[i:]) == binary.LittleEndian.Uint64(p)+uint64(i)
			}
			return nil
		}
		if n%2 == 0 {
			if buf, v, err = l.Get(buf[:0]); err == nil {
				check(buf)
			}
		} else {
			v, err = l.View(check)
		}
		switch {
		case errors.Is(err, shm.ErrEmpty), errors.Is(err, shm.ErrOvertaken):
			continue
		case err != nil:
			return err
		case !whole:
			led.bad[torn].Add(1)
		case v < last:
			led.bad[afterAck].Add(1)
		}
		last = v
		led.words[0].Add(1)
	}
	return nil
}

// TestLatestStorm kills writers and readers of a latest value: no reader sees a torn value or an older one than before, and no writer is stopped.
func TestLatestStorm(t *testing.T) {
	kills := number(t, "SHMD_KILLS", 2000) / 10
	sc := begin(t, 1, fmt.Sprintf("[channel.value]\nkind = \"latest\"\nslot_size = %d\n", setSize),
		group{"setter", "produce", "value", 3}, group{"watcher", "consume", "value", 2})
	r, l, ctx := sc.r, sc.l, sc.ctx
	took := sc.rampage(kills, 50)
	value, err := r.Latest("value")
	if err != nil {
		t.Fatal(err)
	}
	// Traffic goes on after the last kill: nobody is stopped.
	for v, err := range value.Values(ctx) {
		if err != nil && !errors.Is(err, shm.ErrOvertaken) {
			t.Fatal(err)
		}
		if v.Version > uint64(kills) && l.words[0].Load() > uint32(kills) {
			break
		}
	}
	sc.stop("setter", "watcher")
	s, err := value.Stat()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills in %v (%v), %d versions, %d slots given back by repair or compare-and-set, %d values read; torn %d, older than before %d",
		kills, took.Round(time.Millisecond), sc.killed, s.Version, s.Aborted, l.words[0].Load(), l.bad[torn].Load(), l.bad[afterAck].Load())
	if l.bad[torn].Load() != 0 || l.bad[afterAck].Load() != 0 {
		t.Error("readers saw what they must not")
	}
	if s.Held != 0 {
		t.Errorf("%d slots are held and nobody is there: %+v", s.Held, s)
	}
}
