package cli

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every command has a short and a long help and an example, and every flag says what it does: in one style, for terminals of 80
// columns.
func TestHelpLint(t *testing.T) {
	root := Command(os.Stdout, os.Stderr)
	root.InitDefaultHelpCmd()
	seen := 0
	var lint func(c *cobra.Command)
	lint = func(c *cobra.Command) {
		t.Run(strings.ReplaceAll(c.CommandPath(), " ", "_"), func(t *testing.T) {
			seen++
			phrase(t, "Short", c.Short)
			if c.Short == "" || len(c.Short) > 65 {
				t.Errorf("Short is %q: say in one phrase of at most 65 characters what it does", c.Short)
			}
			if !strings.HasSuffix(strings.TrimSpace(c.Long), ".") && !strings.Contains(c.Long, "\n  ") {
				t.Error("Long is missing, or does not end with a full stop")
			}
			if c != root && c.Name() != "help" && !strings.Contains(c.Long, c.Name()) {
				t.Errorf("Long does not name the command")
			}
			if c.Example == "" {
				t.Error("Example is missing")
			}
			for _, text := range []struct {
				what, text string
				width      int
			}{{"Long", c.Long, 80}, {"Example", c.Example, 100}} {
				for line := range strings.Lines(text.text) {
					if n := len([]rune(strings.TrimRight(line, "\n"))); n > text.width {
						t.Errorf("%s has a line of %d columns: %q", text.what, n, line)
					}
				}
			}
			for line := range strings.Lines(c.Example) {
				if !strings.HasPrefix(line, "  ") || !strings.Contains(line, "shmctl") {
					t.Errorf("Example line %q: indent it by two, and show shmctl", line)
				}
			}
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name == "help" {
					return // cobra's own
				}
				phrase(t, "flag --"+f.Name, f.Usage)
				if strings.HasPrefix(f.DefValue, "-") {
					t.Errorf("flag --%s: the help shows the default %s, which the command refuses when it is given", f.Name, f.DefValue)
				}
				if f.Usage == "" {
					t.Errorf("flag --%s does not say what it does", f.Name)
				}
				if f.Value.Type() != "bool" && !strings.Contains(f.Usage, "`") {
					t.Errorf("flag --%s: mark the name of its value with backquotes: %q", f.Name, f.Usage)
				}
			})
			for _, sub := range c.Commands() {
				lint(sub)
			}
		})
	}
	lint(root)
	if seen < 15 {
		t.Errorf("only %d commands were looked at", seen)
	}

	// The verbs of the issue are all there.
	var names []string
	for _, c := range root.Commands() {
		names = append(names, c.Name())
	}
	for _, want := range strings.Fields("status ps start stop restart scale reload kill wait logs pub sub get put watch req reply ch inspect doctor version completion help") {
		if !slices.Contains(names, want) {
			t.Errorf("there is no verb %q", want)
		}
	}
}

// phrase checks the style of a one-line text: it begins with a small letter and has no full stop.
func phrase(t *testing.T, what, text string) {
	t.Helper()
	if text == "" {
		return
	}
	if strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
		t.Errorf("%s ends with a full stop or has a line break: %q", what, text)
	}
	if first := []rune(strings.TrimLeft(text, "`"))[0]; unicode.IsUpper(first) {
		t.Errorf("%s begins with a capital: %q", what, text)
	}
}
