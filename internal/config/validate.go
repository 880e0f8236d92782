package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// validate finds every problem that needs no system. Parse and Check run it.
func (c *Config) validate() Errors {
	v := validator{c: c, taken: map[string]bool{}, ended: map[string]string{}}
	for _, ch := range c.Channels {
		v.known = append(v.known, ch.Name)
	}
	v.region()
	for i := range c.Channels {
		v.channel(&c.Channels[i])
	}
	workers := 0
	for i := range c.Groups {
		v.group(&c.Groups[i])
		v.total(&c.Groups[i], &workers)
		v.lanes(&c.Groups[i])
	}
	at := path{"access"}
	v.users(at.key("observe"), c.Access.Observe)
	v.users(at.key("operate"), c.Access.Operate)
	v.metrics()
	return v.errs
}

// path names a key: ("worker", "parser", "count").
type path []string

func (p path) key(name string) path { return append(p[:len(p):len(p)], name) }

// table writes the header that a key of this path stands below.
func (p path) table() string { return header(p) }

type validator struct {
	c     *Config
	known []string          // names of the channels
	taken map[string]bool   // names of the tables so far, by joined path
	ended map[string]string // groups that have an end of a lane so far, by end and channel
	errs  Errors
}

// fail refuses a key: "KEY in [TABLE]: TEXT".
func (v *validator) fail(p path, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	v.errs = append(v.errs, v.c.src.problem(p, "%s in %s: %s", p[len(p)-1], p[:len(p)-1].table(), text))
}

// failTable refuses a table: "[TABLE]: TEXT".
func (v *validator) failTable(p path, format string, args ...any) {
	v.errs = append(v.errs, v.c.src.problem(p, "%s: %s", p.table(), fmt.Sprintf(format, args...)))
}

// given tells whether the file has the key; bad, whether its value was refused already.
func (v *validator) given(p path) bool {
	if v.c.src == nil {
		return false
	}
	_, ok := v.c.src.where[join(p)]
	return ok
}

func (v *validator) bad(p path) bool {
	return v.c.src != nil && v.c.src.where[join(p)].bad
}

func (v *validator) region() {
	r, at := &v.c.Region, path{"region"}
	if !validName(r.Name) {
		v.fail(at.key("name"), "%s", badName(r.Name))
	}
	v.power(at.key("log_size"), r.LogSize, MinLogSize, MaxLogSize, FormatSize)
	v.power(at.key("events_size"), r.EventsSize, MinLogSize, MaxLogSize, FormatSize)
	v.between(at.key("max_attachments"), r.MaxAttachments, 0, MaxOutsiders)
	v.between(at.key("max_attachments_per_user"), r.MaxPerUser, 0, MaxOutsiders)
	v.duration(at.key("orphan_timeout"), r.OrphanTimeout, 0)
	v.between(at.key("dumps"), r.Dumps, 0, MaxDumps)
	v.size(at.key("dump_size"), r.DumpSize, MinLogSize, MaxChannelSize)
	if r.DumpDir != "" && !filepath.IsAbs(r.DumpDir) {
		v.fail(at.key("dump_dir"), "%q is not absolute; begin it with /", r.DumpDir)
	}
}

