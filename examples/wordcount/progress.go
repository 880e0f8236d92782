package main

import (
	"fmt"
	"io"
	"os"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows how much of the text is counted. It is for one goroutine.
type progress interface {
	set(bytes int64)
	end()
}

// newProgress is a bar on a terminal, and a line for every tenth elsewhere.
func newProgress(w io.Writer, total int64) progress {
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return newBar(w, total)
	}
	return &lines{w: w, total: total}
}

type bar struct {
	p *mpb.Progress
	b *mpb.Bar
}

func newBar(w io.Writer, total int64) *bar {
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(64))
	return &bar{p, p.AddBar(max(total, 1),
		mpb.PrependDecorators(decor.CountersKiloByte("% .1f / % .1f")),
		mpb.AppendDecorators(decor.Percentage(), decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 6})),
	)}
}

func (b *bar) set(bytes int64) { b.b.SetCurrent(bytes) }

func (b *bar) end() {
	if !b.b.Completed() { // some files were not counted, or the run was ended
		b.b.Abort(false)
	}
	b.p.Wait()
}

type lines struct {
	w     io.Writer
	total int64
	told  int64 // tenths
}

func (l *lines) set(bytes int64) {
	if tenths := 10 * bytes / max(l.total, 1); tenths > l.told {
		l.told = tenths
		fmt.Fprintf(l.w, "wordcount: %d%% of %.1f MB\n", 10*tenths, float64(l.total)/1e6)
	}
}

func (l *lines) end() {}
