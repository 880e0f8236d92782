package daemon

import (
	"fmt"
	"testing"
)

func TestJudgeStart(t *testing.T) {
	t.Parallel()
	ready := func(name string) startProgress { return startProgress{name: name, ready: true} }
	starting := func(name string, after ...string) startProgress { return startProgress{name: name, after: after} }
	late := func(name string, after ...string) startProgress {
		return startProgress{name: name, late: "it ended", after: after}
	}
	for _, c := range []struct {
		what    string
		groups  []startProgress
		late    string
		settled bool
	}{
		{"no group", nil, "[]", true},
		{"all ready", []startProgress{ready("a"), ready("b")}, "[]", true},
		{"one has shown nothing", []startProgress{ready("a"), starting("b")}, "[]", false},
		{"one is late", []startProgress{ready("a"), late("b")}, "[b: it ended]", true},
		{"one is late, another has shown nothing", []startProgress{late("a"), starting("b")}, "[a: it ended]", false},
		{"ready since, whatever another instance does", []startProgress{{name: "a", ready: true, late: "it ended"}}, "[]", true},
		{"a chain behind one that is late", []startProgress{starting("c", "b"), starting("b", "ok", "a"), late("a"), ready("ok")}, "[a: it ended b: waits for group a c: waits for group b]", true},
		{"behind one that is starting", []startProgress{starting("b", "a"), starting("a")}, "[]", false},
		{"behind one that has gone", []startProgress{starting("b", "gone")}, "[]", false},
	} {
		got, settled := judgeStart(c.groups)
		said := []string{}
		for _, g := range got {
			said = append(said, g.name+": "+g.late)
		}
		if fmt.Sprint(said) != c.late || settled != c.settled {
			t.Errorf("%s: late %v, settled %v; want %s, %v", c.what, said, settled, c.late, c.settled)
		}
	}
}
