// Package lint holds the rules of the project's structure as tests.
package lint

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pmemfs/pmemfs"

// layers are the packages from the bottom up: each may import those before it
// that it names, and no others of the project.
var layers = map[string][]string{
	"internal/lines":             {},
	"pmem":                       {"internal/lines"},
	"internal/medium":            {"pmem"},
	"internal/medium/mediumtest": {},
	"internal/crash":             {"internal/medium"},
	"internal/layout":            {},
	"internal/journal":           {"internal/layout", "internal/medium"},
	"internal/alloc":             {"internal/layout", "internal/journal"},
	"internal/core":              {"internal/layout", "internal/medium", "internal/journal", "internal/alloc", "internal/progress"},
	"internal/crash/explore":     {"internal/crash", "internal/medium", "internal/layout", "internal/alloc", "internal/core"},
	"internal/progress":          {},
	"internal/rerun":             {},
	"internal/grant":             {},
	"internal/fault":             {"internal/lines"},
	"internal/session":           {"internal/medium"},
	"internal/wire":              {},
	"internal/server": {"pmem", "internal/medium", "internal/layout", "internal/alloc", "internal/core", "internal/progress", "internal/grant",
		"internal/fault", "internal/wire", "internal/session"},
	"internal/fusefs": {"internal/wire"},
	"internal/report": {"pmem"},
	".": {"pmem", "internal/medium", "internal/layout", "internal/core", "internal/progress", "internal/grant", "internal/fault", "internal/lines",
		"internal/wire", "internal/server"},
	"test/vm/port":      {},
	"test/vm/guest":     {".", "test/vm/port"},
	"test/vm":           {"test/vm/port"},
	"internal/pooltest": {".", "internal/rerun", "internal/server"},
	"internal/adapter":  {"."},
	"pebblevfs":         {".", "internal/adapter"},
	"sqlitevfs":         {".", "internal/adapter"},
}

// sources calls fn for each Go file outside testdata with its folder.
func sources(t *testing.T, fn func(path, folder string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || rel == "bench") {
			return fs.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			fn(path, filepath.ToSlash(filepath.Dir(rel)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func imports(t *testing.T, path string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, i := range f.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		all = append(all, p)
	}
	return all
}

// TestDependenciesPointDown: a package imports only what its layer allows.
func TestDependenciesPointDown(t *testing.T) {
	sources(t, func(path, folder string) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		allowed, known := layers[folder]
		for _, p := range imports(t, path) {
			if p == "C" {
				t.Errorf("%s uses cgo", path)
			}
			rel, ours := strings.CutPrefix(p, module+"/")
			if p == module {
				rel, ours = ".", true
			}
			if !ours || strings.HasPrefix(folder, "cmd/") {
				continue
			}
			if !known {
				t.Errorf("%s: folder %s is no layer of the design", path, folder)
			} else if !slices.Contains(allowed, rel) {
				t.Errorf("%s imports %s, which its layer must not", path, rel)
			}
		}
	})
}

// TestUnsafeIsNamed: unsafe is imported only by files that say so.
func TestUnsafeIsNamed(t *testing.T) {
	sources(t, func(path, folder string) {
		if slices.Contains(imports(t, path), "unsafe") &&
			!strings.Contains(filepath.Base(path), "_unsafe") && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s imports unsafe; name it *_unsafe.go or move that part", path)
		}
	})
}

// TestNoTrace: what a reader of the repository alone cannot understand is not
// in it.
func TestNoTrace(t *testing.T) {
	for _, name := range []string{"README.md", "docs"} {
		filepath.WalkDir(filepath.Join("..", "..", name), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(string(b), "/"+"work/") {
				t.Errorf("%s names a path of somebody's machine", path)
			}
			return nil
		})
	}
}
