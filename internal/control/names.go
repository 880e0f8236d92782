package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shmd/shmd/pkg/protocol"
)

// Targets are the rows that names stand for.
type Targets struct {
	Workers []int // indexes of worker rows, ascending, each once; those of the groups and the region included
	Groups  []int // indexes of group rows that were named as a whole, ascending, each once
	Region  bool  // everything: no name was given
}

// Resolve finds what names stand for: a worker ("parser.2") or a group ("parser"); no name stands for the whole region.
// Errors: *NoSuchWorkerError; *protocol.CorruptError and others of a damaged roster.
func Resolve(r *protocol.Roster, names []string) (Targets, error) {
	t, _, err := resolve(r, names)
	return t, err
}

// resolve also returns the worker rows that each name stands for.
func resolve(r *protocol.Roster, names []string) (Targets, [][]int, error) {
	groups, _ := r.Groups() // in a row that a daemon died over is a name of which there is a group, or none
	byGroup := make(map[string]int, len(groups))
	for i, g := range groups {
		if g.Name != "" { // else the row is free
			byGroup[g.Name] = i
		}
	}
	members := make([][]int, len(groups))
	byWorker := map[string]int{}
	for i := range r.WorkerCount() {
		w, err := r.Worker(i)
		if ce := (*protocol.CorruptError)(nil); errors.As(err, &ce) {
			return Targets{}, nil, err
		}
		if err != nil {
			continue // its writer died there, so it has no name that could be trusted
		}
		if w.State == protocol.StateGone {
			continue
		}
		byWorker[w.Name] = i
		if w.Group >= 0 && w.Group < len(members) {
			members[w.Group] = append(members[w.Group], i)
		}
	}
	if len(names) == 0 {
		t := Targets{Region: true}
		for i := range r.WorkerCount() {
			if w, err := r.Worker(i); err != nil || w.State != protocol.StateGone {
				t.Workers = append(t.Workers, i)
			}
		}
		for i, g := range groups {
			if g.Name != "" {
				t.Groups = append(t.Groups, i)
			}
		}
		return t, nil, nil
	}
	var t Targets
	each := make([][]int, len(names))
	for k, name := range names {
		if i, ok := byWorker[name]; ok {
			each[k] = []int{i}
		} else if g, ok := byGroup[name]; ok {
			t.Groups = append(t.Groups, g)
			each[k] = members[g]
		} else {
			return Targets{}, nil, unknown(name, groups, byWorker)
		}
		t.Workers = append(t.Workers, each[k]...)
	}
	return Targets{Workers: unique(t.Workers), Groups: unique(t.Groups)}, each, nil
}

func unique(ns []int) []int {
	slices.Sort(ns)
	return slices.Compact(ns)
}

func unknown(name string, groups []protocol.Group, workers map[string]int) error {
	e := &NoSuchWorkerError{Name: name}
	best := len(name)/3 + 1 // more changes than that make another name
	near := func(candidate string) {
		if d := distance(name, candidate, best); d <= best && (d < best || e.Suggest == "") {
			best, e.Suggest = d, candidate
		}
	}
	prefix, _, dotted := strings.Cut(name, ".")
	for _, g := range groups {
		if g.Name == "" {
			continue
		}
		have := g.Name
		if g.Count == 1 {
			have += fmt.Sprintf(" (%s.0)", g.Name)
		} else if g.Count > 1 {
			have += fmt.Sprintf(" (%s.0 … %s.%d)", g.Name, g.Name, g.Count-1)
		}
		e.Have = append(e.Have, have)
		if dotted && g.Name == prefix {
			return &NoSuchWorkerError{Name: name, Have: []string{have}} // the list says which instances there are
		}
	}
	for _, g := range groups {
		if g.Name != "" {
			near(g.Name)
		}
	}
	if dotted {
		for _, w := range sortedByIndex(workers) {
			near(w)
		}
	}
	return e
}

func sortedByIndex(m map[string]int) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int { return m[a] - m[b] })
	return names
}

// distance is the number of characters to insert, delete, replace or swap with their neighbour to make b of a, or any
// number greater than limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d > limit || -d > limit {
		return limit + 1
	}
	if len(a) > 256 || len(b) > 256 {
		return limit + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
