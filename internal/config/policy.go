package config

import (
	"slices"
	"time"
)

// Open reports whether users other than root and the daemon's own may have any access at all.
func (c *Config) Open() bool {
	for _, ch := range c.Channels {
		if len(ch.AllowProduce)+len(ch.AllowConsume) > 0 {
			return true
		}
	}
	return len(c.Access.Observe)+len(c.Access.Operate) > 0
}

// ReadyAtExec reports whether the workers of the group count as ready as soon as their command runs: the key "ready" says so, or
// says nothing and they are external commands without channels, which perhaps never attach.
func (g *Group) ReadyAtExec() bool {
	if g.Ready != "" {
		return g.Ready == ReadyExec
	}
	return g.Builtin == "" && len(g.Consume)+len(g.Produce) == 0 && !g.Filter()
}

// Filter reports whether the command of the group is a filter: it reads and writes lines, and knows nothing of channels.
func (g *Group) Filter() bool { return g.Stdin != "" || g.Stdout != "" }

// Channels returns the channels that the workers of the group hold, each once.
func (g *Group) Channels() []string {
	var names []string
	for _, name := range slices.Concat(g.Consume, g.Produce, []string{g.Stdin, g.Stdout}) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Most returns how many instances a group can have: one if a channel of it has one such end.
func (c *Config) Most(g *Group) int {
	for _, ch := range c.Channels {
		lane := ch.Lane() && slices.Contains(g.Channels(), ch.Name)
		if lane || ch.Publishers == 1 && (slices.Contains(g.Produce, ch.Name) || g.Stdout == ch.Name) {
			return 1
		}
	}
	return MaxWorkers
}

// delays returns how long the delays before CrashLimit restarts are together, without their random part, or something longer than most if they are longer than that.
func (g *Group) delays(most time.Duration) (all time.Duration) {
	delay := g.BackoffMin
	for n := 0; n < g.CrashLimit && delay > 0 && all <= most; n++ {
		all += delay
		delay = max(delay, min(2*delay, g.BackoffMax))
	}
	return all
}

// roomForCrashes makes the default of CrashWindow long enough for CrashLimit restarts with long delays.
func (g *Group) roomForCrashes() {
	g.CrashWindow = min(max(g.CrashWindow, 2*g.delays(maxDuration)), maxDuration)
}