func (v *validator) channel(ch *Channel) {
	at := path{"channel", ch.Name}
	switch base, dead := strings.CutSuffix(ch.Name, deadSuffix); {
	case dead && guessName(base+"-dead") != "":
		v.failTable(at, "names that end in %q are for the dead letters of other channels; call it %q", deadSuffix, guessName(base+"-dead"))
	case slices.Contains(reservedChannels, ch.Name):
		v.failTable(at, "%q is the name of a segment of the region; call the channel otherwise, as in %q", ch.Name, ch.Name+"s")
	case !validName(ch.Name):
		v.failTable(at, "%s", badName(ch.Name))
	case v.taken[join(at)]:
		v.failTable(at, "the name is taken by another channel; choose another")
	}
	v.taken[join(at)] = true
	v.oneOf(at.key("kind"), ch.Kind, kinds...)
	known := slices.Contains(kinds, ch.Kind)
	has := func(key string) bool { // else its value is of no interest
		of := kindKeys[key]
		return len(of) == 0 || !known || slices.Contains(of, ch.Kind)
	}
	for _, key := range slices.Sorted(maps.Keys(kindKeys)) {
		if !has(key) && v.given(at.key(key)) {
			v.fail(at.key(key), "a channel of kind %q has no such key, it is for kind %s; remove it", ch.Kind, quoted(kindKeys[key]))
		}
	}
	least, most := int64(MinSlots), int64(MaxSlots)
	if ch.Kind == KindLatest {
		least, most = MinVersions, MaxVersions
	}
	slotsOK := v.power(at.key("slots"), int64(ch.Slots), least, most, decimal)
	if v.size(at.key("slot_size"), ch.SlotSize, 1, MaxSlotSize) && slotsOK && int64(ch.Slots)*ch.SlotSize > MaxChannelSize {
		v.fail(at.key("slots"), "%d slots of %s are more than the %s that a process can map; use fewer or smaller ones",
			ch.Slots, FormatSize(ch.SlotSize), FormatSize(MaxChannelSize))
	}
	v.topic(at, ch)
	if ch.StallAfter != 0 {
		v.duration(at.key("stall_after"), ch.StallAfter, minStall)
	}
	if has("max_deliveries") {
		v.between(at.key("max_deliveries"), ch.MaxDeliveries, 0, MaxDeliveries)
	}
	if has("dead_slots") && (slotsOK || v.given(at.key("dead_slots"))) { // else it follows from slots
		v.power(at.key("dead_slots"), int64(ch.DeadSlots), MinSlots, MaxSlots, decimal)
	}
	if leases := at.key("max_leases"); has("max_leases") && v.between(leases, ch.MaxLeases, 0, MaxSlots) && ch.MaxLeases > 0 {
		switch {
		case slotsOK && ch.MaxLeases > ch.Slots:
			v.fail(leases, "%d is more than the %d slots that there are; use %d or less, or remove the key", ch.MaxLeases, ch.Slots, ch.Slots)
		case ch.Lane():
			v.fail(leases, "a channel with one consumer has nobody to share with; remove the key, or producers and consumers")
		}
	}
	if ch.Kind == KindCall && !v.bad(at.key("on_server_death")) {
		v.oneOf(at.key("on_server_death"), ch.OnServerDeath, OnServerDeathRetry, OnServerDeathFail)
	}
	if producers, consumers := at.key("producers"), at.key("consumers"); has("producers") {
		if v.between(producers, ch.Producers, 0, 1) && v.between(consumers, ch.Consumers, 0, 1) && ch.Producers != ch.Consumers {
			one, other := producers, "consumers"
			if ch.Producers == 0 {
				one, other = consumers, "producers"
			}
			v.fail(one, "one end alone gains nothing; add %s = 1 if that is so, or remove the key", other)
		}
	}
	if ch.Sparse && v.c.Region.HugePages {
		v.fail(at.key("sparse"), "a sparse channel cannot lie in huge pages; remove sparse here, or huge_pages in [region]")
	}
	v.users(at.key("allow_produce"), ch.AllowProduce)
	v.users(at.key("allow_consume"), ch.AllowConsume)
}

// lanes refuses a group with which a channel that has one producer and one consumer has more.
func (v *validator) lanes(g *Group) {
	for _, end := range []struct {
		key, what string
		names     []string
	}{{"produce", "producer", g.Produce}, {"consume", "consumer", g.Consume},
		{"stdout", "producer", nonEmpty(g.Stdout)}, {"stdin", "consumer", nonEmpty(g.Stdin)}} {
		for _, name := range end.names {
			i := slices.IndexFunc(v.c.Channels, func(ch Channel) bool { return ch.Name == name })
			if i < 0 || !v.c.Channels[i].Lane() || g.Count < 1 {
				continue
			}
			at := path{"worker", g.Name, end.key}
			key := end.what + " " + name
			switch first := v.ended[key]; {
			case first != "":
				v.fail(at, "channel %q has one %s (%ss = 1), and that is worker %q; remove the key there, or one of the two here", name, end.what, end.what, first)
			case g.Count > 1:
				v.fail(at, "channel %q has one %s (%ss = 1), and this group has %d instances; make it count = 1, or remove producers and consumers of the channel",
					name, end.what, end.what, g.Count)
			}
			v.ended[key] = g.Name
		}
	}
}

