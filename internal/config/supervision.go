package config

import "time"

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
}
