package cli

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/shmd/shmd/internal/dump"
	"github.com/shmd/shmd/internal/outfile"
	"github.com/shmd/shmd/internal/version"
	"github.com/shmd/shmd/pkg/protocol"
)

func (a *app) dumpCommand() *cobra.Command {
	var path, reason string
	c := a.verb(cobra.Command{
		Use:   "dump [-o FILE] [SEGMENT...]",
		Short: "copy the region's memory into a file, for a look later",
		Long: `dump copies the segments of the region, or those that are named and the roster,
into one compressed file, for inspect FILE and verify FILE, here or on another
machine. It works with the daemon dead. Without -o the file is called
shmd-REGION-TIME.dump and lies in this directory; -o - is standard output.
A file that is there is replaced when the new one is whole, the one that a
symbolic link leads to; a device or a pipe is written into.

Nobody is stopped for it: each segment is copied while processes go on. Each
word in the copy is whole; what needs two words may be half of one moment and
half of the next. The file says which segments were at rest.

The file holds the messages of the channels. It is made for its owner alone
(mode 0600). It is a tar archive compressed with zstd: tar --zstd -tf FILE.`,
		Example: `  shmctl dump
  shmctl dump -o /var/tmp/before-restart.dump
  shmctl dump -o - jobs | ssh far "cat > jobs.dump"`,
		ValidArgsFunction: a.complete(func(s *session) []string { return segmentsOf(s, func(protocol.Segment) bool { return true }) }),
	}, anySegments, func(ctx context.Context, names []string) error { return a.dump(ctx, names, path, reason) })
	// It has the name of the flag for all verbs, which chooses a format: there is none to choose here.
	c.Flags().StringVarP(&path, "output", "o", "", "the `file` to write; - is standard output")
	c.Flags().StringVar(&reason, "reason", "shmctl dump", "`text` that is kept in the file")
	return c
}

func anySegments(_ *cobra.Command, args []string) error {
	if slices.Contains(args, "") {
		return usagef("an empty name is no segment")
	}
	return nil
}

func (a *app) dump(ctx context.Context, names []string, path, reason string) error {
	if path == "-" && isatty.IsTerminal(a.stdout.Fd()) {
		return usagef("a dump is no text for a terminal: give -o FILE, or send standard output elsewhere")
	}
	var out *outfile.File
	if path != "" && path != "-" { // first: a descriptor's number is one that the caller gave, and no memory of the region
		var err error
		if out, err = outfile.Create(ctx, path, 0o600); err != nil {
			return err
		}
		defer out.Discard()
		if st, err := out.Stat(); err == nil && st.Mode()&fs.ModeCharDevice != 0 && isatty.IsTerminal(out.Fd()) {
			return usagef("a dump is no text for a terminal: give -o FILE, or send standard output elsewhere")
		}
	}
	s, err := a.open(ctx, false)
	if err != nil {
		return err
	}
	defer s.Close()
	sources, err := a.sources(s, names)
	if err != nil {
		return err
	}
	h, d := s.Roster.Header(), s.Roster.Daemon()
	m := dump.Manifest{Region: h.Region, Generation: fmt.Sprintf("%016x", h.Generation), BootID: fmt.Sprintf("%x", h.BootID), Taken: time.Now().UTC(), Reason: reason,
		By: "shmctl " + version.Version, Layout: fmt.Sprintf("%d.%d", protocol.LayoutMajor, protocol.LayoutMinor),
		Daemon: dump.Daemon{Pid: d.Pid, State: d.State.String(), Version: d.Version, Config: d.Config}}
	if path == "" {
		path = fmt.Sprintf("shmd-%s-%s.dump", h.Region, m.Taken.Format("20060102T150405Z"))
		if out, err = outfile.Create(ctx, path, 0o600); err != nil {
			return err
		}
	}
	if path == "-" {
		out := bufio.NewWriterSize(a.stdout, 1<<16)
		if err := dump.Write(dump.Until(ctx, out), m, sources, a.progress()); err != nil {
			return err
		}
		return out.Flush()
	}
	inPlace := out.InPlace()
	packed, err := dump.WriteTo(ctx, out, m, sources, a.progress())
	switch {
	case err != nil && inPlace:
		return explain(err, "the dump is not finished, and whoever reads "+path+" has a part")
	case err != nil:
		return explain(err, "the dump is not finished, and nothing is left of it")
	}
	copied, total := 0, int64(0)
	for _, src := range sources {
		if src.Missing != "" {
			a.warn("segment %q is not in the dump: %s", src.Name, src.Missing)
			continue
		}
		copied++
		total += src.Size
	}
	if !a.quiet {
		fmt.Fprintf(a.stderr, "shmctl: %s of memory in %s, %s in %s\n", count(copied, "segment"), path, size(packed), size(total))
	}
	if inPlace { // there is no file to name, and standard output may be the dump
		return nil
	}
	_, err = fmt.Fprintln(a.stdout, path)
	return err
}

// sources are the named segments, or all, with the roster first.
func (a *app) sources(s *session, names []string) ([]dump.Source, error) {
	directory, err := s.Roster.Segments()
	if err != nil {
		a.warn("%v", err)
	}
	directory = slices.DeleteFunc(directory, func(g protocol.Segment) bool { return g.Name == "" || g.Damage() != "" }) // the row of one that a reload removed, and what is none
	var known []string
	for _, g := range directory {
		known = append(known, g.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(s.segments)) { // the directory may be damaged
		if !slices.Contains(known, name) {
			directory, known = append(directory, protocol.Segment{Name: name, Inode: s.segments[name].Inode()}), append(known, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("unknown segment %q; there are: %s", name, strings.Join(known, ", "))
		}
	}
	var list []dump.Source
	for _, g := range directory {
		if len(names) > 0 && g.Name != "roster" && !slices.Contains(names, g.Name) {
			continue
		}
		src := dump.Source{Segment: dump.Segment{Name: g.Name, Kind: g.Kind.String(), Size: max(g.Size, 0), Inode: g.Inode}}
		switch seg, err := s.segments[g.Name], s.missing[g.Name]; {
		case seg != nil:
			src.Size, src.R = seg.Size(), seg.File()
		case err != nil:
			src.Missing = err.Error()
		default:
			src.Missing = "the daemon did not hand it out: " + errNotOurs.Error()
		}
		list = append(list, src)
	}
	return list, nil
}

// progress shows how far something is on a terminal's standard error, and returns nil where that is none.
func (a *app) progress() func(done, total int64) {
	if a.quiet || !isatty.IsTerminal(a.stderr.Fd()) {
		return nil
	}
	last := time.Now()
	shown := false
	return func(done, total int64) {
		switch now := time.Now(); {
		case done == total && shown:
			fmt.Fprint(a.stderr, "\r\x1b[K")
		case now.Sub(last) > 200*time.Millisecond && done < total:
			last, shown = now, true
			fmt.Fprintf(a.stderr, "\r\x1b[Kshmctl: %s of %s", size(done), size(total))
		}
	}
}
