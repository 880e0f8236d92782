package sys

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
)

// mapFile maps a real file of some pages, which anybody may cut short.
func mapFile(t *testing.T, pages int) (*os.File, []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(pages * PageSize())); err != nil {
		t.Fatal(err)
	}
	return f, tempMap(t, f, pages, true)
}

func TestGuardFaultTruncatedFile(t *testing.T) {
	const pages = 4
	page := PageSize()
	for _, c := range []struct {
		name string
		want int64
		fn   func(b []byte) error
	}{
		{"load", int64(2*page + 123), func(b []byte) error { sink = b[2*page+123]; return nil }},
		{"store", int64(3 * page), func(b []byte) error { b[3*page] = 1; return nil }},
		{"atomic", int64(2*page + 8), func(b []byte) error { Word(b, 2*page+8).Add(1); return nil }},
		{"copy out", int64(page), func(b []byte) error { copy(make([]byte, len(b)), b); return nil }},
		{"copy in", int64(page), func(b []byte) error { copy(b, make([]byte, len(b))); return nil }},
		{"string", int64(page), func(b []byte) error { sinkString = string(b); return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, b := mapFile(t, pages)
			if err := GuardFault(b, func() error { return c.fn(b) }); err != nil {
				t.Fatalf("whole file: %v", err)
			}
			if err := f.Truncate(int64(page)); err != nil {
				t.Fatal(err)
			}
			for range 100 {
				err := GuardFault(b, func() error { return c.fn(b) })
				var fault *FaultError
				if !errors.As(err, &fault) {
					t.Fatalf("cut file: %v, want a *FaultError", err)
				}
				// copy may touch the ends of what it copies in any order.
				if fault.Size != len(b) || fault.Offset < c.want || fault.Offset >= int64(len(b)) {
					t.Fatalf("fault at %d of %d, want from %d on", fault.Offset, fault.Size, c.want)
				}
				if c.name == "load" && fault.Offset != c.want {
					t.Fatalf("fault at %d, want %d", fault.Offset, c.want)
				}
			}
		})
	}
}

var (
	sink       byte
	sinkString string
)

func TestGuardFaultPassesOn(t *testing.T) {
	_, b := mapFile(t, 1)
	boom := errors.New("boom")
	if err := GuardFault(b, func() error { return boom }); err != boom {
		t.Errorf("error: %v", err)
	}
	if r := panics(func() { GuardFault(b, func() error { panic(boom) }) }); r != boom {
		t.Errorf("panic: %v, want boom", r)
	}
	r := panics(func() { GuardFault(b, func() error { var s []int; _ = s[len(b)]; return nil }) })
	if _, ok := r.(runtime.Error); !ok {
		t.Errorf("index out of range: %v", r)
	}
	var nothing *int
	r = panics(func() { GuardFault(b, func() error { *nothing = 1; return nil }) })
	if _, ok := r.(runtime.Error); !ok {
		t.Errorf("nil pointer: %v", r)
	}
}

// A fault in one mapping passes through the guard of another, to its own.
func TestGuardFaultNested(t *testing.T) {
	f1, b1 := mapFile(t, 1)
	_, b2 := mapFile(t, 1)
	f1.Truncate(0)
	var inner error = errors.New("not set")
	err := GuardFault(b1, func() error {
		inner = GuardFault(b2, func() error { sink = b1[77]; return nil })
		return nil
	})
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Offset != 77 {
		t.Errorf("outer: %v, want a fault at 77", err)
	}
	if inner == nil || inner.Error() != "not set" {
		t.Errorf("the inner guard returned (%v)", inner)
	}
}

func TestGuardFaultRestoresTheSetting(t *testing.T) {
	f, b := mapFile(t, 1)
	f.Truncate(0)
	for _, old := range []bool{false, true} {
		before := debug.SetPanicOnFault(old)
		GuardFault(b, func() error { sink = b[0]; return nil })
		panics(func() { GuardFault(b, func() error { panic("x") }) })
		if got := debug.SetPanicOnFault(before); got != old {
			t.Errorf("setting is %v after GuardFault, was %v", got, old)
		}
	}
	// runtime.Goexit, as t.FailNow uses it, goes through.
	done := make(chan bool)
	go func() {
		defer close(done)
		GuardFault(b, func() error { runtime.Goexit(); return nil })
		t.Error("went on after Goexit")
	}()
	receive(t, done)
}

func panics(fn func()) (r any) {
	defer func() { r = recover() }()
	fn()
	return nil
}

func BenchmarkGuardFault(b *testing.B) {
	m := make([]byte, 64)
	for b.Loop() {
		GuardFault(m, func() error { sink = m[0]; return nil })
	}
}
