package explore

import (
	"bytes"
	"testing"

	"github.com/pmemfs/pmemfs/internal/core"
	"github.com/pmemfs/pmemfs/internal/crash"
	"github.com/pmemfs/pmemfs/internal/medium"
)

// TestPersistedStoreSurvives: a store through a Sync mapping, flushed and
// fenced, is found after a power cut at any instant from then on, whatever the
// commit policy; what was done meanwhile to other files may be lost where it is
// only staged, and not where each operation is durable.
func TestPersistedStoreSurvives(t *testing.T) {
	b, err := theBase()
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range Settings {
		t.Run(setting.Policy()+" on "+setting.Medium(), func(t *testing.T) {
			r := crash.Record(b.meta, b.data)
			s, err := newSession(r.Area(0), r.Area(1), firstTime, setting)
			if err != nil {
				t.Fatal(err)
			}
			do := func(lines string) {
				for _, o := range parse(lines) {
					if err := s.run(o, 1); err != nil {
						t.Fatalf("%v: %v", o, err)
					}
				}
			}
			do("open /a/y @1\nstore @1 4100 40") // into a hole
			stored := r.Now()
			do("create /b/v\nsetxattr /a/x user.k 3000\nstore @1 4200 16")
			after := r.Now()
			do("commit")
			lost, kept := 0, 0
			look := func(m *crash.Image) error {
				got, other := persisted(t, m.Areas)
				if !bytes.Equal(got, pattern(1, 4100, 40)) {
					t.Errorf("%v: the stored bytes are %q", m, got)
				}
				if other {
					kept++
				} else {
					lost++
				}
				return nil
			}
			options := crash.Options{Model: setting.model(), From: stored, Exhaustive: 64, Lines: 8, Samples: 16}
			if _, err := r.Images(options, look); err != nil {
				t.Fatal(err)
			}
			if lost == 0 || kept == 0 {
				t.Errorf("the other file was lost in %d images, and kept in %d", lost, kept)
			}
			lost, kept = 0, 0
			options.From, options.To = after, after
			if _, err := r.Images(options, look); err != nil {
				t.Fatal(err)
			}
			if setting.Interval != (lost > 0) {
				t.Errorf("before the commit the other file was lost in %d of %d images", lost, lost+kept)
			}
		})
	}
}

// persisted mounts an image and returns what was stored to /a/y, and whether
// the other file is there.
func persisted(t *testing.T, areas []medium.Area) (p []byte, other bool) {
	fs, err := core.Mount(areas[0], areas[1], core.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	n, err := fs.OpenPath(root, "a/y", false)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p = make([]byte, 40)
	if _, err := n.ReadAt(p, 4100); err != nil {
		t.Fatal(err)
	}
	_, err = fs.Resolve(root, "b/v", false)
	return p, err == nil
}
