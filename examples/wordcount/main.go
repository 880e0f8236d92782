// Wordcount counts the words of all files of a directory with the workers of a shmd region: the main
// example of the project, and what `make run` runs. run.sh starts the region and this program on it.
//
// It attaches as an outsider, cuts the tree into jobs, feeds them to the queue "jobs" and merges what the
// workers put on the queue "results". On the way it kills some of the workers, and the count is exact
// all the same: package internal/wordcount says why.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/shmd/shmd/internal/wordcount"
	"github.com/shmd/shmd/pkg/shm"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage: wordcount [flags] [DIR]

Counts the words of the regular files under DIR (default: the source of the Go installation) with the
workers of the region "wordcount". One run at a time in a region: two would take each other's results.

`

// config is the command line.
type config struct {
	dir    string
	output string // "table" or "json"
	kill   int
	top    int
	keep   bool
	region string
	socket string
	group  string
	report string // write the report there instead of printing it
	finish string // print that report, with the figures of shmctl stop from stdin
	single bool
	check  bool
}

// errUsage is what is wrong with the command line.
type errUsage struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "wordcount:", err)
	if errors.As(err, new(errUsage)) {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	c, err := parse(args, stdout)
	if err != nil {
		return err
	}
	var rep *report
	switch {
	case c.finish != "":
		rep, err = readReport(c.finish, stdin)
	case c.check:
		return checkDir(c.dir)
	case c.single:
		rep, err = single(ctx, c)
	default:
		return pipeline(ctx, c, stdout, stderr)
	}
	if err != nil {
		return err
	}
	return rep.print(stdout, c.output)
}

func parse(args []string, stdout io.Writer) (config, error) {
	c := config{group: "counter"}
	fs := pflag.NewFlagSet("wordcount", pflag.ContinueOnError)
	fs.SetOutput(stdout)
	fs.Usage = func() { fmt.Fprint(stdout, usage, fs.FlagUsages()) }
	fs.StringVarP(&c.output, "output", "o", "table", "how to print the result: table or json")
	fs.IntVar(&c.kill, "kill", 1, "kill `N` workers, spread evenly over the run (one: halfway)")
	fs.IntVar(&c.top, "top", 10, "how many of the most frequent words to print; 0: all")
	fs.BoolVar(&c.keep, "keep", false, "stay attached after the run, until a signal or the end of the region")
	fs.StringVarP(&c.region, "region", "r", "wordcount", "region `NAME`")
	fs.StringVarP(&c.socket, "socket", "s", "", "`PATH` of the daemon's socket (default: the usual place of the region)")
	fs.BoolVar(&c.single, "single", false, "count in this process, on one thread, without a region, and time wc -w on the same files")
	fs.StringVar(&c.report, "report", "", "")
	fs.StringVar(&c.finish, "finish", "", "")
	fs.BoolVar(&c.check, "check", false, "")
	for _, internal := range []string{"report", "finish", "check"} { // of run.sh
		fs.MarkHidden(internal)
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return c, err
	case err != nil:
	case c.output != "table" && c.output != "json":
		err = fmt.Errorf("-o %s: give table or json", c.output)
	case c.kill < 0 || c.top < 0:
		err = errors.New("--kill and --top count: give 0 or more")
	case fs.NArg() > 1:
		err = fmt.Errorf("one directory, not %d: %s", fs.NArg(), strings.Join(fs.Args(), " "))
	}
	if err != nil {
		return c, errUsage{fmt.Errorf("%w; see wordcount --help", err)}
	}
	if c.dir = fs.Arg(0); c.dir == "" && fs.NArg() == 0 {
		c.dir, err = goSource()
	}
	return c, err
}

// goSource is the source of the Go installation: some 100 MB of text that everybody has who builds this.
func goSource() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	root := strings.TrimRight(string(out), "\n")
	if err != nil || root == "" {
		return "", fmt.Errorf("no DIR given and no Go installation to count instead: go env GOROOT: %w", cmp.Or(err, errors.New("says nothing")))
	}
	return filepath.Join(root, "src"), nil
}

// checkDir tells early, before anything is started, what NewPlan would refuse.
func checkDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return cannotRead(err)
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return cannotRead(err)
	}
	return nil
}

func cannotRead(err error) error {
	return fmt.Errorf("cannot read the directory to count: %w; give one that is there and that you may read", err)
}

func plan(ctx context.Context, dir string, slot int) (*wordcount.Plan, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	return wordcount.NewPlan(ctx, dir, slot)
}

// attach opens the region and both queues.
func attach(ctx context.Context, c config) (r *shm.Region, jobs, results *shm.Queue, err error) {
	r, err = shm.Attach(ctx, shm.Options{
		Region: c.region, Socket: c.socket, Name: "wordcount",
		Produce: []string{"jobs"}, Consume: []string{"results"}, Operate: true,
	})
	if errors.Is(err, shm.ErrNoDaemon) || errors.Is(err, shm.ErrDeadSocket) {
		err = fmt.Errorf("%w; start one with shmd -c examples/wordcount/shmd.toml, or run examples/wordcount/run.sh", err)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if jobs, err = r.Queue("jobs"); err == nil {
		results, err = r.Queue("results")
	}
	if err != nil {
		r.Close()
		return nil, nil, nil, err
	}
	return r, jobs, results, nil
}
