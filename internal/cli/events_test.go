package cli

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The kinds that events knows are those that the daemon writes.
func TestEventKinds(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../daemon/events.go")
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, m := range regexp.MustCompile(`(?m)^\tevent[A-Z]\w+ += "([a-z-]+)"`).FindAllSubmatch(text, -1) {
		kinds = append(kinds, string(m[1]))
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, eventKinds) {
		t.Errorf("the daemon writes %q, and events knows %q", kinds, eventKinds)
	}
}
