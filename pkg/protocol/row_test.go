package protocol

import (
	"errors"
	"sync/atomic"
	"testing"
)

// TestRowOfAWriterThatLostItsProcessor: a row in the middle of a change is waited for while its writer lives, however long the writer does not run.
func TestRowOfAWriterThatLostItsProcessor(t *testing.T) {
	var seq atomic.Uint32
	var field atomic.Uint64
	seq.Store(7)
	looks := 0
	lives := func() bool {
		if looks++; looks == 20 {
			field.Store(1)
			seq.Store(8)
		}
		return true
	}
	var got uint64
	if err := readRow(&seq, lives, func() { got = field.Load() }); err != nil || got != 1 || looks != 20 {
		t.Errorf("%d, %v, after %d looks at the writer", got, err, looks)
	}
	seq.Store(9)
	if err := readRow(&seq, func() bool { return false }, func() {}); !errors.Is(err, errTorn) {
		t.Errorf("a row whose writer died: %v", err)
	}
}
