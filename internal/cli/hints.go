package cli

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// A hint that names a command must act on the region that the command which prints it was about. So when that was chosen on the command line, each
// "shmctl VERB" in what goes to standard error gets the choice: a hint that is copied without it would act on the region "default".

var commandInText = regexp.MustCompile(`\bshmctl ([a-z]+)\b`)

// choose notes how the region was chosen, for hints.
func (a *app) choose(root *cobra.Command) {
	f := root.PersistentFlags()
	switch {
	case f.Changed("region"):
		a.chosen = "-r " + a.region
	case f.Changed("socket"):
		a.chosen = "-s " + quoteForShell(a.socket)
	default:
		return
	}
	a.verbNames = map[string]bool{}
	for _, c := range root.Commands() {
		a.verbNames[c.Name()] = true
	}
}

// hints puts the choice of the region into the commands in a text.
func (a *app) hints(text string) string {
	if a.chosen == "" {
		return text
	}
	return commandInText.ReplaceAllStringFunc(text, func(s string) string {
		if verb := strings.TrimPrefix(s, "shmctl "); a.verbNames[verb] {
			return "shmctl " + a.chosen + " " + verb
		}
		return s
	})
}

// quoteForShell returns a word of a command line for one of a shell.
func quoteForShell(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@%+,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
