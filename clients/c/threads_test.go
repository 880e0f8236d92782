package c_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/shmd/shmd/pkg/protocol"
)

// segment makes a segment in a file and returns the file.
func segment(t *testing.T, name string, size int64, make_ func(b []byte, h protocol.Header) error) *os.File {
	t.Helper()
	b := make([]byte, size)
	if err := make_(b, protocol.Header{Name: name, Region: "c", Generation: 1, Created: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// The worker in C beside a daemon and an operator, under the thread sanitizer: no race, and one that is put in on purpose is reported.
func TestThreads(t *testing.T) {
	depend(t, "*.h", "*.c", "../../examples/c/*.c")
	program := filepath.Join(t.TempDir(), "test_threads")
	run(t, "gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fsanitize=thread", "-I.", "-o", program, "test_threads.c", "-lpthread")
	for _, c := range []struct {
		args  []string
		races bool
	}{{nil, false}, {[]string{"race"}, true}} {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			config, group := protocol.RosterConfig{Segments: 3, Groups: 1, Workers: 2, Attachments: 8, Dir: "/run/shmd"}, protocol.GroupConfig{Instances: 2, Metrics: 4, LogSize: protocol.MinInstanceLog}
			files := []*os.File{
				segment(t, "roster", protocol.RosterSize(config), func(b []byte, h protocol.Header) error {
					r, err := protocol.FormatRoster(b, h, config)
					for i := range 2 {
						if err == nil {
							err = r.SetWorker(i, protocol.Worker{Name: fmt.Sprintf("c.%d", i), Instance: i, Since: time.Unix(1, 0)})
						}
					}
					return err
				}),
				segment(t, "command", protocol.CommandSize(1, 2), func(b []byte, h protocol.Header) error {
					_, err := protocol.FormatCommand(b, h, 1, 2)
					return err
				}),
				segment(t, "group", protocol.GroupSize(group), func(b []byte, h protocol.Header) error {
					_, err := protocol.FormatGroup(b, h, group)
					return err
				}),
			}
			// Without address space randomisation: the sanitizer does not know all places where a newer kernel puts things.
			cmd := exec.Command("setarch", append([]string{"-R", program}, c.args...)...)
			cmd.ExtraFiles = files
			var errs bytes.Buffer
			cmd.Stderr = &errs
			err := cmd.Run()
			raced := bytes.Contains(errs.Bytes(), []byte("WARNING: ThreadSanitizer: data race"))
			if raced != c.races || (err != nil) != c.races {
				t.Errorf("race reported: %v, want %v; %v\n%.3000s", raced, c.races, err, errs.String())
			}
		})
	}
}

// The reader of golden segments, under the sanitizers of addresses and of undefined behaviour.
func TestGoldenSanitized(t *testing.T) {
	depend(t, "*.h", "*.c", filepath.Join(golden, "*.bin"))
	reader := filepath.Join(t.TempDir(), "test_golden")
	run(t, "gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I.", "-o", reader, "test_golden.c")
	files, err := filepath.Glob(filepath.Join(golden, "*.bin"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d golden segments in %s (%v)", len(files), golden, err)
	}
	for _, file := range files {
		run(t, reader, file)
	}
}
