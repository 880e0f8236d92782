package cli

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shmd/shmd/internal/config"
)

// allOfThem has the help show no default for a count below which a verb does not end: -1 stands for that here, and is refused from people.
func allOfThem(f *pflag.Flag) { f.DefValue = "0" }

// noEmptyPath refuses a path that was given as "", which is a variable of a script that is not set: what holds without the flag is not what was meant.
func noEmptyPath(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if what, _ := pflag.UnquoteUsage(f); f.Value.String() == "" && slices.Contains([]string{"path", "file"}, strings.ToLower(what)) {
			err = usagef("--%s: the path is empty; give one, or leave the flag out", f.Name)
		}
	})
	return err
}

// flagError says of a value that a flag does not take what it does take: the error of strconv or time, which the flag's type gives, is
// for programmers. What our own types of flags say stays as it is.
func flagError(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return usageError{err}
	}
	f, value := invalid.GetFlag(), invalid.GetValue()
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	what := ""
	switch f.Value.Type() {
	case "duration":
		if _, err := time.ParseDuration(value); err != nil {
			return usagef("%s: %w", name, config.DurationError(value))
		}
	case "uint64":
		what = "a whole number, 0 or more"
	case "int", "int64":
		what = "a whole number"
	case "float64":
		what = "a number"
	case "bool":
		what = "true or false, or the flag alone"
	}
	switch {
	case what == "":
		return usageError{err}
	case errors.Is(invalid, strconv.ErrRange):
		return usagef("%s %s: this is more than a number of 64 bits; give %s", name, cut(value), what)
	}
	return usagef("%s %s: give %s", name, cut(value), what)
}
