// Package c_test compiles the C client's files and runs their tests.
package c_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const golden = "../../pkg/protocol/testdata/golden"

// run runs a command and returns what it wrote to standard output. A compiler that is missing is a failure: these
// tests never skip.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v; install it (Debian: apt-get install gcc g++)", err)
	}
	var out, errs bytes.Buffer
	c := exec.Command(path, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String()
}

// depend opens what only the compiler and the reader open, so that the go command does not take an old result from
// its cache after a change.
func depend(t *testing.T, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no file %s (%v)", pattern, err)
		}
		for _, file := range files {
			if _, err := os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The C reader must print of each golden segment exactly what its JSON says: every field of every row.
func TestGolden(t *testing.T) {
	depend(t, "*.h", "*.c", filepath.Join(golden, "*.bin"))
	reader := filepath.Join(t.TempDir(), "test_golden")
	run(t, "gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-I.", "-o", reader, "test_golden.c")
	files, err := filepath.Glob(filepath.Join(golden, "*.json"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d golden segments in %s (%v)", len(files), golden, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".json")
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := flatten(t, file)
			got := strings.Split(strings.TrimSuffix(run(t, reader, name+".bin"), "\n"), "\n")
			slices.Sort(got)
			for _, l := range want {
				if _, ok := slices.BinarySearch(got, l); !ok {
					t.Errorf("the JSON has, C does not print: %s", l)
				}
			}
			for _, l := range got {
				if _, ok := slices.BinarySearch(want, l); !ok {
					t.Errorf("C prints, the JSON does not have: %s", l)
				}
			}
		})
	}
}

// A segment whose offsets leave it must be refused, not followed.
func TestGoldenRefusesDamage(t *testing.T) {
	depend(t, "*.h", "*.c")
	reader := filepath.Join(t.TempDir(), "test_golden")
	run(t, "gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-I.", "-o", reader, "test_golden.c")
	b, err := os.ReadFile(filepath.Join(golden, "queue.bin"))
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(b)
	newer[12]++ // the minor version
	file := filepath.Join(t.TempDir(), "newer.bin")
	if err := os.WriteFile(file, newer, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, reader, file) // is accepted
	for _, c := range []struct {
		what string
		at   int
	}{{"magic", 0}, {"major version", 8}, {"incompat", 24}, {"segment_size", 40}, {"slots_offset", 256 + 16 + 5}} {
		damaged := bytes.Clone(b)
		damaged[c.at] ^= 0x7f
		file := filepath.Join(t.TempDir(), "damaged.bin")
		if err := os.WriteFile(file, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(reader, file)
		cmd.Run() // its exit code is what counts
		if code := cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("%s damaged: exit code %d, not 1", c.what, code)
		}
	}
}

// The header must stand alone, without warnings, in C11 and in C++17 and later, and its assertions must hold in both.
func TestHeaderCompiles(t *testing.T) {
	depend(t, "*.h", "*.c")
	const text = `#include "shmd_layout.h"
#include "shmd_layout.h"
#include "shmd.h"
#include "shmd.h"
void logs(struct shmd_worker *w);
void logs(struct shmd_worker *w) { shmd_log(w, SHMD_INFO, "a"); shmd_log(w, SHMD_INFO, "a", shmd_int("i", 1), shmd_str("s", "t")); }
int main(void) { return SHMD_KIND_ROSTER == 1 && SHMD_STATE_OWNER(SHMD_STATE(1, 0, 2, 0xabcd, 3)) == 0xabcd ? 0 : 1; }
`
	file := filepath.Join(t.TempDir(), "include.c")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ compiler, standard string }{{"gcc", "c11"}, {"gcc", "gnu17"}, {"g++", "c++17"}, {"g++", "c++20"}} {
		t.Run(c.standard, func(t *testing.T) {
			language := "c"
			if c.compiler == "g++" {
				language = "c++"
			}
			program := filepath.Join(t.TempDir(), "include")
			library := filepath.Join(t.TempDir(), "shmd.o") // in C11 without GNU's words too
			run(t, "gcc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I.", "-c", "-o", library, "shmd.c")
			run(t, c.compiler, "-x", language, "-std="+c.standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I.", "-o", program, file, "-x", "none", library, "-lpthread")
			run(t, program)
		})
	}
}

// flatten returns a golden segment's JSON as sorted lines STRUCT[ROW].FIELD=VALUE.
func flatten(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Header   map[string]any
		Sections []struct {
			Struct, What string
			Rows         []map[string]any
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	var lines []string
	add := func(name string, row map[string]any) {
		for k, v := range row {
			lines = append(lines, fmt.Sprintf("%s.%s=%v", name, k, v))
		}
	}
	add("SegmentHeader[0]", doc.Header)
	for _, s := range doc.Sections {
		name := s.Struct
		if s.What != "" {
			name += "(" + s.What + ")"
		}
		for i, row := range s.Rows {
			add(fmt.Sprintf("%s[%d]", name, i), row)
		}
	}
	slices.Sort(lines)
	return lines
}
