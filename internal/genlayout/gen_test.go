package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The generated files in the tree must be what the description gives: `go run ./internal/genlayout -check`.
func TestOutputsAreCurrent(t *testing.T) {
	if err := run("../..", true); err != nil {
		t.Error(err)
	}
}

// A check names every stale or missing file and writes nothing; a run writes all; another check is clean.
func TestCheckNamesStaleFiles(t *testing.T) {
	root := t.TempDir()
	if err := run(root, true); err == nil || !strings.Contains(err.Error(), "no go.mod") {
		t.Errorf("outside of a repository: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "go.mod"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := run(root, true)
	for _, o := range outputs {
		if err == nil || !strings.Contains(err.Error(), o.path+" is stale") {
			t.Errorf("%s is missing; check says %v", o.path, err)
		}
	}
	if left, _ := os.ReadDir(root); len(left) != 1 {
		t.Errorf("check wrote something: %v", left)
	}
	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Errorf("after a run: %v", err)
	}
	header := filepath.Join(root, "clients/c/shmd_layout.h")
	if err := os.WriteFile(header, []byte("edited by hand"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err == nil || !strings.HasPrefix(err.Error(), "clients/c/shmd_layout.h is stale") || strings.Contains(err.Error(), "\n") {
		t.Errorf("the C header alone was edited; check says %v", err)
	}
}

// Generating twice must give the same bytes: nothing may depend on the order of a map.
func TestOutputsAreDeterministic(t *testing.T) {
	for _, o := range outputs {
		first, err := o.emit(description())
		if err != nil {
			t.Fatalf("%s: %v", o.path, err)
		}
		for range 5 {
			again, err := o.emit(description())
			if err != nil || !bytes.Equal(first, again) {
				t.Fatalf("%s differs from one run to the next (%v)", o.path, err)
			}
		}
	}
}

func TestDescriptionIsValid(t *testing.T) {
	if err := description().validate(); err != nil {
		t.Error(err)
	}
}

// small is a valid description that the cases of TestValidateRefuses break.
func small() *layout {
	return &layout{
		Major: 1, Minor: 0,
		Structs: []Struct{
			{Name: "HeadInfo", Size: 128, Doc: "Head.", Fields: []Field{
				w64("RowOffset", 0, creator, "of the rows"),
				w32("RowCount", 8, creator, "rows"),
				w32("Bell", 12, daemon, "doorbell"),
				text("Name", 16, 16, creator, "name"),
				w64("Beat", 64, instance, "heartbeat"),
			}},
			{Name: "Row", Size: 64, Doc: "Row.", Fields: []Field{w64("Value", 0, daemon, "value")}},
		},
		Consts: []Const{{"Kind", "Roster", 1, ""}, {"Kind", "Log", 5, ""}, {"QueueFlag", "Sparse", 1, ""}},
		Sections: []Section{
			{"roster", "HeadInfo", "256", "", "1", ""},
			{"roster", "Row", "HeadInfo.RowOffset", "64", "HeadInfo.RowCount", ""},
		},
	}
}

func TestValidateRefuses(t *testing.T) {
	if err := small().validate(); err != nil {
		t.Fatalf("the description that the cases break is itself refused: %v", err)
	}
	head := func(l *layout) *Struct { return &l.Structs[0] }
	for name, c := range map[string]struct {
		damage func(l *layout)
		want   string
	}{
		"overlap":               {func(l *layout) { head(l).Fields[1].Offset = 4 }, "HeadInfo.RowCount: offset 4 overlaps the field before, which ends at 8"},
		"overlap of a text":     {func(l *layout) { head(l).Fields[3].Bytes = 56 }, "HeadInfo.Beat: offset 64 overlaps"},
		"out of order":          {func(l *layout) { head(l).Fields[4].Offset = 0 }, "HeadInfo.Beat: offset 0 overlaps"},
		"misaligned u32":        {func(l *layout) { head(l).Fields[1].Offset = 10 }, "HeadInfo.RowCount: offset 10 is misaligned, must be a multiple of 4"},
		"misaligned u64":        {func(l *layout) { head(l).Fields[4].Offset = 68 }, "HeadInfo.Beat: offset 68 is misaligned, must be a multiple of 8"},
		"misaligned text":       {func(l *layout) { head(l).Fields[3].Offset = 20 }, "HeadInfo.Name: offset 20 is misaligned"},
		"u32 of 8 bytes":        {func(l *layout) { head(l).Fields[1].Bytes = 8 }, "HeadInfo.RowCount: u32 of 8 bytes"},
		"u64 of 4 bytes":        {func(l *layout) { head(l).Fields[0].Bytes = 4 }, "HeadInfo.RowOffset: u64 of 4 bytes"},
		"text of 12 bytes":      {func(l *layout) { head(l).Fields[3].Bytes = 12 }, "HeadInfo.Name: text of 12 bytes"},
		"text of no bytes":      {func(l *layout) { head(l).Fields[3].Bytes = 0 }, "HeadInfo.Name: text of 0 bytes"},
		"unknown type":          {func(l *layout) { head(l).Fields[3].Type = "u16" }, `HeadInfo.Name: unknown type "u16"`},
		"beyond the struct":     {func(l *layout) { head(l).Size = 64 }, "HeadInfo.Beat: ends at 72, beyond the struct's size 64"},
		"odd size":              {func(l *layout) { l.Structs[1].Size = 60 }, "Row: size 60 is not a multiple of 8"},
		"no u64":                {func(l *layout) { l.Structs[1].Fields[0] = w32("Value", 0, daemon, "value") }, "Row: has no u64"},
		"field twice":           {func(l *layout) { head(l).Fields[1].Name = "RowOffset" }, "HeadInfo.RowOffset: described twice"},
		"struct twice":          {func(l *layout) { l.Structs[1].Name = "HeadInfo" }, "HeadInfo: described twice"},
		"bad name":              {func(l *layout) { head(l).Fields[1].Name = "row_count" }, "names are CamelCase"},
		"no doc":                {func(l *layout) { head(l).Fields[1].Doc = "" }, "HeadInfo.RowCount: has no Doc"},
		"unknown writer":        {func(l *layout) { head(l).Fields[1].Writer = "somebody" }, `HeadInfo.RowCount: unknown writer "somebody"`},
		"two writers on a line": {func(l *layout) { head(l).Fields[3].Writer = operator }, "HeadInfo.Bell (written by daemon) and HeadInfo.Name (written by operator) lie on the same 64-byte line"},
		"long field across a line": {func(l *layout) {
			head(l).Fields[3].Bytes = 48
			head(l).Fields[4] = w64("Beat", 72, daemon, "x")
			head(l).Fields[3].Offset = 24
			head(l).Fields[3].Writer = instance
		}, "HeadInfo.Name (written by instance) and HeadInfo.Beat (written by daemon)"},
		"two writers in a small struct": {func(l *layout) {
			l.Structs[1].Size = 136 // two rows of it may share a line at any place
			l.Structs[1].Fields = append(l.Structs[1].Fields, w64("Other", 128, operator, "x"))
		}, "Row.Value (written by daemon) and Row.Other (written by operator)"},
		"value twice":      {func(l *layout) { l.Consts[1].Value = 1 }, "Kind.Log: 1 has another name already"},
		"const twice":      {func(l *layout) { l.Consts[1].Name = "Roster" }, "Kind.Roster: described twice"},
		"flag of two bits": {func(l *layout) { l.Consts[2].Value = 3 }, "QueueFlag.Sparse: 3 is not a single bit"},
		"too large":        {func(l *layout) { l.Consts[1].Value = 1 << 32 }, "Kind.Log: 4294967296 does not fit 32 bits"},
		"new group":        {func(l *layout) { l.Consts[1].Group = "Mood" }, "Mood: a new group of constants"},
		"type clash":       {func(l *layout) { l.Structs[1].Name = "Kind" }, "Kind: the Go type Kind is also a struct"},
		"no such kind":     {func(l *layout) { l.Sections[0].Kind = "rooster" }, "no such kind of segment"},
		"no such struct":   {func(l *layout) { l.Sections[1].Struct = "Column" }, "section Column of roster: no such struct"},
		"no such field":    {func(l *layout) { l.Sections[1].Count = "HeadInfo.Rows" }, "count: no field HeadInfo.Rows"},
		"text as count":    {func(l *layout) { l.Sections[1].Count = "HeadInfo.Name" }, "count: HeadInfo.Name is no number"},
		"no number":        {func(l *layout) { l.Sections[1].Count = "many" }, `"many" is neither a number nor STRUCT.FIELD`},
		"narrow stride":    {func(l *layout) { l.Sections[1].Stride = "56" }, "stride 56 is less than the struct's size 64"},
		"odd offset":       {func(l *layout) { l.Sections[0].Offset = "260" }, "offset 260 is no multiple of 8"},
		"floating head":    {func(l *layout) { l.Sections[1].Offset = "Row.Value" }, "Row is not at a fixed place"},
		"version 0":        {func(l *layout) { l.Major = 0 }, "the major version starts at 1"},
	} {
		t.Run(name, func(t *testing.T) {
			l := small()
			c.damage(l)
			if err := l.validate(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("validate says %v, not %q", err, c.want)
			}
		})
	}
}

// The allow list holds only what is needed: each pair exists and would be reported without it.
func TestSharedLinesAreNeeded(t *testing.T) {
	for _, pair := range slices.Collect(maps.Keys(sharedLines)) {
		if sharedLines[pair] == "" {
			t.Errorf("%v: no reason is given", pair)
		}
		name, _, _ := strings.Cut(pair[0], ".")
		s := description().lookup(name)
		if s == nil {
			t.Errorf("%v: there is no struct %s", pair, name)
			continue
		}
		why := sharedLines[pair]
		delete(sharedLines, pair)
		if len(s.validateLines()) == 0 {
			t.Errorf("%v: is not reported without the allow list; remove it", pair)
		}
		sharedLines[pair] = why
	}
}

// The hash follows what decides about memory, and nothing else.
func TestHash(t *testing.T) {
	base := small().hash()
	for name, c := range map[string]struct {
		change  func(l *layout)
		changes bool
	}{
		"nothing": {func(l *layout) {}, false},
		"doc":     {func(l *layout) { l.Structs[0].Fields[0].Doc = "another" }, false},
		"minor":   {func(l *layout) { l.Minor = 1 }, true},
		"offset":  {func(l *layout) { l.Structs[0].Fields[4].Offset = 72 }, true},
		"size":    {func(l *layout) { l.Structs[0].Size = 192 }, true},
		"name":    {func(l *layout) { l.Structs[0].Fields[0].Name = "Other" }, true},
		"value":   {func(l *layout) { l.Consts[0].Value = 9 }, true},
		"section": {func(l *layout) { l.Sections[0].Offset = "512" }, true},
	} {
		l := small()
		c.change(l)
		if got := l.hash() != base; got != c.changes {
			t.Errorf("%s: the hash changed: %v, not %v", name, got, c.changes)
		}
	}
}

func TestNames(t *testing.T) {
	for camel, want := range map[string]string{
		"BootID": "boot_id", "StopTimeoutNs": "stop_timeout_ns", "Pid": "pid", "OnFailure": "on_failure",
		"QueueFlag": "queue_flag", "HTTPPort": "http_port", "Uid": "uid",
	} {
		if got := snake(camel); got != want {
			t.Errorf("snake(%q) = %q, not %q", camel, got, want)
		}
	}
	if got := kebab("OnFailure"); got != "on-failure" {
		t.Errorf(`kebab("OnFailure") = %q`, got)
	}
}

// parts and the pictures of docs/layout.md must cover each struct without a gap.
func TestPartsCoverEachStruct(t *testing.T) {
	for _, s := range Structs {
		at := 0
		for _, p := range s.parts() {
			if p.Offset != at {
				t.Fatalf("%s: a part begins at %d, not %d", s.Name, p.Offset, at)
			}
			at += p.Bytes
		}
		if at != s.Size {
			t.Errorf("%s: the parts end at %d, not %d", s.Name, at, s.Size)
		}
		for _, c := range cells(&s) {
			if c.at%8+c.width > 8 {
				t.Errorf("%s: the cell of %s at %d crosses the end of a row", s.Name, c.label, c.at)
			}
		}
	}
}
