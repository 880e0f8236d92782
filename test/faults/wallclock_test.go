package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// Where the wall clock is read, or a time that only has one is made or used, in what runs in production: PACKAGE FUNCTION: what. Nothing here decides anything that
// counts: it is written down, told, or shown to people. Whoever adds a line must say why a clock that jumps does no harm.
//
// Everything else that looks like a clock is time.Now, Since, Until, Sub, Before and the like of times that come from time.Now in the same process: Go takes
// CLOCK_MONOTONIC for these. wallOnly finds what makes a time lose it, and the times that come from shared memory.
var wallClock = map[string]string{
	"internal/attach bounded: time.Unix":       "a deadline long ago: now",
	"internal/control FindAll: Compare":        "the order in which regions are listed",
	"internal/control take: field Created":     "for that order",
	"internal/daemon Accept: field Time":       "of a record of the log",
	"internal/daemon addInstance: field Since": "written down; and of the rows of instances that are gone the one that is so for longest is used again: any would do",
	"internal/daemon asItWas: field Since":     "by sinceWhen, for how long the worker ran: backoff begins anew after a long run, and was long or short once",
	"internal/daemon changed: field Since":     "written down",
	"internal/daemon dismiss: field Since":     "written down",
	"internal/daemon dumpFailure: Format":      "the name of a file",
	"internal/daemon dumpFailure: UTC":         "written down",
	"internal/daemon lull: time.Unix":          "a deadline long ago: now",
	"internal/daemon newMemory: field Created": "written down",
	"internal/daemon pause: time.Unix":         "a deadline long ago: now",
	"internal/daemon prepare: field Started":   "written down",
	"internal/daemon takeOver: field Since":    "written down; and by sinceWhen, for how long it ran, to be told",
	"internal/filter serve: time.Unix":         "a deadline long ago: now",
	"internal/filter stall: Format":            "shown to people",
	"pkg/protocol Daemon: field Started":       "told",
	"pkg/protocol Daemon: time.Unix":           "told",
	"pkg/protocol Next: field Time":            "told",
	"pkg/protocol Next: time.Unix":             "told",
	"pkg/protocol ReadDead: time.Unix":         "told",
	"pkg/protocol ReadHeader: field Created":   "told",
	"pkg/protocol ReadHeader: time.Unix":       "told",
	"pkg/protocol SetDaemon: UnixNano":         "written down",
	"pkg/protocol SetDaemon: field Started":    "written down",
	"pkg/protocol SetWorker: UnixNano":         "written down",
	"pkg/protocol SetWorker: field Since":      "written down",
	"pkg/protocol Worker: field Since":         "told",
	"pkg/protocol Worker: time.Unix":           "told",
	"pkg/protocol Write: UnixNano":             "written down",
	"pkg/protocol Write: field Time":           "written down",
	"pkg/protocol writeDead: UnixNano":         "written down",
	"pkg/protocol writeDead: field Moved":      "written down",
	"pkg/protocol writeHeader: UnixNano":       "written down",
	"pkg/protocol writeHeader: field Created":  "written down",
}

// shows are the packages whose times are for people, and for programs that read what shmctl prints.
var shows = []string{"internal/cli", "internal/top", "internal/stat", "internal/dump"}

// Methods of time.Time that read the wall clock, or take the monotonic one away.
var wallMethods = []string{"AddDate", "Clock", "Date", "Day", "Equal", "Compare", "Format", "AppendFormat", "GobEncode", "GoString", "Hour", "ISOWeek", "In", "IsDST", "Local", "MarshalBinary",
	"MarshalJSON", "MarshalText", "AppendBinary", "AppendText", "Minute", "Month", "Nanosecond", "Round", "Second", "String", "Truncate", "UTC", "Unix", "UnixMicro", "UnixMilli", "UnixNano",
	"Weekday", "Year", "YearDay", "Zone", "ZoneBounds"}

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
				name := "(top)"
				if fn, ok := decl.(*ast.FuncDecl); ok {
					name = fn.Name.Name
				}
				ast.Inspect(decl, func(n ast.Node) bool {
					if what := wallOnly(info, n); what != "" {
						found[fmt.Sprintf("%s %s: %s", path, name, what)] = fset.Position(n.Pos()).String()
					}
					return true
				})
			}
		}
	}
	if len(found) < 10 {
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
