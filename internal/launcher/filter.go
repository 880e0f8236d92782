package launcher

import (
	"context"
	"os"

	"github.com/shmd/shmd/internal/filter"
	"github.com/shmd/shmd/internal/launcher/spec"
	"github.com/shmd/shmd/pkg/shm"
)

// runFilter attaches and is the shim of a filter until that ends. The calling goroutine is locked to its thread. Errors: the filter
// could not be started.
func runFilter(s spec.Spec, status *os.File) (code int, err error) {
	r, err := shm.Attach(context.Background(), shm.Options{})
	if err != nil {
		return exitFailed, err
	}
	defer r.Close()
	f := s.Filter
	return filter.Run(r, filter.Options{Command: s.Command, Stdin: f.Stdin, Stdout: f.Stdout, Window: f.Window, Written: f.Written,
		Delimiter: f.Delimiter, StopTimeout: f.StopTimeout, StallTimeout: f.StallTimeout}, func() { status.Close() })
}
