package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/shmd/shmd/internal/wordcount"
)

// report is what a run found; its JSON is the program's -o json. A change of meaning raises schema.
type report struct {
	Schema   int    `json:"schema"`
	Words    uint64 `json:"words"`
	Distinct int    `json:"distinct"`
	Top      []word `json:"top"` // by count, ties by word

	Dir    string      `json:"dir"`
	Files  int         `json:"files"` // found; those in errors are not counted
	Bytes  uint64      `json:"bytes"` // counted
	Errors []fileError `json:"errors"`

	Seconds float64 `json:"seconds"` // from the look at the tree to the last result
	MBps    float64 `json:"mb_per_s"`

	Redelivered uint64  `json:"redelivered"` // how often a job was delivered again
	Duplicates  uint64  `json:"duplicates"`  // results that came although the job had one
	Kills       int     `json:"kills"`
	Memory      *memory `json:"memory,omitempty"`

	// StopNs is from the quit flag to the end of the last worker.
	StopNs *int64 `json:"stop_ns,omitempty"`

	// Wc is what wc -w took on the same files (--single).
	Wc *timing `json:"wc,omitempty"`
}

type timing struct {
	Seconds float64 `json:"seconds"`
	MBps    float64 `json:"mb_per_s"`
}

// word is [word, count] in JSON.
type word wordcount.Entry

func (w word) MarshalJSON() ([]byte, error) { return json.Marshal([]any{w.Word, w.Count}) }

func (w *word) UnmarshalJSON(b []byte) error {
	pair := []json.RawMessage{}
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("[word, count] has %d elements", len(pair))
	}
	return errors.Join(json.Unmarshal(pair[0], &w.Word), json.Unmarshal(pair[1], &w.Count))
}

// fileError has a path that is not UTF-8 in Go's quotes, since JSON cannot say it.
type fileError struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

func printable(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strconv.Quote(path)
}

func newReport(p *wordcount.Plan, m *wordcount.Merger, took time.Duration, top int) *report {
	rep := &report{
		Schema: 1, Words: m.Words.Words(), Distinct: m.Words.Distinct(), Top: []word{},
		Dir: printable(p.Root), Files: p.Files, Bytes: m.Bytes, Errors: []fileError{},
		Seconds: took.Seconds(), MBps: mbps(m.Bytes, took),
		Redelivered: m.Redelivered, Duplicates: m.Duplicates,
	}
	for _, e := range m.Words.Top(top) {
		rep.Top = append(rep.Top, word(e))
	}
	for _, errs := range [][]wordcount.FileError{p.Errors, m.Errors} {
		for _, e := range errs {
			rep.Errors = append(rep.Errors, fileError{printable(e.Path), e.Text})
		}
	}
	return rep
}

func mbps(bytes uint64, took time.Duration) float64 {
	return float64(bytes) / 1e6 / max(took.Seconds(), 1e-9)
}

func (rep *report) write(path string) error {
	b, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// readReport reads what write wrote, and adds what `shmctl stop -o json` says.
func readReport(path string, stop io.Reader) (*report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rep := new(report)
	if err := json.Unmarshal(b, rep); err != nil {
		return nil, fmt.Errorf("report %s: %w", path, err)
	}
	var stopped struct {
		Workers []struct {
			ExitNs *int64 `json:"exit_ns"`
		} `json:"workers"`
	}
	if err := json.NewDecoder(stop).Decode(&stopped); err != nil {
		return nil, fmt.Errorf("what shmctl stop printed: %w", err)
	}
	for _, w := range stopped.Workers {
		if w.ExitNs != nil && (rep.StopNs == nil || *w.ExitNs > *rep.StopNs) {
			rep.StopNs = w.ExitNs
		}
	}
	if rep.StopNs == nil {
		return nil, errors.New("shmctl stop tells of no worker that ended")
	}
	return rep, nil
}

func (rep *report) print(w io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(rep)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("words", "%d", rep.Words)
	row("distinct words", "%d", rep.Distinct)
	row("files", "%d, %.1f MB counted, %d errors", rep.Files, float64(rep.Bytes)/1e6, len(rep.Errors))
	row("speed", "%.0f MB/s (%.2f s)", rep.MBps, rep.Seconds)
	if rep.Wc != nil {
		row("wc -w", "%.0f MB/s (%.2f s)", rep.Wc.MBps, rep.Wc.Seconds)
	}
	if rep.Memory != nil {
		row("workers killed", "%d", rep.Kills)
		row("delivered again", "%d jobs, %d results came twice and were ignored", rep.Redelivered, rep.Duplicates)
		row("text in memory", "%.1f MB (sum of PSS of %d processes; RSS %.1f MB) of %.1f MB, %.1f MB in whole pages", mb(rep.Memory.Pss),
			rep.Memory.Processes, mb(rep.Memory.Rss), mb(rep.Memory.Text), mb(rep.Memory.Pages))
	}
	if rep.StopNs != nil {
		row("stop", "%v from the quit flag to the last worker's exit", time.Duration(*rep.StopNs).Round(10*time.Microsecond))
	}
	if len(rep.Top) > 0 {
		fmt.Fprintf(t, "\ntop %d:\n", len(rep.Top))
	}
	for _, e := range rep.Top {
		fmt.Fprintf(t, "  %s\t%d\n", shorten(e.Word), e.Count)
	}
	if len(rep.Errors) > 0 {
		fmt.Fprintf(t, "\nnot counted:\n")
	}
	for i, e := range rep.Errors {
		if i == 10 {
			fmt.Fprintf(t, "  and %d more; -o json has them all\n", len(rep.Errors)-i)
			break
		}
		path := e.Path
		if !strings.HasPrefix(path, `"`) { // else it is in quotes already
			path = strconv.Quote(path)
		}
		fmt.Fprintf(t, "  %s: %s\n", path, e.Error)
	}
	return t.Flush()
}

func mb(n int64) float64 { return float64(n) / 1e6 }

// shorten keeps a word of a binary file from flooding the terminal.
func shorten(w string) string {
	if len(w) <= 40 {
		return w
	}
	return fmt.Sprintf("%s… (%d letters)", w[:30], len(w))
}
