package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	toml "github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// key is one key that a table knows.
type key struct {
	name  string
	index int // of the field
	typ   reflect.Type
}

// keysOf returns the keys of a struct, from its toml tags, in their order.
func keysOf(t reflect.Type) []key {
	var ks []key
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("toml"); name != "" {
			ks = append(ks, key{name, i, t.Field(i).Type})
		}
	}
	return ks
}

func keyNames(t reflect.Type) []string {
	var names []string
	for _, k := range keysOf(t) {
		names = append(names, k.name)
	}
	return names
}

// tables are the tables of the file, by the first part of their name.
var tables = map[string]struct {
	title string // for people
	typ   reflect.Type
}{
	"region":  {"[region]", reflect.TypeFor[Region]()},
	"channel": {"[channel.NAME]", reflect.TypeFor[Channel]()},
	"worker":  {"[worker.NAME]", reflect.TypeFor[Group]()},
	"access":  {"[access]", reflect.TypeFor[Access]()},
	"metrics": {"[metrics]", reflect.TypeFor[Metrics]()},
}

// tableNames are the keys of tables, in the order in which people write them.
var tableNames = keyNames(reflect.TypeFor[Config]())

// typeName says in docs and errors what a key of this type takes.
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[string]():
		return "string"
	case reflect.TypeFor[int]():
		return "integer"
	case reflect.TypeFor[int64]():
		return "size"
	case reflect.TypeFor[bool]():
		return "boolean"
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[[]string]():
		return "strings"
	case reflect.TypeFor[map[string]string]():
		return "table of strings"
	case reflect.TypeFor[Limits]():
		return "table of limits"
	}
	panic("config: no TOML type for " + t.String())
}

// wanted says in errors what a key of this type takes, with its article.
var wanted = map[string]string{
	"string":           "a string",
	"integer":          "an integer",
	"size":             `a size such as "4KiB", or an integer of bytes`,
	"boolean":          "true or false",
	"duration":         `a duration such as "5s"`,
	"strings":          "an array of strings",
	"table of strings": "a table of strings",
	"table of limits":  `a table of limits such as { nofile = 4096, core = "unlimited" }`,
}

// decoder fills a Config from the tree, notes where each key stands, and goes on after a problem.
type decoder struct {
	src  *source
	errs Errors
}

func (d *decoder) fail(sp span, format string, args ...any) {
	d.errs = append(d.errs, d.src.at(sp, format, args...))
}

func (d *decoder) root(root *node, c *Config) {
	for _, n := range root.kids {
		t, known := tables[n.key]
		if !known {
			d.unknownTable(n)
			continue
		}
		d.src.where[n.key] = place{key: n.at}
		switch {
		case n.kind == unstable.ArrayTable:
			d.fail(n.at, "write %s in single brackets, not [[%s]]", t.title, n.key)
		case !n.isTable():
			d.fail(n.at, "%s must be a table, not %s; write %s and its keys below", n.key, describe(n), t.title)
		case n.key == "region":
			d.table(n, []string{n.key}, reflect.ValueOf(&c.Region).Elem())
		case n.key == "access":
			d.table(n, []string{n.key}, reflect.ValueOf(&c.Access).Elem())
		case n.key == "metrics":
			d.table(n, []string{n.key}, reflect.ValueOf(&c.Metrics).Elem())
		case n.key == "channel":
			for _, kid := range d.named(n) {
				ch := defaultChannel(kid.key)
				d.table(kid, []string{n.key, kid.key}, reflect.ValueOf(&ch).Elem())
				ch.kindDefaults(func(key string) bool {
					p, given := d.src.where[join([]string{n.key, kid.key, key})]
					return given && !p.bad
				})
				c.Channels = append(c.Channels, ch)
			}
		case n.key == "worker":
			for _, kid := range d.named(n) {
				g := defaultGroup(kid.key)
				d.table(kid, []string{n.key, kid.key}, reflect.ValueOf(&g).Elem())
				if _, given := d.src.where[join([]string{n.key, kid.key, "crash_window"})]; !given {
					g.roomForCrashes()
				}
				c.Groups = append(c.Groups, g)
			}
		}
	}
}

// named returns the tables within [channel] or [worker], and refuses what else is there.
func (d *decoder) named(n *node) []*node {
	t := tables[n.key]
	var ok []*node
	for _, kid := range n.kids {
		switch {
		case kid.kind == unstable.ArrayTable:
			d.fail(kid.at, "write %s in single brackets, not [%[1]s]", header([]string{n.key, kid.key}))
		case kid.isTable():
			ok = append(ok, kid)
		case nearestKey(kid.key, keyNames(t.typ)) != "":
			d.fail(kid.at, "%q stands in [%s], which holds tables only; put it below a header %s", kid.key, n.key, t.title)
		default:
			d.fail(kid.at, "%s.%s must be a table, not %s; write %s and its keys below", n.key, bare(kid.key), describe(kid), header([]string{n.key, kid.key}))
		}
	}
	return ok
}

