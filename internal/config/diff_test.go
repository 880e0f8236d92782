package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const diffBase = `
[region]
name = "web"
[channel.jobs]
slots = 64
[channel.lane]
producers = 1
consumers = 1
[channel.old]
[worker.a]
command = ["true"]
consume = ["jobs"]
produce = ["lane"]
env = { TOKEN = "secret" }
[worker.b]
builtin = "idle"
count = 2
consume = ["jobs"]
`

func TestDiff(t *testing.T) {
	for _, c := range []struct {
		name string
		edit []string // pairs
		want []string // action table: text
	}{
		{"nothing", nil, nil},
		{"order and spelling", []string{"count = 2\nconsume = [\"jobs\"]", "consume = [\"jobs\"]\ncount = 0x2"}, nil},
		{"at once", []string{"builtin = \"idle\"", "builtin = \"idle\"\nrestart = \"never\"\nstop_timeout = \"10s\""}, []string{`apply [worker.b]: restart "always" → "never"; stop_timeout "5s" → "10s"`}},
		{"count", []string{"count = 2", "count = 3"}, []string{"scale [worker.b]: count 2 → 3"}},
		{"command", []string{`command = ["true"]`, `command = ["true", "x"]`}, []string{`restart [worker.a]: command ["true"] → ["true", "x"]`}},
		{"wait", []string{`consume = ["jobs"]`, "consume = [\"jobs\"]\nwait = \"spin\""}, []string{`restart [worker.a]: wait "adaptive" → "spin"`}},
		{"a secret is not shown", []string{`"secret"`, `"other"`}, []string{"restart [worker.a]: env"}},
		{"several of one group", []string{`command = ["true"]`, "command = [\"false\"]\ncount = 1\nready_timeout = \"1s\"\nuser = \"nobody\""},
			[]string{`apply [worker.a]: ready_timeout "30s" → "1s"`, `restart [worker.a]: command ["true"] → ["false"]; user "" → "nobody"`}},
		{"channel added and used", []string{"[channel.old]", "[channel.old]\n[channel.new]\nkind = \"latest\"\nslot_size = \"1KiB\"", `consume = ["jobs"]`, `consume = ["jobs", "new"]`},
			[]string{`add [channel.new]: latest, slots = 8, slot_size = "1KiB"`, `restart [worker.a]: consume ["jobs"] → ["jobs", "new"]`}},
		{"channel removed", []string{"[channel.old]\n", ""}, []string{"remove [channel.old]: when nobody uses it and it is empty"}},
		{"group added", []string{"[worker.b]", "[worker.c]\nbuiltin = \"idle\"\ncount = 5\n[worker.b]"}, []string{"add [worker.c]: count = 5"}},
		{"group removed", []string{"[worker.b]\nbuiltin = \"idle\"\ncount = 2\nconsume = [\"jobs\"]\n", ""}, []string{"remove [worker.b]: its workers quit"}},
		{"geometry", []string{"slots = 64", "slots = 128\nkind = \"call\""},
			[]string{`impossible [channel.jobs]: kind "queue" → "call"; slots 64 → 128; dead_slots 64 → 0; on_server_death "" → "retry": its memory was made so`}},
		{"grants", []string{"slots = 64", "slots = 64\nallow_produce = [\"*\"]"}, []string{`apply [channel.jobs]: allow_produce [] → ["*"], for who attaches`}},
		{"region", []string{`name = "web"`, "name = \"shop\"\nmlock = true\nmax_attachments = 2000\ndumps = 1"},
			[]string{"impossible [region]: max_attachments 1024 → 2000: the table", `impossible [region]: name "web" → "shop": another name`, "apply [region]: dumps 3 → 1", "impossible [region]: mlock false → true: the memory"}},
		{"fewer attachments", []string{`name = "web"`, "name = \"web\"\nmax_attachments = 10"}, []string{"apply [region]: max_attachments 1024 → 10"}},
		{"access", []string{"[channel.jobs]", "[access]\noperate = [\"@ops\"]\n[channel.jobs]"}, []string{`apply [access]: operate [] → ["@ops"]`}},
		{"metrics", []string{"[channel.jobs]", "[metrics]\nlisten = \"127.0.0.1:9100\"\n[channel.jobs]"}, []string{"impossible [metrics]: it is read when the daemon starts"}},
		{"metric rows", []string{"count = 2", "count = 2\nmetrics = 7"}, []string{"impossible [worker.b]: metrics 48 → 7: its segment was made so"}},
		{"the one producer is another", []string{`produce = ["lane"]`, ``, "[worker.b]", "[worker.p]\nbuiltin = \"idle\"\nproduce = [\"lane\"]\n[worker.b]"},
			[]string{`impossible [channel.lane]: it has one producer, and that is to be group "p" instead of "a"`, `restart [worker.a]: produce ["lane"] → []`, "add [worker.p]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parse := func(text string) *Config {
				t.Helper()
				conf, err := Parse("x.toml", []byte(text))
				if err != nil {
					t.Fatal(err)
				}
				return conf
			}
			old, text := parse(diffBase), diffBase
			for i := 0; i < len(c.edit); i += 2 {
				if !strings.Contains(text, c.edit[i]) {
					t.Fatalf("%q is not there", c.edit[i])
				}
				text = strings.Replace(text, c.edit[i], c.edit[i+1], 1)
			}
			var got []string
			for _, s := range Diff(old, parse(text)) {
				got = append(got, fmt.Sprintf("%s %s: %s", s.Action, s.Table, s.Text))
			}
			ok := len(got) == len(c.want)
			for i := range c.want {
				ok = ok && strings.HasPrefix(got[i], c.want[i])
			}
			if !ok {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

// Every key of a group either holds at once, or makes a running process out of date: none is forgotten.
func TestStartKeys(t *testing.T) {
	for i, k := range shownKeys(&Group{}) {
		var g Group
		if f := field(&g, k.name); f.Kind() == reflect.Map {
			f.Set(reflect.MakeMap(f.Type()))
			f.SetMapIndex(reflect.New(f.Type().Key()).Elem(), reflect.New(f.Type().Elem()).Elem())
		} else if f.Kind() == reflect.Slice {
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		} else if f.Kind() == reflect.Pointer {
			f.Set(reflect.New(f.Type().Elem()))
		} else {
			f.Set(something(f.Type()))
		}
		if shownKeys(&g)[i].value == k.value {
			t.Errorf("%s: what was set is not shown", k.name)
		}
		got := slices.ContainsFunc(StartKeys(&g), func(kv [2]string) bool { return kv[0] == k.name })
		if k.name != "count" && !slices.Contains(inSegment, k.name) && slices.Contains(atOnce, k.name) == got {
			t.Errorf("%s is both or neither", k.name)
		}
	}
	for _, k := range atOnce {
		if !slices.ContainsFunc(shownKeys(&Group{}), func(s shownKey) bool { return s.name == k }) {
			t.Errorf("there is no key %s", k)
		}
	}
}

// What the hash of a group is made of has only keys that say something: the next release may have more of them, and must not restart every worker.
func TestStartKeysLeaveOutWhatSaysNothing(t *testing.T) {
	t.Parallel()
	got := StartKeys(&Group{Name: "web", Count: 3, Builtin: "idle", Consume: []string{"jobs"}, Produce: []string{}, Env: map[string]string{}})
	if want := [][2]string{{"builtin", `"idle"`}, {"consume", `["jobs"]`}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// field is the field of a key.
func field(g *Group, key string) reflect.Value {
	v := reflect.ValueOf(g).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("toml") == key {
			return v.Field(i)
		}
	}
	panic(key)
}

// something is a value that is not zero.
func something(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.SetInt(7)
	}
	return v
}
