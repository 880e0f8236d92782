package config

import (
	"strings"
	"testing"
	"time"
)

// FuzzParse: Parse never panics, what it accepts holds to every bound, what it refuses has a place.
func FuzzParse(f *testing.F) {
	f.Add([]byte(complete))
	f.Add(DefaultTOML)
	for _, b := range bad {
		f.Add([]byte(b.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.toml", data)
		if err == nil {
			invariants(t, c)
			return
		}
		es, ok := err.(Errors)
		if !ok || len(es) == 0 || c != nil {
			t.Fatalf("config %v, error %#v", c, err)
		}
		lines := strings.Count(string(data), "\n") + 1
		for i, e := range es {
			if e.Line < 1 || e.Line > lines || e.Col < 1 || e.File != "f.toml" {
				t.Errorf("place of %#v in %d lines", e, lines)
			}
			if e.Msg == "" || strings.ContainsAny(e.Msg, "\n\r\x1b") || strings.ContainsAny(e.Context, "\r\x1b") {
				t.Errorf("text of %#v", e)
			}
			if i > 0 && e.Line < es[i-1].Line {
				t.Errorf("%v comes after %v", e, es[i-1])
			}
		}
	})
}

// invariants checks what docs/configuration.md promises of an accepted configuration, in other
// words than validate does.
func invariants(t *testing.T, c *Config) {
	t.Helper()
	must := func(ok bool, what string, of any) {
		t.Helper()
		if !ok {
			t.Errorf("%s: %+v", what, of)
		}
	}
	name := func(s string) bool {
		return len(s) >= 1 && len(s) <= 31 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" && strings.TrimLeft(s, "_-") == s
	}
	who := func(list []string) bool {
		for _, w := range list {
			if w == "" || w == "@" || strings.ContainsAny(w, " \n\x00:/") {
				return false
			}
		}
		return true
	}
	power := func(n int64) bool { return n > 0 && n&-n == n }
	within := func(d, lo time.Duration) bool { return d >= lo && d <= 24*time.Hour }

	must(name(c.Region.Name), "name", c.Region)
	must(power(c.Region.LogSize) && c.Region.LogSize >= 64<<10 && c.Region.LogSize <= 1<<30, "log_size", c.Region)
	must(c.Region.MaxAttachments >= 0 && c.Region.MaxAttachments+MaxWorkers < 1<<16-1, "max_attachments", c.Region)
	must(who(c.Access.Observe) && who(c.Access.Operate), "access", c.Access)

	channels := map[string]bool{}
	for _, ch := range c.Channels {
		must(name(ch.Name) && !channels[ch.Name], "name", ch)
		must(ch.Name != "roster" && ch.Name != "command" && ch.Name != "log" && ch.Name != "group", "reserved", ch)
		channels[ch.Name] = true
		must(ch.Kind == "queue" || ch.Kind == "latest" || ch.Kind == "call" || ch.Kind == "topic", "kind", ch)
		must(power(int64(ch.Slots)) && ch.Slots >= 2 && ch.Slots <= 1<<20, "slots", ch)
		must(ch.Kind != "latest" || ch.Slots >= 4 && ch.Slots <= 256, "versions", ch)
		must(ch.Kind != "queue" && ch.DeadSlots == 0 || power(int64(ch.DeadSlots)) && ch.DeadSlots >= 2 && ch.DeadSlots <= 1<<20, "dead_slots", ch)
		must(ch.Kind != "topic" || (ch.Overflow == "block" || ch.Overflow == "drop-oldest") && ch.Publishers >= 0 && ch.Publishers <= 1 &&
			ch.Subscribers >= 1 && ch.Subscribers <= 4096 && ch.EvictAfter >= 0 && ch.EvictAfter <= maxDuration, "topic", ch)
		must(ch.SlotSize >= 1 && ch.SlotSize <= 1<<30, "slot_size", ch)
		must(ch.MaxLeases >= 0 && ch.MaxLeases <= ch.Slots && (ch.MaxLeases == 0 || ch.Kind == "queue" && ch.Producers == 0), "max_leases", ch)
		must(ch.Producers == ch.Consumers && ch.Producers>>1 == 0, "producers and consumers", ch)
		must(ch.MaxDeliveries >= 0 && ch.MaxDeliveries <= 63, "max_deliveries", ch)
		must(!ch.Sparse || !c.Region.HugePages, "sparse and huge", ch)
		must(who(ch.AllowConsume) && who(ch.AllowProduce), "allow", ch)
	}
	groups, total := map[string]bool{}, 0
	for _, g := range c.Groups {
		must(name(g.Name) && !groups[g.Name], "name", g)
		groups[g.Name] = true
		must((len(g.Command) > 0) != (g.Builtin != ""), "command or builtin", g)
		must(len(g.Command) == 0 || g.Command[0] != "", "command", g)
		must(g.Builtin == "" || g.Builtin == "idle" || len(g.Consume) == 1 && len(g.Produce) == 1 && g.Consume[0] != g.Produce[0], "builtin's ends", g)
		must(g.Count >= 1 && g.Count <= 1024, "count", g)
		total += g.Count
		for _, list := range [][]string{g.Consume, g.Produce} {
			seen := map[string]bool{}
			for _, ch := range list {
				must(channels[ch] && !seen[ch], "channel "+ch, g)
				seen[ch] = true
			}
		}
		must(g.Restart == "always" || g.Restart == "on-failure" || g.Restart == "never", "restart", g)
		must(g.Ready == "" || g.Ready == "exec" || g.Ready == "call", "ready", g)
		must(within(g.StopTimeout, 1) && within(g.ReadyTimeout, 0) && within(g.CrashWindow, 1), "timeouts", g)
		must(within(g.BackoffMin, 1) && within(g.BackoffMax, g.BackoffMin), "backoff", g)
		must(g.CrashLimit >= 0, "crash_limit", g)
		must(g.Dir == "" || g.Dir[0] == '/', "dir", g)
		for _, s := range append([]string{g.Dir, g.User}, g.Command...) {
			must(!strings.Contains(s, "\x00"), "NUL", g)
		}
		for k, v := range g.Env {
			must(k != "" && !strings.ContainsAny(k, "=\x00") && !strings.Contains(v, "\x00") && k != "SHMD_FDS", "env", g)
		}
	}
	must(total <= 1024, "workers", total)
	if more := c.validate(); len(more) > 0 {
		t.Errorf("accepted, but %v", more)
	}
}
