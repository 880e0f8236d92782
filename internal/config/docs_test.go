package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDocs holds docs/configuration.md to the code: each key of each table with its type and
// default, in the code's order, and no other.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	ch := defaultChannel("x")
	ch.kindDefaults(func(string) bool { return false })
	ch.Overflow, ch.Subscribers = defaultChannel("x").Overflow, defaultChannel("x").Subscribers // topics'
	defaults := map[string]reflect.Value{
		"region":  reflect.ValueOf(defaultRegion()),
		"channel": reflect.ValueOf(ch),
		"worker":  reflect.ValueOf(defaultGroup("x")),
		"access":  reflect.ValueOf(Access{}),
		"metrics": reflect.ValueOf(Metrics{}),
	}
	if got, want := slices.Sorted(maps.Keys(defaults)), slices.Sorted(slices.Values(tableNames)); !slices.Equal(got, want) {
		t.Fatalf("tables %v, want %v", got, want)
	}
	for _, name := range tableNames {
		title := "## `" + tables[name].title + "`\n"
		_, section, ok := strings.Cut(string(text), title)
		if !ok {
			t.Errorf("no heading %q", title)
			continue
		}
		section, _, _ = strings.Cut(section, "\n## ")
		var got []string
		for line := range strings.Lines(section) {
			cells := strings.Split(strings.Trim(line, "| \n"), " | ")
			if !strings.HasPrefix(line, "| `") {
				continue
			}
			if len(cells) != 5 || cells[3] == "" || cells[4] == "" {
				t.Errorf("%d cells, want key, type, default, meaning, errors: %s", len(cells), line)
				continue
			}
			got = append(got, strings.Join(cells[:3], " | "))
		}
		var want []string
		for _, k := range keysOf(tables[name].typ) {
			want = append(want, fmt.Sprintf("`%s` | %s | %s", k.name, typeName(k.typ), docDefault(name, k, defaults[name].Field(k.index))))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has\n%s\nwant\n%s", tables[name].title, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	for _, word := range slices.Concat(reservedChannels, reservedEnv, []string{BuiltinEcho, BuiltinIdle, BuiltinWordcount, RestartAlways, RestartNever, RestartOnFailure, ReadyExec, ReadyCall, AckOutput, AckWritten, DelimiterNewline, DelimiterNUL}, kinds) {
		if !strings.Contains(string(text), "`"+word+"`") && !strings.Contains(string(text), "`\""+word+"\"`") {
			t.Errorf("docs/configuration.md does not name %s", word)
		}
	}
}

// docDefault writes a default as the documentation shall.
func docDefault(table string, k key, v reflect.Value) string {
	switch {
	case table == "channel" && k.name == "dead_slots":
		return "`slots`, at most `1024`"
	case v.IsZero() && (k.typ.Kind() == reflect.String || k.typ.Kind() == reflect.Slice || k.typ.Kind() == reflect.Map):
		return "none"
	}
	switch x := v.Interface().(type) {
	case string:
		return fmt.Sprintf("`%q`", x)
	case int64:
		return fmt.Sprintf("`%q`", FormatSize(x))
	case time.Duration:
		return fmt.Sprintf("`%q`", formatDuration(x))
	}
	return fmt.Sprintf("`%v`", v.Interface())
}
