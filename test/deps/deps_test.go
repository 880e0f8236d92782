// Package deps holds the layers of the source to what docs/architecture.md says.
package deps

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/shmd/shmd/"

// allowed says which packages of this module each one may import, tests left aside. What is not here may import none.
var allowed = map[string]string{
	"cmd/shmd":                "internal/daemon internal/launcher",
	"cmd/shmctl":              "internal/cli",
	"internal/attach":         "internal/sys internal/unit",
	"internal/attrs":          "",
	"internal/cli":            "internal/attrs internal/cgroup pkg/shm pkg/protocol pkg/region internal/dump internal/outfile internal/verify internal/sys internal/control internal/attach internal/config internal/stat internal/top internal/version internal/supervise internal/unit",
	"internal/cgroup":         "",
	"internal/config":         "internal/cgroup internal/sys internal/supervise",
	"internal/dump":           "internal/outfile internal/sys",
	"internal/outfile":        "",
	"internal/verify":         "pkg/protocol",
	"internal/control":        "pkg/protocol pkg/region internal/sys internal/supervise internal/unit",
	"internal/daemon":         "internal/attrs internal/cgroup internal/dump pkg/protocol pkg/region internal/sys internal/control internal/config internal/attach internal/launcher/spec internal/stat internal/supervise internal/unit internal/version",
	"internal/genman":         "internal/cli internal/daemon", // the one that sees both: it prints their man pages
	"internal/genreliability": "",
	"internal/launcher":       "pkg/shm internal/cgroup internal/sys internal/launcher/spec internal/wordcount internal/filter",
	"internal/filter":         "pkg/shm pkg/protocol internal/sys",
	"internal/supervise":      "pkg/protocol", // no input, no output
	"internal/stat":           "pkg/protocol internal/sys internal/control internal/supervise internal/unit",
	"internal/top":            "pkg/protocol internal/stat",
	"internal/sys/systest":    "",
	"internal/testregion":     "pkg/shm pkg/protocol internal/sys", // for tests
	"internal/version":        "pkg/protocol",
	"internal/wordcount":      "pkg/shm internal/sys",
	"pkg/protocol":            "internal/sys",
	"pkg/region":              "internal/sys",
	"pkg/shm":                 "pkg/protocol pkg/region internal/sys internal/attach",
	"hclogsink":               "",
	"examples/mapfile":        "pkg/region internal/sys",
	"examples/parentchild":    "pkg/region internal/sys",
	"examples/quitflag":       "pkg/region internal/sys",
	"examples/wordcount":      "pkg/shm pkg/protocol internal/wordcount",
	"internal/launcher/spec":  "",
	"test/arm64":              "test/vm/cpio",
}

// outside says which modules from outside the standard library may be imported where, by directory.
var outside = []struct{ module, where string }{
	{"golang.org/x/sys", "internal/sys"}, // the one door to the kernel
	{"github.com/hashicorp/go-hclog", "internal/daemon hclogsink"},
	{"github.com/oklog/run", "internal/daemon"},
	{"github.com/coreos/go-systemd/v22", "internal/daemon"},
	{"github.com/pelletier/go-toml/v2", "internal/config"},
	{"github.com/klauspost/compress", "internal/dump"},
	{"github.com/spf13/cobra", "internal/daemon internal/cli internal/genman"},
	{"github.com/spf13/pflag", "internal/cli examples/wordcount"},
	{"github.com/mattn/go-isatty", "internal/cli internal/daemon examples/wordcount"},
	{"charm.land/bubbletea/v2", "internal/top"},
	{"github.com/charmbracelet/colorprofile", "internal/top"},
	{"github.com/charmbracelet/x/ansi", "internal/top"},
	{"github.com/vbauerster/mpb/v8", "examples/wordcount"},
}

type pkg struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
	TestGoFiles     []string
	XTestGoFiles    []string
	Standard        bool
}

func list(t *testing.T, args ...string) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Imports,GoFiles,TestGoFiles,XTestGoFiles,Standard"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	pkgs := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

func TestLayers(t *testing.T) {
	pkgs := list(t, "./...")
	for _, path := range slices.Sorted(maps.Keys(pkgs)) {
		p := pkgs[path]
		name := strings.TrimPrefix(path, module)
		may := strings.Fields(allowed[name])
		for _, i := range p.Imports {
			if rest, ours := strings.CutPrefix(i, module); ours && !slices.Contains(may, rest) {
				t.Errorf("%s imports %s; it may import: %s (docs/architecture.md says why)", name, rest, strings.Join(may, ", "))
			}
			if first, _, _ := strings.Cut(i, "/"); !strings.Contains(first, ".") || strings.HasPrefix(i, module) {
				continue
			}
			known := false
			for _, o := range outside {
				if i == o.module || strings.HasPrefix(i, o.module+"/") {
					known = slices.ContainsFunc(strings.Fields(o.where), func(w string) bool { return name == w || strings.HasPrefix(name, w+"/") })
				}
			}
			if !known {
				t.Errorf("%s imports %s: is it needed there? Then say so in test/deps", name, i)
			}
		}
	}
}

// What a user of pkg/ gets beside the standard library is golang.org/x/sys.
func TestPkgNeedsXSysAlone(t *testing.T) {
	for path, p := range list(t, "-deps", "./pkg/...") {
		if !p.Standard && !strings.HasPrefix(path, module) && !strings.HasPrefix(path, "golang.org/x/sys/") {
			t.Errorf("pkg/ depends on %s", path)
		}
	}
}

// unsafe shows in the names of files.
func TestUnsafeShowsInFileNames(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			base := strings.TrimSuffix(strings.TrimSuffix(f, ".go"), "_test")
			if strings.HasSuffix(base, "_unsafe") {
				continue
			}
			out, err := exec.Command("grep", "-lE", `^\s*(import )?"unsafe"$`, filepath.Join(p.Dir, f)).Output()
			if err == nil {
				t.Errorf("%s imports unsafe: name it *_unsafe.go", strings.TrimSpace(string(out)))
			}
		}
	}
}
