package faults

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Where a time loses its monotonic clock, or one is made or used that never had it, in what runs in production: PACKAGE: what. Nothing here decides anything that
// counts. Whoever adds a line must say why a clock that is set does no harm.
//
// Everything else that looks like a clock is time.Now, Since, Until, Sub, Before and the like of times that come from time.Now in the same process: Go takes
// CLOCK_MONOTONIC for these. To write a time down, or to format it, is no use of it.
var wallClock = map[string]string{
	"internal/attach: time.Unix":                   "a deadline long ago: now",
	"internal/control: Compare":                    "the order in which regions are listed",
	"internal/control: field Created":              "for that order",
	"internal/daemon: UTC":                         "the name of a file, and what is in it",
	"internal/daemon: time.Unix":                   "a deadline long ago: now",
	"internal/daemon: field Since of addInstance":  "of the rows of instances that are gone the one that is so for longest is used again: any would do",
	"internal/daemon: field Since of asItWas":      "by sinceWhen, once, for how long the worker ran: its backoff may begin anew",
	"internal/daemon: field Since of takeOver":     "by sinceWhen, once, for how long it ran, to be told",
	"internal/daemon: field Since of missedEvents": "written down",
	"internal/daemon: field Time":                  "written down",
	"internal/daemon: UnixNano":                    "does a record have a time at all",
	"pkg/shm: UnixNano":                            "written down",
	"internal/filter: time.Unix":                   "a deadline long ago: now",
	"internal/outfile: time.Unix":                  "a deadline long ago: now",
	"pkg/protocol: time.Unix":                      "told",
	"pkg/protocol: UnixNano":                       "written down",
}

// shows are the packages whose times are for people, and for programs that read what shmctl prints.
var shows = []string{"internal/cli", "internal/top", "internal/stat", "internal/dump"}

// Methods of time.Time that take the monotonic clock away, or compare without it, or return a number that can be compared.
var wallMethods = []string{"AddDate", "Compare", "Equal", "In", "Local", "Round", "Truncate", "UTC", "Unix", "UnixMicro", "UnixMilli", "UnixNano"}

// Functions that make a time of the wall clock, or read it.
var wallFuncs = []string{"time.Date", "time.Parse", "time.ParseInLocation", "time.Unix", "time.UnixMicro", "time.UnixMilli", "golang.org/x/sys/unix.Gettimeofday", "golang.org/x/sys/unix.Time",
	"syscall.Gettimeofday", "syscall.Time", "golang.org/x/sys/unix.TimerfdCreate"}

// TestWallClock finds every use of the wall clock in the daemon, its workers, and the libraries, and knows them all: no other code can feel a clock that
// is set. What happens when one is set is TestClockJumps.
func TestWallClock(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export,Module", "./cmd/...", "./pkg/...")
	list.Dir = root
	var errs bytes.Buffer
	list.Stderr = &errs
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	type pkg struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
		Module                  *struct{ Main bool }
	}
	exports := map[string]string{}
	var ours []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if p.Module != nil && p.Module.Main {
			ours = append(ours, p)
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	found := map[string]string{}
	for _, p := range ours {
		path := strings.TrimPrefix(p.ImportPath, "github.com/shmd/shmd/")
		if slices.Contains(shows, path) {
			continue
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
		if _, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			for _, decl := range f.Decls {
				name := "variables"
				if fn, ok := decl.(*ast.FuncDecl); ok {
					name = fn.Name.Name
				}
				written := written(decl)
				ast.Inspect(decl, func(n ast.Node) bool {
					what := wallOnly(info, n)
					if strings.HasPrefix(what, "field ") && (written[n] || path == "pkg/protocol") { // which has them in structs, and in memory
						return true
					}
					if what == "field Since" || what == "field Started" { // those of which something might be computed
						what += " of " + name
					}
					if what != "" {
						found[path+": "+what] = fset.Position(n.Pos()).String()
					}
					return true
				})
			}
		}
	}
	if len(found) < 5 {
		t.Errorf("found only %v", found)
	}
	for _, use := range slices.Sorted(maps.Keys(found)) {
		if _, known := wallClock[use]; !known {
			t.Errorf("%s uses the wall clock: %s. If a clock that jumps does no harm there, say why in wallClock", strings.TrimPrefix(found[use], root+"/"), use)
		}
	}
	for use := range wallClock {
		if _, there := found[use]; !there {
			t.Errorf("wallClock knows %q, and it is not there any more", use)
		}
	}
}

// written are the names that a declaration only writes to: what is assigned, and keys of literals.
func written(decl ast.Decl) map[ast.Node]bool {
	names := map[ast.Node]bool{}
	add := func(e ast.Expr) {
		switch e := e.(type) {
		case *ast.Ident:
			names[e] = true
		case *ast.SelectorExpr:
			names[e.Sel] = true
		}
	}
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			add(n.Key)
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				add(e)
			}
		}
		return true
	})
	return names
}

// wallOnly says which use of the wall clock a node is, "" for none.
func wallOnly(info *types.Info, n ast.Node) string {
	switch n := n.(type) {
	case *ast.Ident:
		if v, ok := info.Uses[n].(*types.Var); ok && v.IsField() && v.Pkg() != nil && strings.HasSuffix(v.Pkg().Path(), "/pkg/protocol") && types.TypeString(v.Type(), nil) == "time.Time" {
			return "field " + v.Name() // it comes from shared memory, where it is a number of the wall clock, also when it is compared
		}
		if c, ok := info.Uses[n].(*types.Const); ok && c.Name() == "CLOCK_REALTIME" {
			return c.Name()
		}
		fn, ok := info.Uses[n].(*types.Func)
		if !ok || fn.Pkg() == nil {
			return ""
		}
		recv := fn.Signature().Recv()
		switch {
		case recv == nil && slices.Contains(wallFuncs, fn.Pkg().Path()+"."+fn.Name()):
			return "time." + fn.Name()
		case recv != nil && types.TypeString(recv.Type(), nil) == "time.Time" && slices.Contains(wallMethods, fn.Name()):
			return fn.Name()
		case recv != nil && fn.Name() == "ModTime":
			return "ModTime"
		}
	case *ast.BinaryExpr:
		if (n.Op == token.EQL || n.Op == token.NEQ) && types.TypeString(info.Types[n.X].Type, nil) == "time.Time" {
			return n.Op.String()
		}
	}
	return ""
}
