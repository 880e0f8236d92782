package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// atOnce are the keys of a group that hold for the processes that run. All others take a new process.
var atOnce = []string{"count", "restart", "stop_timeout", "ready", "ready_timeout", "backoff_min", "backoff_max", "crash_limit", "crash_window", "watchdog", "on_crash", "after"}

// StartKeys returns key and value of everything in a group's configuration that a process is started with: if any is another, a running process is out of date.
// Values are for comparison.
func StartKeys(g *Group) (all [][2]string) {
	for _, k := range shownKeys(g) {
		if !slices.Contains(atOnce, k.name) {
			all = append(all, [2]string{k.name, k.value})
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
		if name := v.Type().Field(i).Tag.Get("toml"); name != "" {
			all = append(all, shownKey{name, show(v.Field(i))})
		}
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
