// Command genman writes the man pages of shmd and shmctl; `make install` calls it. It is a program of its own so that the
// generator is no part of what every worker execs.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/shmd/shmd/internal/cli"
	"github.com/shmd/shmd/internal/daemon"
)

func main() {
	dir := flag.String("dir", ".", "directory to write to")
	flag.Parse()
	for _, page := range []struct {
		command *cobra.Command
		section string
	}{{daemon.Command(os.Stdout, os.Stderr), "8"}, {cli.Command(os.Stdout, os.Stderr), "1"}} {
		page.command.DisableAutoGenTag = true
		h := &doc.GenManHeader{Title: page.command.Name(), Section: page.section, Source: "shmd", Manual: "shmd manual"}
		if err := doc.GenManTree(page.command, h, *dir); err != nil {
			fmt.Fprintln(os.Stderr, "genman:", err)
			os.Exit(1)
		}
	}
}
