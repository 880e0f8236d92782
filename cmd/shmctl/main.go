// Command shmctl attaches to a region's memory to look at it and to control it.
package main

import (
	"os"

	"github.com/shmd/shmd/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
