package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// output is one generated file: its path from the root of the repository, with slashes, and how it is made.
type output struct {
	path string
	emit func(*layout) ([]byte, error)
}

// outputs are all generated files, in the order in which they are written.
var outputs = []output{
	{"pkg/protocol/layout_gen.go", emitGo},
	{"pkg/protocol/layout_gen_unsafe.go", emitGoUnsafe},
	{"clients/c/shmd_layout.h", emitC},
	{"clients/python/shmd/layout.py", emitPython},
	{"docs/layout.md", emitDocs},
}

func main() {
	check := flag.Bool("check", false, "write nothing; exit 1 if a generated file differs from what would be written")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: go run ./internal/genlayout [-check]    (from the root of the repository)")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(".", *check); err != nil {
		fmt.Fprintln(os.Stderr, "genlayout:", err)
		os.Exit(1)
	}
}

// run validates the description and writes the outputs below root, or compares them if check is set.
// A file that is already as it should be is not touched.
func run(root string, check bool) error {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return fmt.Errorf("%s is not the root of the repository (no go.mod): run `go run ./internal/genlayout` there", root)
	}
	l := description()
	if err := l.validate(); err != nil {
		return fmt.Errorf("internal/genlayout/layout.go is refused:\n%w", err)
	}
	var stale []error
	for _, o := range outputs {
		want, err := o.emit(l)
		if err != nil {
			return fmt.Errorf("%s: %w", o.path, err)
		}
		path := filepath.Join(root, filepath.FromSlash(o.path))
		have, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && bytes.Equal(have, want) {
			continue
		}
		if check {
			stale = append(stale, fmt.Errorf("%s is stale: run `go run ./internal/genlayout` and commit the result", o.path))
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
	}
	return errors.Join(stale...)
}
