package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/dump"
	"github.com/shmd/shmd/internal/verify"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) verifyCommand() *cobra.Command {
	return a.verb(cobra.Command{
		Use:   "verify [live | FILE]",
		Short: "check every invariant of the memory",
		Long: `verify checks every invariant that the documentation states of the region's
memory (live, the default) or of a dump: headers and geometry, the state word
of each slot, who holds it, lengths, positions, the roster's tables, the log.
It prints OK, or each violation with segment, offset and meaning; then the exit
code is 1.

A living region goes on meanwhile; what is a violation is still one at each of
several looks within a quarter of a second. In a dump, rules that tie two words
together are checked only of segments that were at rest when they were copied.

A violation means that a process wrote what it should not have: a bug, or
somebody hostile with write access to that segment. The other segments are as
good as before. End and start the groups that use it, or the region.`,
		Example: `  shmctl verify
  shmctl verify -o json | jq '.violations[]'
  shmctl verify shmd-default-20260102T030405Z.dump`,
	}, func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("verify: give one file, or live, or nothing")
		}
		return nil
	}, func(ctx context.Context, args []string) error {
		if len(args) == 1 && args[0] != "live" {
			return a.verifyDump(ctx, args[0])
		}
		return a.verifyLive(ctx)
	})
}

// violationJSON is a violation in the document of verify.
type violationJSON struct {
	Segment string `json:"segment"`
	Offset  int64  `json:"offset"`
	Rule    string `json:"rule"`
	What    string `json:"what"`
}

// verified is what verify looked at.
type verified struct {
	region     string
	of         string // "live" or the path
	segments   []string
	notChecked map[string]string // why
	violations []protocol.Violation
}

func (a *app) verifyLive(ctx context.Context) error {
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	v := verified{region: s.name(), of: "live", notChecked: map[string]string{}}
	sources, err := a.sources(s, nil)
	if err != nil {
		return err
	}
	var memory []verify.Memory
	for _, src := range sources {
		if src.Missing != "" {
			v.notChecked[src.Name] = src.Missing
			continue
		}
		v.segments = append(v.segments, src.Name)
		memory = append(memory, verify.Memory{Name: src.Name, Bytes: s.segments[src.Name].Bytes()})
	}
	v.violations = verify.Lasting(memory)
	return a.verdict(v)
}

func (a *app) verifyDump(ctx context.Context, path string) error {
	d, err := dump.Open(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("verify: %w; it takes the file of a dump (shmctl dump), or live, the default; /dev/stdin is what a pipe gives", err)
	}
	if err != nil {
		return explain(err, path+" has not been read to its end")
	}
	v := verified{region: d.Region, of: path, notChecked: map[string]string{}}
	var memory []verify.Memory
	for _, g := range d.Segments {
		if g.Missing != "" {
			v.notChecked[g.Name] = g.Missing
			continue
		}
		v.segments = append(v.segments, g.Name)
		memory = append(memory, verify.Memory{Name: g.Name, Bytes: d.Bytes(g.Name), Copy: g.Moving})
	}
	v.violations = verify.Region(memory)
	if len(memory) == 0 {
		return fmt.Errorf("verify: %s has no segment that could be checked", path)
	}
	return a.verdict(v)
}

// verdict prints what was found.
func (a *app) verdict(v verified) error {
	if a.json() {
		doc := struct {
			Schema     int               `json:"schema"`
			Region     string            `json:"region"`
			Of         string            `json:"of"`
			OK         bool              `json:"ok"`
			Segments   []string          `json:"segments"`
			NotChecked map[string]string `json:"not_checked"`
			Violations []violationJSON   `json:"violations"`
		}{schema, v.region, v.of, len(v.violations) == 0, v.segments, v.notChecked, []violationJSON{}}
		for _, w := range v.violations {
			doc.Violations = append(doc.Violations, violationJSON(w))
		}
		if err := a.printJSON(doc); err != nil {
			return err
		}
	} else if len(v.violations) == 0 {
		if _, err := fmt.Fprintf(a.stdout, "OK: %s of region %s\n", count(len(v.segments), "segment"), v.region); err != nil {
			return err
		}
	} else {
		t := a.newTable("SEGMENT", "OFFSET", "RULE", "WHAT")
		for _, w := range v.violations {
			t.add(w.Segment, fmt.Sprintf("%#x", w.Offset), cell{w.Rule, red}, w.What)
		}
		if err := t.print(); err != nil {
			return err
		}
	}
	for name, why := range v.notChecked {
		a.warn("segment %q was not checked: %s", name, why)
	}
	if len(v.violations) == 0 {
		return nil
	}
	a.always("%s in %s: what a segment's processes wrote is not what the protocol allows; end and start those that use it", count(len(v.violations), "violation"), strings.Join(places(v.violations), ", "))
	return errSilent
}

// places are the segments that have violations.
func places(list []protocol.Violation) (names []string) {
	seen := map[string]bool{}
	for _, v := range list {
		if !seen[v.Segment] {
			names = append(names, fmt.Sprintf("%q", v.Segment))
		}
		seen[v.Segment] = true
	}
	return names
}
