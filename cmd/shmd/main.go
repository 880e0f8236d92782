//go:debug updatemaxprocs=0

// Command shmd runs a region: shared memory, and the workers that use it.
//
// The line above: the runtime of an idle process else asks every minute how many CPUs it may use, which a thousand idle workers do not have to.
package main

import (
	"os"

	"github.com/shmd/shmd/internal/daemon"
	"github.com/shmd/shmd/internal/launcher"
)

func main() {
	if code, ok := launcher.Run(); ok { // a re-exec: this process becomes a worker
		os.Exit(code)
	}
	if code, ok := daemon.Guard(); ok {
		os.Exit(code)
	}
	os.Exit(daemon.Main(os.Args[1:], os.Stdout, os.Stderr))
}
