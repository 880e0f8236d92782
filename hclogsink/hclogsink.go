// Package hclogsink lets a program that logs through hashicorp/go-hclog write to its worker's log in shared memory too:
//
//	log := hclog.NewInterceptLogger(nil)
//	log.RegisterSink(hclogsink.New(region.Log()))
//
// It is no part of pkg/shm, which depends on nothing but golang.org/x/sys.
package hclogsink

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/go-hclog"
)

// sink is an hclog.SinkAdapter.
type sink struct{ to slog.Handler }

// New returns a sink that hands records to a handler: a *shm.Log as a rule. The logger's name becomes the attribute "logger"; hclog's trace
// is one below slog's debug. A record that cannot be written (the region is closed) is dropped: a sink has nobody to tell. It is safe for
// concurrent use if the handler is.
func New(to slog.Handler) hclog.SinkAdapter { return sink{to} }

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(name string, level hclog.Level, msg string, args ...any) {
	to := levelOf(level)
	if level == hclog.Off || !s.to.Enabled(context.Background(), to) {
		return
	}
	r := slog.NewRecord(time.Now(), to, msg, 0)
	if name != "" {
		r.AddAttrs(slog.String("logger", name))
	}
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) { // hclog lets a single value stand at the end
			r.AddAttrs(slog.Any(hclog.MissingKey, value(args[i])))
			break
		}
		r.AddAttrs(slog.Any(fmt.Sprint(args[i]), value(args[i+1])))
	}
	s.to.Handle(context.Background(), r)
}

// value turns hclog's own kinds of values into what they stand for.
func value(v any) any {
	switch v := v.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		return fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
	case hclog.Hex:
		return fmt.Sprintf("0x%x", int(v))
	case hclog.Octal:
		return fmt.Sprintf("0%o", int(v))
	case hclog.Binary:
		return fmt.Sprintf("0b%b", int(v))
	case hclog.Quote:
		return string(v)
	case hclog.CapturedStacktrace:
		return string(v)
	case fmt.Stringer:
		return fmt.Sprint(v) // not v.String(), which may panic: of a nil pointer
	}
	return v
}

func levelOf(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return slog.LevelDebug - 1
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}
