// Command genman writes what is made of the command lines of shmd and shmctl: their man pages (-dir, which `make install` calls) and docs/cli.md (-cli;
// with -check it only compares). It is a program of its own so that the generator is no part of what every worker execs.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/shmd/shmd/internal/cli"
	"github.com/shmd/shmd/internal/daemon"
)

func main() {
	dir := flag.String("dir", "", "directory to write man pages to")
	page := flag.String("cli", "", "page of all verbs to write")
	check := flag.Bool("check", false, "compare the page, and write nothing")
	flag.Parse()
	if err := run(*dir, *page, *check); err != nil {
		fmt.Fprintln(os.Stderr, "genman:", err)
		os.Exit(1)
	}
}

func run(dir, page string, check bool) error {
	os.Unsetenv("SHMCTL_REGION") // it would be the default of --region
	commands := []*cobra.Command{daemon.Command(os.Stdout, os.Stderr), cli.Command(os.Stdout, os.Stderr)}
	if dir != "" {
		for i, c := range commands {
			c.DisableAutoGenTag = true
			h := &doc.GenManHeader{Title: c.Name(), Section: []string{"8", "1"}[i], Source: "shmd", Manual: "shmd manual"}
			if err := doc.GenManTree(c, h, dir); err != nil {
				return err
			}
		}
	}
	if page == "" {
		return nil
	}
	text := markdown(commands)
	if !check {
		return os.WriteFile(page, text, 0o644)
	}
	if have, err := os.ReadFile(page); err != nil || !bytes.Equal(have, text) {
		return fmt.Errorf("%s is not what the commands say of themselves (%v): make generate", page, err)
	}
	return nil
}

// markdown makes the page.
func markdown(commands []*cobra.Command) []byte {
	var b bytes.Buffer
	b.WriteString("# Command line\n\n<!-- Written by `make generate` from the commands themselves. Do not edit. -->\n\nThe same text is in the man pages and in `--help`.\n\n")
	for _, c := range commands {
		each(c, func(c *cobra.Command, depth int) {
			fmt.Fprintf(&b, "%s* [`%s`](#%s): %s\n", strings.Repeat("  ", depth), c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
		}, 0)
	}
	for _, c := range commands {
		each(c, func(c *cobra.Command, depth int) { describe(&b, c, depth) }, 0)
	}
	return b.Bytes()
}

// each calls fn for a command and what is below it.
func each(c *cobra.Command, fn func(c *cobra.Command, depth int), depth int) {
	fn(c, depth)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
			each(sub, fn, depth+1)
		}
	}
}

func describe(b *bytes.Buffer, c *cobra.Command, depth int) {
	fmt.Fprintf(b, "\n%s %s\n\n", strings.Repeat("#", min(2+depth, 4)), c.CommandPath())
	long := c.Long
	if long == "" {
		long = c.Short
	}
	fmt.Fprintf(b, "```\n%s\n```\n\n```text\n%s\n```\n", c.UseLine(), strings.TrimSpace(long))
	if c.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.TrimSpace(strings.ReplaceAll("\n"+c.Example, "\n  ", "\n")))
	}
	if flags := strings.TrimRight(c.LocalFlags().FlagUsages(), "\n"); flags != "" {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", flags)
	}
}
