package dump

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe that nobody writes into has an end, that of its context and one of its own.
func TestSilentPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := Open(ctx, path); !errors.Is(err, gone) {
		t.Error(err)
	}
	defer func(was time.Duration) { pipePatience = was }(pipePatience)
	pipePatience = 20 * time.Millisecond
	if _, err := Open(t.Context(), path); !errors.Is(err, ErrNotADump) || !strings.Contains(err.Error(), "nobody has written into this pipe within 20ms") {
		t.Error(err)
	}
}