// topic checks what only topics have.
func (v *validator) topic(at path, ch *Channel) {
	if ch.Kind != KindTopic {
		return
	}
	v.oneOf(at.key("overflow"), ch.Overflow, OverflowBlock, OverflowDropOldest)
	v.between(at.key("publishers"), ch.Publishers, 0, 1)
	v.between(at.key("subscribers"), ch.Subscribers, 1, MaxSubscribers)
	v.duration(at.key("evict_after"), ch.EvictAfter, 0)
	if ch.Overflow == OverflowDropOldest && ch.EvictAfter > 0 {
		v.fail(at.key("evict_after"), "with overflow = %q no subscriber keeps a publisher waiting; remove one of them", OverflowDropOldest)
	}
	if ch.Publishers != 1 {
		return
	}
	first := ""
	for _, g := range v.c.Groups {
		switch {
		case !slices.Contains(g.Produce, ch.Name):
		case g.Count > 1:
			v.fail(path{"worker", g.Name, "produce"}, "channel %q has publishers = 1, and this group has %d instances; give it one, or remove publishers", ch.Name, g.Count)
		case first != "":
			v.fail(path{"worker", g.Name, "produce"}, "channel %q has publishers = 1, and group %q produces it already; remove one of them", ch.Name, first)
		default:
			first = g.Name
		}
	}
}

func (v *validator) group(g *Group) {
	at := path{"worker", g.Name}
	switch {
	case !validName(g.Name):
		v.failTable(at, "%s", badName(g.Name))
	case v.taken[join(at)]:
		v.failTable(at, "the name is taken by another group; choose another")
	}
	v.taken[join(at)] = true
	v.program(at, g)
	v.between(at.key("count"), g.Count, 1, MaxWorkers)
	v.channels(at.key("consume"), g.Consume)
	v.channels(at.key("produce"), g.Produce)
	v.ends(at, g)
	v.filter(at, g)
	v.oneOf(at.key("restart"), g.Restart, RestartAlways, RestartOnFailure, RestartNever)
	v.oneOf(at.key("wait"), g.Wait, WaitAdaptive, WaitBlock, WaitSpin)
	if (g.Wait == WaitBlock || g.Wait == WaitSpin) && len(g.Channels()) == 0 {
		v.fail(at.key("wait"), "the group has no channels to wait at; give it some (consume, produce, stdin, stdout) or remove the key")
	}
	v.duration(at.key("stop_timeout"), g.StopTimeout, time.Millisecond)
	if ready := at.key("ready"); g.Ready != "" || v.given(ready) && !v.bad(ready) {
		v.oneOf(ready, g.Ready, ReadyExec, ReadyCall)
	}
	v.duration(at.key("ready_timeout"), g.ReadyTimeout, 0)
	minOK := v.duration(at.key("backoff_min"), g.BackoffMin, time.Millisecond)
	if v.duration(at.key("backoff_max"), g.BackoffMax, time.Millisecond) && minOK && g.BackoffMax < g.BackoffMin {
		which := at.key("backoff_max")
		if !v.given(which) {
			which = at.key("backoff_min")
		}
		v.fail(which, "backoff_max (%s) is less than backoff_min (%s); raise the one or lower the other",
			formatDuration(g.BackoffMax), formatDuration(g.BackoffMin))
	}
	v.crashes(at, g)
	v.between(at.key("metrics"), g.Metrics, 0, MaxMetrics)
	v.supervision(at, g)
	v.power(at.key("log_size"), g.LogSize, MinWorkerLog, MaxLogSize, FormatSize)
	v.between(at.key("log_rate"), g.LogRate, 0, MaxLogRate)
	v.between(at.key("log_burst"), g.LogBurst, 1, MaxLogRate)
	v.environment(at.key("env"), g.Env)
	if g.Dir != "" && !strings.HasPrefix(g.Dir, "/") {
		v.fail(at.key("dir"), "%q is not absolute; begin it with /", g.Dir)
	} else if g.Dir == "" && v.given(at.key("dir")) && !v.bad(at.key("dir")) {
		v.fail(at.key("dir"), "it is empty; give a directory, or remove the key for the daemon's own")
	}
	v.noNUL(at.key("dir"), g.Dir)
	if user := at.key("user"); g.User != "" || v.given(user) && !v.bad(user) {
		if why := badUser(g.User); why != "" {
			v.fail(user, "%s; give a user's name or its uid, or remove the key for the daemon's own", why)
		}
	}
}

// crashes checks that a worker that ends at once, each time, is given up: the delays before crash_limit restarts fit into crash_window.
func (v *validator) crashes(at path, g *Group) {
	window := at.key("crash_window")
	limitOK := v.between(at.key("crash_limit"), g.CrashLimit, 0, MaxCrashLimit)
	if v.duration(window, g.CrashWindow, time.Millisecond) && limitOK && v.given(window) && g.delays(g.CrashWindow) > g.CrashWindow { // the default gives room
		v.fail(window, "the delays before %d restarts (backoff_min %s, doubling up to backoff_max %s) take longer than %s, so crash_limit is never reached and a worker that always ends at once is never given up; use a longer crash_window, a lower crash_limit, or crash_limit = 0 for never",
			g.CrashLimit, formatDuration(g.BackoffMin), formatDuration(g.BackoffMax), formatDuration(g.CrashWindow))
	}
}

