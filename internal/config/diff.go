package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// What a step of a plan does.
const (
	ActionApply      = "apply"      // holds at once
	ActionAdd        = "add"        // is made, while everything runs
	ActionRestart    = "restart"    // takes new processes: the group is restarted by rolling
	ActionScale      = "scale"      // the group gets more or fewer instances
	ActionRemove     = "remove"     // ends, and is gone then
	ActionImpossible = "impossible" // not while the region runs: nothing at all is done
)

// A Step is one thing that has to be done to go from one configuration to another.
type Step struct {
	Action string
	Table  string // as in the file: "[worker.web]"
	Text   string // which keys, from what to what; of an impossible one why, and what to do
}

// atOnce are the keys of a group that hold for the processes that run. All others take a new process.
var atOnce = []string{"restart", "stop_timeout", "ready", "ready_timeout", "backoff_min", "backoff_max", "crash_limit", "crash_window", "watchdog", "on_crash", "after", "log_rate", "log_burst", "cgroup_limits"}

// inSegment are the keys of a group that its segment is made with.
var inSegment = []string{"metrics", "log_size"}

// regionAtOnce and channelAtOnce are the keys of these tables that hold at once. All others are in the memory.
var (
	regionAtOnce  = []string{"max_attachments_per_user", "dumps", "dump_size", "dump_dir"}
	channelAtOnce = []string{"allow_produce", "allow_consume"}
)

// anew is what to do about a change that a running region cannot make.
const anew = "stop the region and start it anew (shmctl stop)"

// Diff says what has to be done to go from one valid configuration to another while the region runs. It only compares: whether a channel that is to go is in
// use, or there is memory for another, it does not know. The order is that of the new file, what is removed comes last.
func Diff(old, new *Config) []Step {
	d := differ{old: old, new: new}
	d.region()
	d.rest()
	for i := range new.Channels {
		d.channel(&new.Channels[i])
	}
	for i := range new.Groups {
		d.group(&new.Groups[i])
	}
	for _, g := range old.Groups {
		if find(new.Groups, func(o Group) bool { return o.Name == g.Name }) == nil {
			d.add(ActionRemove, path{"worker", g.Name}, "its workers quit")
		}
	}
	for _, c := range old.Channels {
		if find(new.Channels, func(o Channel) bool { return o.Name == c.Name }) == nil {
			d.add(ActionRemove, path{"channel", c.Name}, "when nobody uses it and it is empty")
		}
	}
	return d.steps
}

// Never returns those steps from one configuration to another that take another region: its memory is made otherwise.
func Never(old, new *Config) []Step {
	return slices.DeleteFunc(Diff(old, new), func(s Step) bool {
		return s.Action != ActionImpossible || s.Table != (path{"region"}).table() && !strings.HasPrefix(s.Table, "[channel.")
	})
}

type differ struct {
	old, new *Config
	steps    []Step
}

func (d *differ) add(action string, at path, format string, args ...any) {
	d.steps = append(d.steps, Step{action, at.table(), fmt.Sprintf(format, args...)})
}

func (d *differ) region() {
	at := path{"region"}
	if a, b := d.old.Region.MaxAttachments, d.new.Region.MaxAttachments; b > a {
		d.add(ActionImpossible, at, "max_attachments %d → %d: the table of attachments was made for %d; %s", a, b, a, anew)
	}
	var now, never []string
	for _, c := range changes(&d.old.Region, &d.new.Region) {
		switch {
		case c.name == "max_attachments" && d.new.Region.MaxAttachments < d.old.Region.MaxAttachments, slices.Contains(regionAtOnce, c.name):
			now = append(now, c.text)
		case c.name == "name":
			d.add(ActionImpossible, at, "%s: another name is another region, with a daemon of its own", c.text)
		case c.name != "max_attachments":
			never = append(never, c.text)
		}
	}
	if len(now) > 0 {
		d.add(ActionApply, at, "%s", strings.Join(now, "; "))
	}
	if len(never) > 0 {
		d.add(ActionImpossible, at, "%s: the memory was made so; %s", strings.Join(never, "; "), anew)
	}
}

// rest compares the tables that are neither the region nor channels nor groups.
func (d *differ) rest() {
	old, new := reflect.ValueOf(d.old).Elem(), reflect.ValueOf(d.new).Elem()
	for i := range old.NumField() {
		name := old.Type().Field(i).Tag.Get("toml")
		switch {
		case name == "", name == "region", name == "channel", name == "worker", reflect.DeepEqual(old.Field(i).Interface(), new.Field(i).Interface()):
		case name == "access":
			var texts []string
			for _, c := range changes(&d.old.Access, &d.new.Access) {
				texts = append(texts, c.text)
			}
			d.add(ActionApply, path{name}, "%s, for who attaches from now on", strings.Join(texts, "; "))
		default:
			d.add(ActionImpossible, path{name}, "it is read when the daemon starts; shmctl upgrade starts it anew with this file, and restarts no worker")
		}
	}
}

