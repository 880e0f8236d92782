package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A document is what one run of bench gives: docs/bench.json.
type document struct {
	Machine string            `json:"machine"`
	Commit  string            `json:"commit"`
	Date    string            `json:"date"`
	Seconds float64           `json:"seconds"`
	Rows    []row             `json:"rows"`
	Growth  []growthSample    `json:"growth"`
	Absent  map[string]string `json:"absent"` // peers that were not measured, and why
}

func newDocument(ctx context.Context) *document {
	return &document{Machine: machine(ctx), Commit: commit(ctx), Date: time.Now().UTC().Format("2006-01-02"), Rows: []row{}, Growth: []growthSample{}}
}

// commit names the source.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine describes the machine in a line.
func machine(ctx context.Context) string {
	cpu := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	virtual := ""
	for line := range strings.Lines(string(info)) {
		k, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(k) {
		case "model name":
			cpu = strings.TrimSpace(v)
		case "flags":
			if strings.Contains(v, " hypervisor") {
				virtual = ", virtual"
			}
		}
	}
	var u unix.Utsname
	release := "Linux"
	if unix.Uname(&u) == nil {
		release, _, _ = strings.Cut("Linux "+unix.ByteSliceToString(u.Release[:]), "-")
	}
	gcc, _ := exec.CommandContext(ctx, "gcc", "-dumpfullversion").Output()
	return fmt.Sprintf("%s, %d CPUs%s, %s, %s, gcc %s", cpu, runtime.NumCPU(), virtual, release, runtime.Version(), bytes.TrimSpace(gcc))
}

// add adds rows, and after each row that has the C probe as its reference those of the peers that are quoted beside it.
func (d *document) add(rows []row) {
	for _, r := range rows {
		d.Rows = append(d.Rows, r)
		if !strings.HasPrefix(r.Reference, "C ") || r.Placement != "near" {
			continue
		}
		for _, q := range quoted {
			if r.Measure != q.measure && !strings.HasPrefix(r.Measure, q.measure+", ") {
				continue
			}
			quote := r
			quote.Reference = q.peer + " (quoted)"
			quote.ReferenceValue = r.ReferenceValue * q.ratio
			quote.Ratio = r.Ratio / q.ratio
			quote.Target = "<= 1"
			if r.Target[0] == '>' {
				quote.Target = ">= 1"
			}
			quote.Met, _ = met(quote.Target, quote.Ratio)
			d.Rows = append(d.Rows, quote)
		}
	}
}

// number prints a value with three or four digits.
func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func verdict(r row) string {
	if r.Met {
		return "yes"
	}
	return "NO"
}

// print prints the table.
func (d *document) print(w io.Writer) {
	fmt.Fprintf(w, "%s\ncommit %s\n\n", d.Machine, d.Commit)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "MEASURE\tPLACEMENT\tVALUE\tUNIT\tREFERENCE\t\tRATIO\tTARGET\tMET\tRUNS\tSPREAD")
	metRows := 0
	for _, r := range d.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%.0f %%\n", r.Measure, r.Placement, number(r.Value), r.Unit, r.Reference,
			number(r.ReferenceValue), number(r.Ratio), r.Target, verdict(r), r.Runs, r.Spread*100)
		if r.Met {
			metRows++
		}
	}
	t.Flush()
	if len(d.Growth) > 0 {
		fmt.Fprintln(t, "\nAS IT GROWS\tAT\tVALUE")
		for _, g := range d.Growth {
			fmt.Fprintf(t, "%s\t%d\t%s\n", g.Measure, g.At, number(g.Value))
		}
		t.Flush()
	}
	for _, p := range peers {
		if why := d.Absent[p.name]; why != "" {
			fmt.Fprintf(w, "\nnot measured: %s: %s", p.name, why)
		}
	}
	fmt.Fprintf(w, "\n%d of %d rows reach their target; %.0f s\n", metRows, len(d.Rows), d.Seconds)
}

// readDocument reads the bench.json of a directory.
func readDocument(dir string) (*document, error) {
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		return nil, err
	}
	d := new(document)
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("%s/bench.json: %w", dir, err)
	}
	return d, nil
}

// write writes bench.json, bench.md and the pictures.
func (d *document) write(dir string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	files := map[string]string{"bench.json": string(text) + "\n", "bench.md": d.page()}
	for name, svg := range d.pictures() {
		files[name] = svg
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
