package sys

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestPeeker(t *testing.T) {
	p, err := NewPeeker()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	b := make([]byte, 1<<20)
	peek := func(want string) {
		t.Helper()
		if n, err := p.Peek(r, b); err != nil || string(b[:n]) != want {
			t.Fatalf("Peek gives %d bytes, %v; want %d", n, err, len(want))
		}
	}
	peek("")
	w.WriteString("one")
	peek("one")
	w.WriteString(" two")
	peek("one two")
	if n, err := p.Peek(r, b[:2]); n != 2 || err != nil {
		t.Fatalf("Peek into 2 bytes: %d, %v", n, err)
	}
	peek("one two") // nothing of the one before is left
	if err := PipeSkip(r, 4, b[:3]); err != nil {
		t.Fatal(err)
	}
	peek("two")
	if waiting, closed, err := PipeState(r); waiting != 3 || closed || err != nil {
		t.Errorf("%d bytes wait, closed: %v, %v", waiting, closed, err)
	}
	w.Close()
	if waiting, closed, err := PipeState(r); waiting != 3 || !closed || err != nil {
		t.Errorf("after the end: %d bytes wait, closed: %v, %v", waiting, closed, err)
	}
	if err := PipeSkip(r, 3, b); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Peek(r, b); n != 0 || err != io.EOF {
		t.Errorf("Peek behind the end: %d, %v", n, err)
	}
	if err := PipeSkip(r, 1, b); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("PipeSkip behind the end: %v", err)
	}
	r.Close()
	if _, err := p.Peek(r, b); !errors.Is(err, ErrClosed) {
		t.Errorf("Peek into a closed file: %v", err)
	}
}

// A pipe of two pages has room for 8192 bytes, and is full with 4097 if they came so.
func TestPipeFull(t *testing.T) {
	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	page := os.Getpagesize()
	if err := SetPipeSize(r, 2*page); err != nil {
		t.Fatal(err)
	}
	full := func(want bool) {
		t.Helper()
		if got, err := PipeFull(r); got != want || err != nil {
			t.Errorf("full: %v, %v", got, err)
		}
	}
	full(false)
	w.WriteString("x")
	full(false)
	w.WriteString(strings.Repeat("y", page))
	full(true)
	if n, err := PipePending(r); n != page+1 || err != nil {
		t.Errorf("%d bytes wait, %v", n, err)
	}
	if err := PipeSkip(r, page+1, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	full(false)
}
