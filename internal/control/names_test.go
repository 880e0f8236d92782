package control

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shmd/shmd/pkg/protocol"
)

// heapRoster is a roster of groups with so many instances each.
func heapRoster(t *testing.T, groups ...string) *protocol.Roster {
	t.Helper()
	c := protocol.RosterConfig{Segments: 1, Groups: 8, Workers: 64, Attachments: 1}
	r, err := protocol.FormatRoster(make([]byte, protocol.RosterSize(c)), protocol.Header{Name: "roster", Region: "default", Created: time.Now()}, c)
	if err != nil {
		t.Fatal(err)
	}
	index := 0
	for _, g := range groups {
		name, count := g, 1
		fmt.Sscanf(strings.Replace(g, "=", " ", 1), "%s %d", &name, &count)
		gi, err := r.AddGroup(protocol.Group{Name: name, Count: count})
		if err != nil {
			t.Fatal(err)
		}
		for i := range count {
			if err := r.SetWorker(index, protocol.Worker{Name: fmt.Sprintf("%s.%d", name, i), Group: gi, Instance: i}); err != nil {
				t.Fatal(err)
			}
			index++
		}
	}
	return r
}

func TestResolve(t *testing.T) {
	r := heapRoster(t, "parser=4", "web=1", "none=0")
	for _, c := range []struct {
		names string
		want  Targets
	}{
		{"", Targets{Workers: []int{0, 1, 2, 3, 4}, Groups: []int{0, 1, 2}, Region: true}},
		{"parser", Targets{Workers: []int{0, 1, 2, 3}, Groups: []int{0}}},
		{"parser.2", Targets{Workers: []int{2}}},
		{"web parser.3 web.0 parser.3", Targets{Workers: []int{3, 4}, Groups: []int{1}}},
		{"none", Targets{Groups: []int{2}}},
	} {
		got, err := Resolve(r, strings.Fields(c.names))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %+v, %v, want %+v", c.names, got, err, c.want)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	r := heapRoster(t, "parser=4", "web=1", "none=0")
	const have = `; there are: parser (parser.0 … parser.3), web (web.0), none`
	for name, want := range map[string]string{
		"parsre":   `unknown worker "parsre"` + have + `; did you mean "parser"?`,
		"wbe":      `unknown worker "wbe"` + have + `; did you mean "web"?`,
		"nginx":    `unknown worker "nginx"` + have,
		"prser.2":  `unknown worker "prser.2"` + have + `; did you mean "parser.2"?`,
		"parser.9": `unknown worker "parser.9"; there are: parser (parser.0 … parser.3)`,
		"":         `unknown worker ""` + have,
		"a\x1b[2J": `unknown worker "a\x1b[2J"` + have,
	} {
		_, err := Resolve(r, []string{name})
		if !errors.Is(err, ErrNoSuchWorker) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := Resolve(heapRoster(t), []string{"x"}); err == nil || err.Error() != `unknown worker "x"; the region has no workers` {
		t.Error(err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1}, {"abc", "ab", 1}, {"kitten", "sitting", 3}, {"", "ab", 2}} {
		if got := distance(c.a, c.b, 10); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		limit := rapid.IntRange(0, 20).Draw(t, "limit")
		x, y := distance(a, b, limit), distance(b, a, limit)
		if min(x, limit+1) != min(y, limit+1) || (x == 0) != (a == b) {
			t.Fatalf("%q %q: %d and %d", a, b, x, y)
		}
	})
}

// Whatever lies in the roster's rows, names resolve to rows that exist, or to an error.
func FuzzResolve(f *testing.F) {
	f.Add(uint64(300), []byte{1, 2, 3}, "parser")
	f.Add(uint64(128), []byte{1, 0, 0, 0}, "parser") // a group row in the middle of a change
	f.Fuzz(func(t *testing.T, at uint64, junk []byte, name string) {
		c := protocol.RosterConfig{Segments: 1, Groups: 2, Workers: 4, Attachments: 1}
		b := make([]byte, protocol.RosterSize(c))
		r, err := protocol.FormatRoster(b, protocol.Header{Name: "roster", Region: "default", Created: time.Now()}, c)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if _, err := r.AddGroup(protocol.Group{Name: "parser", Count: 2}); err != nil {
				t.Fatal(err)
			}
			for k := range 2 {
				if err := r.SetWorker(2*i+k, protocol.Worker{Name: fmt.Sprintf("parser.%d", 2*i+k), Group: i, Instance: k}); err != nil {
					t.Fatal(err)
				}
			}
		}
		const tables = 4096
		copy(b[tables+at%uint64(len(b)-tables):], junk)
		for _, names := range [][]string{nil, {name}, {"parser"}, {"parser.1", name}} {
			got, err := Resolve(r, names)
			if err != nil {
				continue
			}
			groups, _ := r.Groups()
			for _, w := range got.Workers {
				if w < 0 || w >= r.WorkerCount() {
					t.Fatalf("%v: worker %d", names, w)
				}
			}
			for _, g := range got.Groups {
				if g < 0 || g >= len(groups) {
					t.Fatalf("%v: group %d", names, g)
				}
			}
			if !reflect.DeepEqual(got.Workers, unique(append([]int(nil), got.Workers...))) && len(got.Workers) > 0 {
				t.Fatalf("%v: %v", names, got.Workers)
			}
		}
	})
}
