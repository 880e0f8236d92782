package cli

import (
	"slices"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// What takes long is told while it is waited for: people wonder what a command that says nothing does.

const tellMissing = 5 * time.Second // a start that takes less is nothing to tell of

// teller tells on standard error what a verb waits for: after tellAfter that instances wait for another group, again when that has changed, for
// such a wait may not end by itself; and once, after tellMissing, whatever it is.
type teller struct {
	a     *app
	s     *session
	began time.Time
	next  time.Time // when to look again for whom groups wait
	told  []string
	all   bool // what is missing was told
}

func newTeller(a *app, s *session) *teller {
	now := time.Now()
	return &teller{a: a, s: s, began: now, next: now.Add(tellAfter)}
}

// look is called again and again while something is missing; groups are the rows of those that are waited for. With an empty missing only those that wait for
// another group are told of.
func (t *teller) look(missing string, groups []int) {
	now := time.Now()
	if t.a.quiet || now.Before(t.next) {
		return
	}
	t.next = now.Add(tellAfter)
	var waits []string
	snapshot := t.s.reader().Snapshot(0)
	for i := range snapshot.Workers {
		w := &snapshot.Workers[i]
		if w.State != protocol.StateWaiting || !slices.Contains(groups, w.Worker.Group) {
			continue
		}
		what, next := snapshot.Waits(w)
		text := t.s.groupName(w.Worker) + " " + what
		if next != "" {
			text += ": " + next
		}
		if !slices.Contains(waits, text) {
			waits = append(waits, text)
		}
	}
	for _, text := range waits {
		if !slices.Contains(t.told, text) {
			t.a.warn("%s", text)
		}
	}
	t.told = waits
	if len(waits) == 0 && missing != "" && !t.all && now.Sub(t.began) >= tellMissing {
		t.all = true
		t.a.warn("waiting: %s", missing)
	}
}
