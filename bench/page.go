package main

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
)

//go:embed page.tmpl
var pageText string

// places are the placements in the order in which they are told.
var places = []string{"siblings", "near", "far", "one CPU", "any"}

// mostRows returns the placement of two CPUs that has the most rows, near if it is one of them.
func (d *document) mostRows() string {
	n := map[string]int{"": -1}
	for _, r := range d.Rows {
		n[r.Placement]++
	}
	best := ""
	for _, p := range []string{"near", "siblings", "far"} {
		if n[p] > n[best] && n[p] > 0 {
			best = p
		}
	}
	return best
}

// page returns docs/bench.md.
func (d *document) page() string {
	escape := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	t := template.Must(template.New("page").Funcs(template.FuncMap{"number": number, "escape": escape, "verdict": verdict,
		"percent": func(v float64) string { return fmt.Sprintf("%.0f %%", v*100) },
	}).Parse(pageText))
	type section struct {
		Place    string
		Rows     []row
		Met, All int
	}
	var sections []section
	for _, place := range places {
		s := section{Place: place}
		for _, r := range d.Rows {
			if r.Placement == place {
				s.Rows = append(s.Rows, r)
				s.All++
				if r.Met {
					s.Met++
				}
			}
		}
		if s.All > 0 {
			sections = append(sections, s)
		}
	}
	type named struct{ Name, Why string }
	var absent []named
	var measured []string
	for _, p := range peers {
		if why := d.Absent[p.name]; why != "" {
			absent = append(absent, named{p.name, why})
		} else {
			measured = append(measured, p.name)
		}
	}
	var withoutGrowth []string
	grown := d.growthPictures()
	for _, name := range sorted(slices.Collect(maps.Keys(d.pictures()))) {
		if grown[name] == "" {
			withoutGrowth = append(withoutGrowth, name)
		}
	}
	missed := d.missed()
	var s strings.Builder
	err := t.Execute(&s, map[string]any{
		"Missed": missed, "All": len(d.Rows), "Met": len(d.Rows) - len(missed),
		"Doc": d, "Sections": sections, "Absent": absent, "Measured": strings.Join(measured, ", "), "Minutes": int(d.Seconds/60 + 0.5),
		"Pictures": withoutGrowth, "Grown": sorted(slices.Collect(maps.Keys(d.growthPictures()))), "Place": d.mostRows(),
	})
	if err != nil {
		panic(err) // the template is ours
	}
	return s.String()
}

// pictures returns the SVG files by name.
func (d *document) pictures() map[string]string {
	files := map[string]string{}
	place := d.mostRows()
	at := func(r row, measure, where string) bool { return r.Measure == measure && r.Placement == where }
	// One measure beside all its references.
	compare := func(file, title, measure, where, ours string) {
		var all []bar
		axis := ""
		for _, r := range d.Rows {
			if !at(r, measure, where) {
				continue
			}
			axis = r.Unit
			if len(all) == 0 {
				all = append(all, bar{ours, number(r.Value), r.Value, colourOurs, false})
			}
			b := bar{r.Reference, number(r.ReferenceValue), r.ReferenceValue, colourPeer, strings.Contains(r.Reference, "(quoted)")}
			if strings.HasPrefix(r.Reference, "C ") {
				b.colour = colourLimit
			}
			all = append(all, b)
		}
		if len(all) > 1 {
			files[file] = bars(title+" ("+where+")", axis, all)
		}
	}
	compare("bench-spinning.svg", "Round trip, both ends spinning, 64 B, p50", "round trip, spinning, 64 B, call", place, "shmd, call")
	compare("bench-asleep.svg", "Round trip, both ends asleep, two CPUs, p50", "round trip, asleep, two CPUs, call, p50", place, "shmd, call")
	compare("bench-oneway.svg", "One way, 64 B, one at a time", "queue 1:1, 64 B, one at a time", place, "shmd, queue")
	compare("bench-large.svg", "One way, 64 KiB, written and read", "queue 1:1, 64 KiB written and read", place, "shmd, queue")
	// How far each row of the issue is from its target: the targets lie at 1, right of it is better.
	var all []bar
	for _, r := range d.Rows {
		if r.Placement != place && r.Placement != "one CPU" && r.Placement != "any" || strings.Contains(r.Reference, "(quoted)") {
			continue
		}
		if !strings.HasPrefix(r.Reference, "C ") {
			continue
		}
		var v float64
		fmt.Sscanf(r.Target[3:], "%g", &v)
		margin := r.Ratio / v
		if r.Target[0] == '<' {
			margin = v / r.Ratio
		}
		b := bar{shorten(r.Measure, 34), fmt.Sprintf("%s (%s)", number(r.Ratio), r.Target), margin, colourOurs, false}
		if !r.Met {
			b.colour = colourMissed
		}
		all = append(all, b)
	}
	if len(all) > 0 {
		files["bench-targets.svg"] = bars("Beside the C probes: 1 is the target, more is better", "times the target", all)
	}
	maps.Copy(files, d.growthPictures())
	return files
}

// sorted sorts names and leaves each one once.
func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
