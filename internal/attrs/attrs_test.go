package attrs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	raw := Format([]any{"a", 1, "b", "x <y>\n", "err", errors.New("bad"), "d", time.Second, "nil", nil, "list", []string{"p", "q"}, "f", func() {}, "odd"})
	if !json.Valid([]byte("{" + raw + "}")) {
		t.Fatalf("%q is no JSON", raw)
	}
	list, err := Parse(raw + `,"g":{"h":{"i":true},"j":12345678901234567890}`)
	if err != nil {
		t.Fatal(err)
	}
	got := Text(list)
	want := `a=1 b="x <y>\n" err=bad d=1s nil=null list="[\"p\",\"q\"]" f=0x`
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " g.h.i=true g.j=12345678901234567890") {
		t.Errorf("%s\nwant %s…", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", `"a":1`, `"a":{"b":[1,{}]}`, `"a":1}`, `"a":1},{"b":2`, strings.Repeat(`"a":{`, 100), `}{`, `"a":"\ud800"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		list, err := Parse(raw)
		if err == nil && raw != "" && !json.Valid([]byte("{"+raw+"}")) {
			t.Fatalf("accepted %q", raw)
		}
		Text(list)
	})
}
