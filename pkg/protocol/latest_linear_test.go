package protocol

import (
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// registerInput is an operation on a latest value; for_ is the version of a compare-and-set.
type registerInput struct {
	op   string // put, set, get
	v    uint64
	for_ uint64
}

// registerOutput is the version that an operation made or found, with the value of a get, and whether a compare-and-set came too late.
type registerOutput struct {
	version, v uint64
	stale      bool
}

// register is what all writers and readers see together: a value with a number that goes up by one with each new value.
var register = porcupine.Model{
	Init: func() any { return registerOutput{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(registerOutput), input.(registerInput), output.(registerOutput)
		next := registerOutput{version: s.version + 1, v: in.v}
		switch in.op {
		case "get":
			return out == s, s
		case "set":
			if out.stale {
				return s.version != in.for_ && out.version == s.version, s
			}
			return s.version == in.for_ && out.version == next.version, next
		}
		return out.version == next.version, next
	},
}

// recordLatest runs writers and readers on a latest value and returns what they saw.
func recordLatest(t *testing.T, l *Latest, writers, readers, each, size int) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	note := func(client int, in registerInput, call time.Time, out registerOutput) {
		end := time.Now()
		mu.Lock()
		defer mu.Unlock()
		history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: call.Sub(begin).Nanoseconds(), Output: out, Return: end.Sub(begin).Nanoseconds()})
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := make([]byte, size)
			for i := range each {
				v := uint64(1 + w*each + i)
				fillValue(p, v)
				if i%3 == 2 {
					for_ := l.Version()
					runtime.Gosched()
					call := time.Now()
					now, err := l.CompareAndSet(uint16(2+w), for_, p)
					if err != nil && !errors.Is(err, ErrStale) {
						t.Error(err)
						return
					}
					note(w, registerInput{"set", v, for_}, call, registerOutput{version: now, stale: err != nil})
					continue
				}
				call := time.Now()
				now, err := l.Put(uint16(2+w), p)
				if err != nil {
					t.Error(err)
					return
				}
				note(w, registerInput{op: "put", v: v}, call, registerOutput{version: now})
			}
		})
	}
	for r := range readers {
		wg.Go(func() {
			var b []byte
			for range each {
				call := time.Now()
				var out registerOutput
				var err error
				b, out.version, err = l.Get(b[:0])
				switch {
				case errors.Is(err, ErrOvertaken):
					continue
				case err == nil:
					var ok bool
					if out.v, ok = valueOf(b); !ok || len(b) != size {
						out.v = 1 << 63 // torn: nobody put that
					}
				case !errors.Is(err, ErrEmpty):
					t.Error(err)
					return
				}
				note(writers+r, registerInput{op: "get"}, call, out)
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	return history
}

func TestLatestIsLinearizable(t *testing.T) {
	for round := range 60 {
		size := []int{8, 64, 8192}[round%3]
		writers := 1 + round%3
		l := newLatest(t, LatestOptions{Slots: 4, SlotSize: size})
		history := recordLatest(t, l, writers, 2, 40, size)
		switch porcupine.CheckOperationsTimeout(register, history, 20*time.Second) {
		case porcupine.Illegal:
			t.Fatalf("round %d, %d writers: no order of these %d operations explains what was seen:\n%s", round, writers, len(history), describe(history))
		case porcupine.Unknown:
			t.Logf("round %d: %d operations were too many to check", round, len(history))
		}
	}
}

// A value that fillValue wrote must come back from valueOf, or the checks above see nothing.
func TestFillValue(t *testing.T) {
	p := make([]byte, 64)
	for n := range uint64(100) {
		fillValue(p, n)
		if got, ok := valueOf(p); got != n || !ok {
			t.Fatalf("%d became %d, %v", n, got, ok)
		}
		binary.LittleEndian.PutUint64(p[56:], 1)
		if _, ok := valueOf(p); ok {
			t.Fatal("a torn value is not seen")
		}
	}
}
