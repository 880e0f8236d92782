package hclogsink

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestSink(t *testing.T) {
	var out bytes.Buffer
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "main", Output: io.Discard, Level: hclog.Trace})
	log.RegisterSink(New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	log.With("a", 1).Named("db").Warn("slow", "took", 2*time.Second, "err", errors.New("late"), "f", hclog.Fmt("%d-%d", 1, 2), "x", hclog.Hex(255))
	log.Debug("alone", "odd")
	log.Trace("below the handler's level")
	log.Error("bad", 5, "five")
	got := strings.TrimSpace(out.String())
	want := `level=WARN msg=slow logger=main.db a=1 took=2s err=late f=1-2 x=0xff
level=DEBUG msg=alone logger=main EXTRA_VALUE_AT_END=odd
level=ERROR msg=bad logger=main 5=five`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A value whose String panics is logged, as hclog does it; it does not end the program.
func TestNilStringer(t *testing.T) {
	var out bytes.Buffer
	sink := New(slog.NewTextHandler(&out, nil))
	sink.Accept("", hclog.Info, "visited", "url", (*url.URL)(nil))
	if !strings.Contains(out.String(), "<nil>") {
		t.Error(out.String())
	}
}