// unknownTable refuses a key of the top level.
func (d *decoder) unknownTable(n *node) {
	what, at := "table", ""
	if !n.isTable() {
		what, at = "key", " at the top of the file"
		for _, name := range tableNames {
			if t := tables[name]; slices.Contains(keyNames(t.typ), n.key) {
				d.fail(n.at, "unknown key %q%s; it belongs below a header %s", n.key, at, t.title)
				return
			}
		}
	}
	if guess := nearestKey(n.key, tableNames); guess != "" {
		d.fail(n.at, "unknown %s %q%s; did you mean %q?", what, n.key, at, guess)
		return
	}
	d.fail(n.at, "unknown %s %q%s; there are %s", what, n.key, at, titles())
}

func titles() string {
	var ts []string
	for _, name := range tableNames {
		ts = append(ts, tables[name].title)
	}
	return strings.Join(ts, ", ")
}

// table fills a struct.
func (d *decoder) table(n *node, path []string, dst reflect.Value) {
	d.src.where[join(path)] = place{key: n.at}
	title := header(path)
	known := keysOf(dst.Type())
next:
	for _, kid := range n.kids {
		for _, k := range known {
			if k.name == kid.key {
				ok := d.value(kid, title, k, dst.Field(k.index))
				d.src.where[join(append(path[:len(path):len(path)], k.name))] = place{kid.at, !ok}
				if k.typ.Kind() == reflect.Map {
					for _, e := range kid.kids {
						d.src.where[join(append(path[:len(path):len(path)], k.name, e.key))] = place{key: e.at}
					}
				}
				continue next
			}
		}
		d.unknownKey(kid, title, dst.Type())
	}
}

// header writes the header of a table as it stands in the file.
func header(path []string) string {
	var parts []string
	for _, p := range path {
		parts = append(parts, bare(p))
	}
	return "[" + strings.Join(parts, ".") + "]"
}

// bare quotes a key that needs quotes.
func bare(key string) string {
	for _, r := range key {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
			return strconv.Quote(key)
		}
	}
	if key == "" {
		return `""`
	}
	return key
}

// unknownKey refuses a key of a table and names the one that was meant.
func (d *decoder) unknownKey(n *node, title string, t reflect.Type) {
	names := keyNames(t)
	if n.isTable() && t == tables["channel"].typ && deadSuffix == "."+n.key {
		d.fail(n.at, "%s cannot be declared: the daemon makes it for the dead letters; set dead_slots in %s", bare(n.key), title)
		return
	}
	if guess := nearestKey(n.key, names); guess != "" {
		d.fail(n.at, "unknown key %q in %s; did you mean %q?", n.key, title, guess)
		return
	}
	for _, other := range tableNames {
		if o := tables[other]; slices.Contains(keyNames(o.typ), n.key) {
			d.fail(n.at, "unknown key %q in %s; it belongs below a header %s", n.key, title, o.title)
			return
		}
	}
	d.fail(n.at, "unknown key %q in %s; there are %s", n.key, title, strings.Join(names, ", "))
}

// value fills one field. It returns false, and leaves the default, if it refused the value.
func (d *decoder) value(n *node, title string, k key, dst reflect.Value) bool {
	refuse := func(format string, args ...any) bool {
		d.fail(n.at, "%s in %s: %s", k.name, title, fmt.Sprintf(format, args...))
		return false
	}
	want := typeName(k.typ)
	mismatch := func() bool {
		hint := ""
		if h := repair(want, k.name, n); h != "" {
			hint = "; write " + h
		}
		return refuse("must be %s, not %s%s", wanted[want], describe(n), hint)
	}
	switch {
	case want == "string" && n.kind == unstable.String:
		dst.SetString(n.text)
	case want == "boolean" && n.kind == unstable.Bool:
		dst.SetBool(n.text == "true")
	case (want == "integer" || want == "size") && n.kind == unstable.Integer:
		i, err := parseInteger(n.text)
		if err != nil {
			return refuse("%v", err)
		}
		dst.SetInt(i)
	case want == "size" && n.kind == unstable.String:
		i, err := ParseSize(n.text)
		if err != nil {
			return refuse("%v", err)
		}
		dst.SetInt(i)
	case want == "duration" && n.kind == unstable.String:
		i, err := ParseDuration(n.text)
		if err != nil {
			return refuse("%v", err)
		}
		dst.SetInt(int64(i))
	case want == "strings" && n.kind == unstable.Array:
		list := make([]string, 0, len(n.elems))
		for i, e := range n.elems {
			if e.kind != unstable.String {
				hint := ""
				if e.text != "" {
					hint = fmt.Sprintf("; write %q", e.text)
				}
				return refuse("must be %s, but element %d is %s%s", wanted[want], i+1, describe(e), hint)
			}
			list = append(list, e.text)
		}
		dst.Set(reflect.ValueOf(list))
	case want == "table of strings" && n.isTable() && n.kind != unstable.ArrayTable:
		m := make(map[string]string, len(n.kids))
		ok := true
		for _, e := range n.kids {
			if e.kind != unstable.String {
				hint := ""
				if e.text != "" {
					hint = fmt.Sprintf("; write %q", e.text)
				}
				d.fail(e.at, "%s.%s in %s: must be a string, not %s%s", k.name, bare(e.key), title, describe(e), hint)
				ok = false
				continue
			}
			m[e.key] = e.text
		}
		dst.Set(reflect.ValueOf(m))
		return ok
	case want == "table of limits" && n.isTable() && n.kind != unstable.ArrayTable:
		m := make(Limits, len(n.kids))
		ok := true
		for _, e := range n.kids {
			limit, err := limitOf(e)
			if err != nil {
				d.fail(e.at, "%s.%s in %s: %v", k.name, bare(e.key), title, err)
				ok = false
				continue
			}
			m[e.key] = limit
		}
		dst.Set(reflect.ValueOf(m))
		return ok
	default:
		return mismatch()
	}
	return true
}

