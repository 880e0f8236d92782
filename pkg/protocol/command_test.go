package protocol

import "testing"

// A dismissal leaves everything wanted, and a daemon that comes later takes the region's flag back; the workers' flags tell it who was asked. A stop keeps its flag.
func TestDismissAndRecall(t *testing.T) {
	c, err := FormatCommand(make([]byte, CommandSize(1, 2)), header("command"), 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	flags := func() [3]bool {
		return [3]bool{Flagged(c.RegionQuit()), Flagged(c.WorkerQuit(0)), Flagged(c.WorkerQuit(1))}
	}
	c.Dismiss([]int{0})
	if got, want := flags(), [3]bool{true, true, false}; got != want || !c.Wanted(0, 0) {
		t.Errorf("dismissed: flags %v, want %v; wanted %v", got, want, c.Wanted(0, 0))
	}
	c.Recall()
	if got, want := flags(), [3]bool{false, true, false}; got != want {
		t.Errorf("recalled: flags %v, want %v", got, want)
	}
	c.Stop([]int{0, 1}, []int{0}, true)
	c.Recall()
	if got, want := flags(), [3]bool{true, true, true}; got != want || c.Wanted(0, 0) {
		t.Errorf("stopped: flags %v, want %v; wanted %v", got, want, c.Wanted(0, 0))
	}
}
