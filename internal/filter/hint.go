package filter

import (
	"path/filepath"
	"slices"
	"strings"
)

// hint says what a filter that does not answer may want, by the name of its program: most programs buffer their output when it is
// no terminal.
func hint(command []string) string {
	name := filepath.Base(command[0])
	has := func(options ...string) bool {
		return slices.ContainsFunc(command[1:], func(a string) bool { return slices.Contains(options, a) })
	}
	all := strings.Join(command, " ")
	switch {
	case name == "jq" && !has("--unbuffered"):
		return "jq wants --unbuffered"
	case name == "mawk" && !strings.Contains(all, "-W interactive") && !has("-Winteractive"):
		return "mawk wants -W interactive"
	case name == "awk" && !strings.Contains(all, "fflush()") && !strings.Contains(all, "interactive"),
		name == "gawk" && !strings.Contains(all, "fflush()"):
		return "awk wants fflush() after each line, mawk -W interactive as well"
	case name == "awk" && !strings.Contains(all, "interactive"):
		return "if this awk is mawk, it wants -W interactive"
	case (name == "sed" || name == "gsed") && !has("-u", "--unbuffered", "-un", "-nu", "-uE", "-Eu", "-ur", "-ru"):
		return "sed wants -u"
	case strings.HasSuffix(name, "grep") && !has("--line-buffered"):
		return "grep wants --line-buffered"
	case strings.HasPrefix(name, "python") && !has("-u"):
		return "Python wants print(…, flush=True), or -u"
	case name == "perl" || name == "ruby":
		return name + " has to flush after each line"
	case slices.Contains([]string{"tr", "cut", "rev", "paste", "nl", "uniq", "fold", "expand", "base64", "cat"}, name):
		return "it may have to run as stdbuf -oL " + name
	}
	return "it has to write and flush one line for each; one that drops lines wants ack = \"written\""
}