func (d *differ) channel(c *Channel) {
	at := path{"channel", c.Name}
	old := find(d.old.Channels, func(o Channel) bool { return o.Name == c.Name })
	if old == nil {
		d.add(ActionAdd, at, "%s, slots = %d, slot_size = %q", c.Kind, c.Slots, FormatSize(c.SlotSize))
		return
	}
	var now, never []string
	for _, k := range changes(old, c) {
		if slices.Contains(channelAtOnce, k.name) {
			now = append(now, k.text)
		} else {
			never = append(never, k.text)
		}
	}
	if len(now) > 0 {
		d.add(ActionApply, at, "%s, for who attaches from now on", strings.Join(now, "; "))
	}
	if len(never) > 0 {
		d.add(ActionImpossible, at, "%s: its memory was made so, and processes may use it; declare a channel of another name, or %s", strings.Join(never, "; "), anew)
		return
	}
	for _, end := range []struct {
		what  string
		one   bool
		names func(g *Group) []string
	}{
		{"producer", c.Lane() || c.Publishers == 1, func(g *Group) []string { return append(nonEmpty(g.Stdout), g.Produce...) }},
		{"consumer", c.Lane(), func(g *Group) []string { return append(nonEmpty(g.Stdin), g.Consume...) }},
	} {
		if !end.one {
			continue
		}
		a, b := d.holder(d.old, c.Name, end.names), d.holder(d.new, c.Name, end.names)
		if a != "" && b != "" && a != b {
			d.add(ActionImpossible, at, "it has one %s, and that is to be group %q instead of %q: take it from %q first, reload, and then give it to %q", end.what, b, a, a, b)
		}
	}
}

// holder is the group that has an end of a channel.
func (d *differ) holder(c *Config, channel string, names func(g *Group) []string) string {
	if g := find(c.Groups, func(g Group) bool { return slices.Contains(names(&g), channel) }); g != nil {
		return g.Name
	}
	return ""
}

func (d *differ) group(g *Group) {
	at := path{"worker", g.Name}
	old := find(d.old.Groups, func(o Group) bool { return o.Name == g.Name })
	if old == nil {
		d.add(ActionAdd, at, "count = %d", g.Count)
		return
	}
	var now, restart []string
	for _, k := range changes(old, g) {
		switch {
		case k.name == "count":
			d.add(ActionScale, at, "%s", k.text)
		case slices.Contains(inSegment, k.name):
			d.add(ActionImpossible, at, "%s: its segment was made so; %s", k.text, anew)
		case slices.Contains(atOnce, k.name):
			now = append(now, k.text)
		default:
			restart = append(restart, k.text)
		}
	}
	if len(now) > 0 {
		d.add(ActionApply, at, "%s", strings.Join(now, "; "))
	}
	if len(restart) > 0 {
		d.add(ActionRestart, at, "%s", strings.Join(restart, "; "))
	}
}

func find[T any](list []T, is func(T) bool) *T {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return &list[i]
	}
	return nil
}

// StartKeys returns key and value of everything in a group's configuration that a process is started with: if any is another, a running process is out of date.
// Values are for comparison. They are sorted, and a key with nothing in it is not there: a program that has one more key, or has them in another
// order, finds nothing out of date because of it.
func StartKeys(g *Group) (all [][2]string) {
	nothing := shownKeys(&Group{})
	for i, k := range shownKeys(g) {
		if k.value != nothing[i].value && ofStart(k.name) {
			all = append(all, [2]string{k.name, k.value})
		}
	}
	slices.SortFunc(all, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return all
}

// ofStart reports whether a process is started with a key of its group.
func ofStart(key string) bool {
	return key != "count" && !slices.Contains(inSegment, key) && !slices.Contains(atOnce, key)
}

// change is a key whose value is another.
type change struct{ name, text string }

// changes lists the keys that differ between two tables.
func changes[T any](old, new *T) (all []change) {
	a, b := shownKeys(old), shownKeys(new)
	for i := range a {
		switch {
		case a[i].value == b[i].value:
		case a[i].name == "env": // values may be secrets
			all = append(all, change{"env", "env"})
		default:
			all = append(all, change{a[i].name, a[i].name + " " + a[i].value + " → " + b[i].value})
		}
	}
	return all
}

// shownKey is one key of a table, with its value for people.
type shownKey struct{ name, value string }

// shownKeys lists the keys of a table in the order of the struct.
func shownKeys[T any](table *T) (all []shownKey) {
	v := reflect.ValueOf(table).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		if name == "" {
			continue
		}
		value := show(v.Field(i))
		if name == "slot_size" || name == "log_size" || name == "dump_size" {
			value = fmt.Sprintf("%q", FormatSize(v.Field(i).Int()))
		}
		all = append(all, shownKey{name, value})
	}
	return all
}

// show writes a value as the file would.
func show(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return fmt.Sprintf("%q", formatDuration(x))
	case string:
		return fmt.Sprintf("%q", x)
	case []string:
		quoted := make([]string, len(x))
		for i := range x {
			quoted[i] = fmt.Sprintf("%q", x[i])
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}