// limitOf reads the value of a limit.
func limitOf(n *node) (int64, error) {
	switch {
	case n.kind == unstable.Integer:
		limit, err := parseInteger(n.text)
		if err == nil && limit < 0 { // Unlimited is one of these, and is not for the file
			err = errors.New("it is below 0; write \"unlimited\" for none")
		}
		return limit, err
	case n.kind == unstable.String && n.text == "unlimited":
		return Unlimited, nil
	case n.kind == unstable.String:
		return ParseSize(n.text)
	}
	return 0, fmt.Errorf("must be an integer, a size such as \"64MiB\", or \"unlimited\", not %s", describe(n))
}

// parseInteger reads an integer as go-toml reads it.
func parseInteger(text string) (int64, error) {
	var v struct{ V int64 }
	if err := toml.Unmarshal([]byte("V = "+text), &v); err != nil {
		if _, is := strconv.ParseInt(text, 0, 64); errors.Is(is, strconv.ErrRange) {
			return 0, errors.New("the number has more than 63 bits; write a smaller one")
		}
		return 0, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "toml: "))
	}
	return v.V, nil
}

// repair returns what to write for a value of the wrong type, where one can tell; else "".
func repair(want, name string, n *node) string {
	switch {
	case want == "integer" && n.kind == unstable.String:
		if i, err := strconv.ParseInt(strings.TrimSpace(n.text), 10, 64); err == nil {
			return fmt.Sprintf("%s = %d without quotes", name, i)
		}
	case want == "boolean" && (n.kind == unstable.String || n.kind == unstable.Integer):
		switch strings.ToLower(strings.TrimSpace(n.text)) {
		case "true", "yes", "on", "1":
			return name + " = true"
		case "false", "no", "off", "0":
			return name + " = false"
		}
	case want == "string" && n.kind == unstable.Integer:
		return fmt.Sprintf("%s = %q", name, n.text)
	case want == "duration" && (n.kind == unstable.Integer || n.kind == unstable.Float):
		if _, err := ParseDuration(n.text + "s"); err == nil {
			return fmt.Sprintf("%s = %q for seconds", name, n.text+"s")
		}
	case want == "strings" && n.kind == unstable.String:
		if words := strings.Fields(n.text); len(words) > 0 {
			return fmt.Sprintf("%s = [%s]", name, quoted(words))
		}
	}
	return ""
}

// quoted writes words as the elements of a TOML array of strings.
func quoted(words []string) string {
	var qs []string
	for _, w := range words {
		qs = append(qs, strconv.Quote(w))
	}
	return strings.Join(qs, ", ")
}

// describe says what a value is.
func describe(n *node) string {
	short := func(s string) string {
		if r := []rune(s); len(r) > 40 {
			return string(r[:39]) + "…"
		}
		return s
	}
	switch n.kind {
	case unstable.String:
		return fmt.Sprintf("the string %q", short(n.text))
	case unstable.Integer:
		return "the integer " + short(n.text)
	case unstable.Float:
		return "the number " + short(n.text)
	case unstable.Bool:
		return n.text
	case unstable.Array:
		return "an array"
	case unstable.Table, unstable.InlineTable:
		return "a table"
	case unstable.ArrayTable:
		return "an array of tables"
	}
	return "the date or time " + short(n.text)
}