// program checks that a group has exactly one of command and builtin.
func (v *validator) program(at path, g *Group) {
	command, builtin := at.key("command"), at.key("builtin")
	hasCommand := len(g.Command) > 0 || v.given(command)
	hasBuiltin := g.Builtin != "" || v.given(builtin)
	switch {
	case hasCommand && hasBuiltin:
		v.failTable(at, "it has both command and builtin; remove one of them")
	case !hasCommand && !hasBuiltin:
		v.failTable(at, `it has nothing to run; add command = ["program", "argument"] or builtin = %q`, BuiltinIdle)
	}
	if hasBuiltin && !v.bad(builtin) {
		v.oneOf(builtin, g.Builtin, BuiltinWordcount, BuiltinIdle, BuiltinEcho)
	}
	if hasCommand && !v.bad(command) {
		switch {
		case len(g.Command) == 0:
			v.fail(command, `it is empty; write command = ["program", "argument"]`)
		case g.Command[0] == "":
			v.fail(command, "the program's name is empty; write its path, or a name to find in PATH")
		}
		v.noNUL(command, g.Command...)
	}
}

// ends checks what a built-in worker needs to consume and produce.
func (v *validator) ends(at path, g *Group) {
	if g.Builtin != BuiltinEcho && g.Builtin != BuiltinWordcount {
		return
	}
	consume, produce := at.key("consume"), at.key("produce")
	if v.bad(consume) || v.bad(produce) {
		return
	}
	one := func(p path, list []string) bool {
		if len(list) == 1 {
			return true
		}
		const text = "builtin %q needs exactly one channel here, not %d; write %s = [\"CHANNEL\"]"
		if v.given(p) {
			v.fail(p, text, g.Builtin, len(list), p[2])
		} else {
			v.failTable(at, "builtin %q needs exactly one channel to %s; add %s = [\"CHANNEL\"]", g.Builtin, p[2], p[2])
		}
		return false
	}
	a, b := one(consume, g.Consume), one(produce, g.Produce)
	if a && b && g.Consume[0] == g.Produce[0] {
		v.fail(produce, "builtin %q would feed itself: it consumes %q as well; name another channel", g.Builtin, g.Consume[0])
	}
	for _, end := range []struct {
		path
		list []string
	}{{consume, g.Consume}, {produce, g.Produce}} {
		for _, ch := range v.c.Channels {
			if len(end.list) == 1 && ch.Name == end.list[0] && ch.Kind != KindQueue && slices.Contains(kinds, ch.Kind) {
				v.fail(end.path, "%q is a %s, and builtin %q moves messages from queue to queue; name a queue", ch.Name, ch.Kind, g.Builtin)
			}
		}
	}
}

// total refuses the group with which all groups together become too many, once.
func (v *validator) total(g *Group, sum *int) {
	if g.Count < 1 || g.Count > MaxWorkers || *sum > MaxWorkers {
		return // told already
	}
	if *sum += g.Count; *sum > MaxWorkers {
		v.fail(path{"worker", g.Name, "count"}, "with these %d all groups together have %d workers, and a region has %d at most; lower the counts",
			g.Count, *sum, MaxWorkers)
	}
}

// channels checks that each is declared, and there once.
func (v *validator) channels(p path, list []string) {
	known := v.known
	for i, name := range list {
		switch base, dead := strings.CutSuffix(name, deadSuffix); {
		case slices.Contains(list[:i], name):
			v.fail(p, "%q is there twice; remove one", name)
		case slices.Contains(known, name):
		case dead && slices.Contains(known, base):
			v.fail(p, "%q holds the dead letters of %q and is not for workers; name a channel of the configuration", name, base)
		default:
			v.unknown(p, "channel", path{"channel", name}, known)
		}
	}
}

