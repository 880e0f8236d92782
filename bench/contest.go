package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A contest is a set of candidates that are measured by turns, so that what happens to the machine happens to all of them, and the rows that
// compare them.
type contest struct {
	name     string
	channels string // TOML of the region, "" if no candidate is ours
	apart    bool   // the CPUs' distance does not matter
	where    string // placement of a contest that is apart
	entries  []entry
	rows     []rowSpec
}

// An entry is a candidate with what it is asked to do.
type entry struct {
	key string
	run func(context.Context, *lab, params) (result, error)
	p   params
	// absent says why the candidate cannot be measured here, or "".
	absent func(context.Context, *lab) string
}

// A rowSpec says how a row comes from the results of the entries it names.
type rowSpec struct {
	measure, unit, reference string
	needs                    []string // keys of entries
	value, against           func(map[string]result) float64
	target                   string
	near                     bool // the target is for near placement only
}

// A row is a line of docs/bench.json.
type row struct {
	Measure        string  `json:"measure"`
	Value          float64 `json:"value"`
	Unit           string  `json:"unit"`
	Reference      string  `json:"reference"`
	ReferenceValue float64 `json:"reference_value"`
	Ratio          float64 `json:"ratio"`
	Target         string  `json:"target"`
	Met            bool    `json:"met"`
	Placement      string  `json:"placement"`
	Runs           int     `json:"runs"`
	Spread         float64 `json:"spread"` // of the ratio: (largest - smallest) / median
}

// met reports whether ratio reaches target, ">= X" or "<= X".
func met(target string, ratio float64) (bool, error) {
	var op string
	var v float64
	if n, err := fmt.Sscanf(target, "%s %g", &op, &v); n != 2 || err != nil || op != "<=" && op != ">=" {
		return false, fmt.Errorf("%q is no target", target)
	}
	if op == "<=" {
		return ratio <= v, nil
	}
	return ratio >= v, nil
}

// A round is what one turn of all candidates gave: the results by placement and key.
type round map[string]map[string]result

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// compute makes the rows of a contest from its rounds: a ratio is taken within one round and one placement, and rows give medians. A placement
// that was there for fewer than least rounds has no row, unless no other was there for longer.
func (c *contest) compute(rounds []round, least int) ([]row, error) {
	var rows []row
	for _, spec := range c.rows {
		type samples struct{ value, against, ratio []float64 }
		by := map[string]*samples{}
		for _, r := range rounds {
			for place, results := range r {
				if slices.ContainsFunc(spec.needs, func(key string) bool { return results[key] == nil }) {
					continue
				}
				v, a := spec.value(results), spec.against(results)
				if !(v >= 0) || !(a > 0) || math.IsInf(v, 0) || math.IsInf(a, 0) {
					return nil, fmt.Errorf("%s: measured %g beside %g", spec.measure, v, a)
				}
				s := by[place]
				if s == nil {
					s = &samples{}
					by[place] = s
				}
				s.value, s.against, s.ratio = append(s.value, v), append(s.against, a), append(s.ratio, v/a)
			}
		}
		most := 0
		for _, s := range by {
			most = max(most, len(s.ratio))
		}
		for _, place := range places {
			s := by[place]
			if s == nil || len(s.ratio) < min(least, most) || spec.near && place == "far" {
				continue
			}
			m := median(s.ratio)
			ok, err := met(spec.target, m)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", spec.measure, err)
			}
			spread := 0.0
			if m > 0 {
				spread = (slices.Max(s.ratio) - slices.Min(s.ratio)) / m
			}
			rows = append(rows, row{spec.measure, median(s.value), spec.unit, spec.reference, median(s.against), m, spec.target, ok, place,
				len(s.ratio), spread})
		}
	}
	return rows, nil
}

// enough reports whether each row has n samples in some placement, or can have none.
func (c *contest) enough(rounds []round, n int, gone map[string]string) bool {
	for _, spec := range c.rows {
		if slices.ContainsFunc(spec.needs, func(key string) bool { return gone[key] != "" }) {
			continue
		}
		by := map[string]int{}
		most := 0
		for _, r := range rounds {
			for place, results := range r {
				if !slices.ContainsFunc(spec.needs, func(key string) bool { return results[key] == nil }) {
					by[place]++
					most = max(most, by[place])
				}
			}
		}
		if most < n {
			return false
		}
	}
	return true
}

// run measures a contest: at least n rounds, up to three times as many if the distance of the CPUs changed within them. gone collects why
// candidates could not be measured; a candidate of ours that fails is an error.
func (c *contest) run(ctx context.Context, l *lab, n int, gone map[string]string, say func(string)) ([]round, error) {
	entries := slices.Clone(c.entries)
	if c.channels != "" {
		if err := l.startRegion(c.channels); err != nil {
			return nil, err
		}
		defer l.stopRegion()
	}
	for i := range entries {
		if p := &entries[i].p; p.ring != "" {
			var err error
			if p.footprint, err = l.region.segment(p.ring); err != nil {
				return nil, err
			}
		}
	}
	var rounds []round
	calibrated := map[string]bool{}
	for k := 0; k < 3*n && !(k >= n && c.enough(rounds, n, gone)); k++ {
		r := round{}
		before := "" // the placement before the next run
		for i := range entries {
			e := entries[(i+k)%len(entries)]
			if e.absent != nil && gone[e.key] == "" {
				gone[e.key] = e.absent(ctx, l)
			}
			if gone[e.key] != "" {
				continue
			}
			say(fmt.Sprintf("%s, round %d of %d: %s", c.name, k+1, max(n, k+1), e.key))
			l.runs++
			if !c.apart && before == "" {
				ns, err := l.ping(ctx)
				if err != nil {
					return nil, err
				}
				before = placement(ns)
			}
			if !calibrated[e.key] {
				calibrated[e.key] = true
				if err := e.calibrate(ctx, l); err == nil {
					entries[(i+k)%len(entries)] = e
				}
			}
			res, err := e.run(ctx, l, e.p)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil && (e.absent == nil || strings.HasPrefix(e.key, "shmd")) {
				return nil, fmt.Errorf("%s: %s: %w", c.name, e.key, err)
			}
			if err != nil {
				gone[e.key] = firstLine(err)
				before = ""
				continue
			}
			place, after := c.where, ""
			if !c.apart {
				ns, err := l.ping(ctx)
				if err != nil {
					return nil, err
				}
				after = placement(ns)
				place = after
				if after != before {
					place = "moved" // while it ran: no row is made of it
				}
			}
			before = after
			if r[place] == nil {
				r[place] = map[string]result{}
			}
			r[place][e.key] = res
		}
		delete(r, "moved")
		rounds = append(rounds, r)
	}
	return rounds, nil
}

// span is about how long a run measures.
const span = 250 * time.Millisecond

// calibrate makes a run of few messages and sets the number of messages for the machine as it is now, never above what the entry came with.
func (e *entry) calibrate(ctx context.Context, l *lab) error {
	if e.p.pace != 0 || e.p.count <= 1000 {
		return nil
	}
	p := e.p
	p.warm, p.count = min(p.warm, max(p.count/50, 1000)), max(p.count/50, 1000)
	l.runs++
	r, err := e.run(ctx, l, p)
	if err != nil {
		return err
	}
	rate := r["rate"]
	if ns := max(r["p50"], r["cpu_ns"]); rate == 0 && ns > 0 {
		rate = 1e9 / ns
	}
	e.p.count = min(e.p.count, max(int(rate*span.Seconds()), 1000))
	e.p.warm = min(e.p.warm, e.p.count)
	return nil
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
