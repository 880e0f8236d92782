package config

import (
	"slices"
	"strings"
	"time"
)

// minWatchdog is the least watchdog: a process that is not scheduled for so long is not hung.
const minWatchdog = 100 * time.Millisecond

// supervision checks what a group says of its supervision, beyond starts and stops.
func (v *validator) supervision(at path, g *Group) {
	watchdog := at.key("watchdog")
	switch {
	case g.Watchdog == 0:
	case g.Filter():
		v.fail(watchdog, "a filter has no heartbeat; remove it: one that does not answer is reported after stall_timeout")
	case v.duration(watchdog, g.Watchdog, minWatchdog) && g.ReadyAtExec() && g.Ready == "" && len(g.Command) > 0:
		v.fail(watchdog, "a command without channels perhaps never attaches, and then has no heartbeat; remove it, or add ready = %q if it is one that does", ReadyCall)
	}
	onCrash := at.key("on_crash")
	v.oneOf(onCrash, g.OnCrash, OnCrashRepair, OnCrashReset)
	if g.OnCrash == OnCrashReset && g.Restart == RestartNever {
		v.fail(onCrash, "with restart = %q nothing is started again, so no group is reset; remove one of the two", RestartNever)
	}
	v.after(at.key("after"), g)
}

// after checks that the groups that a group comes after are there, and that none of them comes after it.
func (v *validator) after(p path, g *Group) {
	var known []string
	for _, o := range v.c.Groups {
		known = append(known, o.Name)
	}
	for i, name := range g.After {
		switch {
		case slices.Contains(g.After[:i], name):
			v.fail(p, "%q is there twice; remove one", name)
		case name == g.Name:
			v.fail(p, "the group cannot come after itself; remove %q", name)
		case slices.Contains(known, name):
		case nearest(name, known) != "":
			v.fail(p, "unknown worker group %q; did you mean %q?", name, nearest(name, known))
		default:
			v.fail(p, "unknown worker group %q; name one of %s, or add a table %s", name, some(known), path{"worker", name}.table())
		}
	}
	if circle := v.circle(g); circle != nil && g.Name == slices.Min(circle) { // once, whoever of them comes first
		v.fail(p, "the groups come after each other in a circle, so none could start: %s; remove one of these", strings.Join(append(circle, g.Name), " after "))
	}
}

// circle follows what comes before a group, and returns the way on which it comes back to it: nil if it does not.
func (v *validator) circle(g *Group) []string {
	seen := map[string]bool{}
	var way []string
	var walk func(*Group) bool
	walk = func(at *Group) bool {
		way = append(way, at.Name)
		for _, name := range at.After {
			if name == g.Name && at != g {
				return true
			}
			if i := slices.IndexFunc(v.c.Groups, func(o Group) bool { return o.Name == name }); i >= 0 && !seen[name] && name != g.Name {
				seen[name] = true
				if walk(&v.c.Groups[i]) {
					return true
				}
			}
		}
		way = way[:len(way)-1]
		return false
	}
	if walk(g) {
		return way
	}
	return nil
}

// Rank is how many groups stand before a group at most on any way through after: groups are stopped in descending order of it.
func (c *Config) Rank(g *Group) int {
	rank := 0
	for _, name := range g.After {
		for i := range c.Groups {
			if o := &c.Groups[i]; o.Name == name && o != g {
				rank = max(rank, c.Rank(o)+1)
			}
		}
	}
	return rank
}