// unknown refuses the name of a channel or a group, which a table would declare, and says which was meant, or what can be done.
func (v *validator) unknown(p path, what string, table path, known []string) {
	known = slices.DeleteFunc(slices.Clone(known), func(s string) bool { return !validName(s) }) // the others are refused themselves
	name := table[1]
	switch near := nearest(name, known); {
	case near != "":
		v.fail(p, "unknown %s %q; did you mean %q?", what, name, near)
	case !validName(name):
		v.fail(p, "%s", badName(name))
	case len(known) == 0:
		v.fail(p, "unknown %s %q; there are none, add a table %s", what, name, table.table())
	default:
		v.fail(p, "unknown %s %q; name one of %s, or add a table %s", what, name, some(known), table.table())
	}
}

// some lists the first of many.
func some(list []string) string {
	const most = 8
	if len(list) > most {
		return strings.Join(list[:most], ", ") + ", …"
	}
	return strings.Join(list, ", ")
}

// reservedEnv is set by the daemon for each worker.
var reservedEnv = []string{"SHMD_FDS", "SHMD_WORKER", "SHMD_REGION"}

func (v *validator) environment(p path, env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at := p.key(name)
		why := ""
		switch {
		case name == "":
			why = "the name is empty; remove it"
		case strings.ContainsAny(name, "=\x00"):
			why = "a name holds neither = nor NUL; rename it"
		case slices.Contains(reservedEnv, name):
			why = "the daemon sets it; remove it"
		case strings.Contains(env[name], "\x00"):
			why = "the value holds a NUL; remove it"
		default:
			continue
		}
		v.errs = append(v.errs, v.c.src.problem(at, "env.%s in %s: %s", bare(name), p[:len(p)-1].table(), why))
	}
}

// users checks a list of users ("alice", "1000"), groups ("@ops") and "*".
func (v *validator) users(p path, list []string) {
	for _, who := range list {
		if who == "*" {
			continue
		}
		if why := badUser(strings.TrimPrefix(who, "@")); why != "" {
			v.fail(p, `%q: %s; write a user as "alice", a group as "@ops", everybody as "*"`, who, why)
		}
	}
}

// badUser says why s cannot name a user or a group; "" if it can.
func badUser(s string) string {
	switch {
	case s == "":
		return "the name is empty"
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(":/@*,", r) }):
		return "the name holds a character that no name has"
	}
	return ""
}

// badName says why s is no name and which one is near.
func badName(s string) string {
	text := fmt.Sprintf("%q is not allowed; %s", s, nameRule)
	if guess := guessName(s); guess != "" {
		text += fmt.Sprintf("; did you mean %q?", guess)
	}
	return text
}

func (v *validator) noNUL(p path, list ...string) {
	for _, s := range list {
		if strings.Contains(s, "\x00") {
			v.fail(p, "%q holds a NUL, which no system call takes; remove it", s)
		}
	}
}

func (v *validator) between(p path, n, lo, hi int) bool {
	if lo <= n && n <= hi {
		return true
	}
	v.fail(p, "%d is out of range; use %d to %d", n, lo, hi)
	return false
}

func (v *validator) size(p path, n, lo, hi int64) bool {
	if lo <= n && n <= hi {
		return true
	}
	v.fail(p, "%s is out of range; use %s to %s", FormatSize(n), FormatSize(lo), FormatSize(hi))
	return false
}

func (v *validator) duration(p path, d, lo time.Duration) bool {
	if lo <= d && d <= maxDuration {
		return true
	}
	v.fail(p, "%s is out of range; use %s to %s", formatDuration(d), formatDuration(lo), formatDuration(maxDuration))
	return false
}

func decimal(n int64) string { return fmt.Sprint(n) }

// power refuses what is no power of two from lo to hi, and names the two nearest of what lies between.
func (v *validator) power(p path, n, lo, hi int64, format func(int64) string) bool {
	switch {
	case n < lo || n > hi:
		v.fail(p, "%s is out of range; use a power of two from %s to %s", format(n), format(lo), format(hi))
	case !isPowerOfTwo(n):
		a, b := nearestPowers(n)
		v.fail(p, "%s is not a power of two; the nearest are %s and %s", format(n), format(a), format(b))
	default:
		return true
	}
	return false
}

// oneOf refuses a word that is none of those there are.
func (v *validator) oneOf(p path, s string, known ...string) {
	if slices.Contains(known, s) {
		return
	}
	if guess := nearest(s, known); guess != "" {
		v.fail(p, "unknown %s %q; did you mean %q?", p[len(p)-1], s, guess)
		return
	}
	are := "are"
	if len(known) == 1 {
		are = "is"
	}
	v.fail(p, "unknown %s %q; there %s %s", p[len(p)-1], s, are, quoted(known))
}
