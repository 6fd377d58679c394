package fusefs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// need finds a program, or skips the test and says what to install.
func need(t *testing.T, program, packages string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("SKIPPED: there is no %s (apt-get install %s)", program, packages)
	}
	return path
}

// sh runs a shell script that must succeed, in a directory, and returns what it prints.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	out, err := shell(dir, script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, tail(string(out)))
	}
	return string(out)
}

func shell(dir, script string) *exec.Cmd {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// scale is what the long form of a test does for each thing of the short one.
func scale(short, longer int) int {
	if *long {
		return longer
	}
	return short
}

// TestFio verifies what a random mixture of reads and writes has left, by several ways of I/O.
func TestFio(t *testing.T) {
	need(t, "fio", "fio")
	m := newMount(t, "1G")
	for _, engine := range []string{"psync", "libaio --iodepth=8 --direct=1", "mmap", "psync --fsync=16", "psync --direct=1"} {
		sh(t, m.dir, fmt.Sprintf("fio --name=job --directory=. --rw=randrw --bsrange=512-64k --bs_unaligned=%d --size=%dM --numjobs=2 "+
			"--ioengine=%s --verify=crc32c --verify_fatal=1 --do_verify=1 --random_generator=tausworthe64 --group_reporting; rm -f job*",
			unaligned(engine), scale(8, 128), engine))
	}
}

// unaligned says whether an engine takes blocks of any length: O_DIRECT does so here, but not everywhere.
func unaligned(engine string) int {
	if strings.Contains(engine, "direct") {
		return 0
	}
	return 1
}

// TestSqlite kills the mount in the middle of transactions, and has sqlite check what is there then: every transaction that
// was reported is there, and nothing is damaged.
func TestSqlite(t *testing.T) {
	need(t, "sqlite3", "sqlite3")
	for _, journal := range []string{"DELETE", "TRUNCATE", "WAL"} {
		t.Run(journal, func(t *testing.T) {
			m := newMount(t, "256M")
			database := filepath.Join(m.dir, "db")
			sh(t, m.dir, fmt.Sprintf(`sqlite3 db "PRAGMA journal_mode=%s; CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)"`, journal))
			inserted := 0
			for range scale(2, 15) {
				inserted = insertUntilKilled(t, m, database, inserted)
				m.start()
				check := sh(t, m.dir, `sqlite3 db "PRAGMA integrity_check; SELECT count(*), max(n) FROM t"`)
				var count, most int
				if _, err := fmt.Sscanf(check, "ok\n%d|%d", &count, &most); err != nil || count != most || most < inserted {
					t.Fatalf("%q, where %d were inserted: %v", check, inserted, err)
				}
				inserted = most
			}
		})
	}
}

// insertUntilKilled has sqlite insert numbers, one a transaction, and kills the mount meanwhile. It returns the last number that
// sqlite has reported.
func insertUntilKilled(t *testing.T, m *mount, database string, last int) int {
	t.Helper()
	var script strings.Builder
	script.WriteString("PRAGMA synchronous=FULL;\n")
	for n := last + 1; n <= last+20000; n++ {
		fmt.Fprintf(&script, "INSERT INTO t VALUES (%d, hex(randomblob(200)));\nSELECT 'done', %d;\n", n, n)
	}
	cmd := exec.Command("sqlite3", "-batch", "-bail", database)
	cmd.Stdin = strings.NewReader(script.String())
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	m.kill()
	cmd.Wait() // it fails: its file system is gone
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if _, err := fmt.Sscanf(lines[i], "done|%d", &last); err == nil {
			return last
		}
	}
	return last
}

// TestGit clones a repository, commits, repacks, and has git check everything.
func TestGit(t *testing.T) {
	need(t, "git", "git")
	m := newMount(t, "512M")
	sh(t, m.dir, fmt.Sprintf(`
		export GIT_CONFIG_GLOBAL=$PWD/config
		git config --global user.name tester; git config --global user.email tester@localhost; git config --global safe.directory '*'
		git init -q origin; cd origin
		for i in $(seq %d); do mkdir -p d$((i%%7)); head -c $((i*100)) /dev/urandom >d$((i%%7))/f$i; git add -A; git commit -qm "number $i"; done
		cd ..; git clone -q --no-hardlinks origin clone; cd clone; git fsck --full --strict; git gc -q --aggressive --prune=now; git fsck --full --strict
		git checkout -q HEAD~3; git checkout -q -; test -z "$(git status --porcelain)"; cd ..; diff -r --exclude=.git origin clone`, scale(15, 200)))
}

// TestTar copies the source of Go in and out, and compares it, with modes, owners and times.
func TestTar(t *testing.T) {
	need(t, "tar", "tar")
	m := newMount(t, "2G")
	from := filepath.Join(strings.TrimSpace(sh(t, m.dir, "go env GOROOT")), "src")
	if !*long {
		from = filepath.Join(from, "cmd", "compile")
	}
	sh(t, m.dir, fmt.Sprintf(`
		mkdir in; tar -C %[1]s -cf - . | tar -C in -xpf -
		diff -r --no-dereference %[1]s in
		tar -C in --compare -f <(tar -C %[1]s -cf - .)
		list() { (cd $1; find . ! -type d -printf '%%p %%y %%m %%U %%G %%s %%T@ %%l\n' | sort); }
		diff <(list %[1]s) <(list in)
		tar -C in -cf - . | tar -C %[2]s -xpf -; diff -r --no-dereference %[1]s %[2]s; rm -r in`, from, t.TempDir()))
}

// TestPostgres kills the mount, and with it the server's files, in the middle of pgbench; after recovery every table is sound and
// the sums agree.
func TestPostgres(t *testing.T) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		t.Skip("SKIPPED: there is no PostgreSQL (apt-get install postgresql)")
	}
	need(t, "setpriv", "util-linux")
	m := newMount(t, "1G")
	bin := filepath.Dir(bins[len(bins)-1])
	socket := memoryDir(t)
	as := func(script string) string { // not as root
		return fmt.Sprintf("PATH=%s:$PATH; export PGDATA=%s/pg PGHOST=%s PGUSER=nobody; as() { setpriv --reuid=65534 --regid=65534 --clear-groups -- \"$@\"; }\n%s",
			bin, m.dir, socket, script)
	}
	start := `as pg_ctl -w -t 60 -l $PGHOST/log -o "-k $PGHOST -h ''" start >/dev/null || { cat $PGHOST/log; false; }`
	sh(t, socket, as("chown 65534:65534 . && mkdir $PGDATA && chown 65534:65534 $PGDATA && as initdb -A trust -N >/dev/null\n"+start+
		"\nas createdb bench && as pgbench -q -i -s 1 bench 2>/dev/null"))
	for range scale(1, 5) {
		bench := shell(socket, as(fmt.Sprintf("as pgbench -n -c 4 -j 2 -T %d bench", scale(2, 10)+5)))
		if err := bench.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(scale(2, 10)) * time.Second)
		m.kill()
		stopPostgres(t, socket)
		bench.Wait() // it fails: its server is gone
		m.start()
		out := sh(t, socket, as("rm -f $PGDATA/postmaster.pid $PGHOST/.s.*\n"+start+`
			as pg_amcheck --install-missing --heapallindexed bench
			as psql -qAt bench -c "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers),
				(SELECT coalesce(sum(delta), 0) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) > 0 FROM pgbench_history)"`))
		if !strings.HasSuffix(strings.TrimSpace(out), "t|t|t") {
			t.Fatalf("after recovery: %s", tail(out))
		}
	}
	sh(t, socket, as("as pg_ctl -w -m fast stop >/dev/null"))
}

// stopPostgres kills the server that has a socket, whose files are gone. Its other processes end by themselves.
func stopPostgres(t *testing.T, socket string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := 0
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range all {
			line, _ := os.ReadFile(name)
			var pid int
			fmt.Sscanf(name, "/proc/%d/cmdline", &pid)
			if bytes.Contains(line, []byte("bin/postgres\x00")) && bytes.Contains(line, []byte(socket)) {
				syscall.Kill(pid, syscall.SIGKILL)
				left++
			}
		}
		if left == 0 {
			time.Sleep(500 * time.Millisecond) // for the others
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes of PostgreSQL do not end", left)
		}
	}
}

// TestLMDB loads a mapped database, kills the writer, loads again, and compares what is dumped. It needs the tools, which write by
// way of a mapping when they are told to (-s is about syncs, the mapping is LMDB's own).
func TestLMDB(t *testing.T) {
	need(t, "mdb_load", "lmdb-utils")
	m := newMount(t, "512M")
	input := filepath.Join(t.TempDir(), "input")
	var b strings.Builder
	n := scale(20000, 300000)
	b.WriteString("VERSION=3\nformat=print\ntype=btree\nmapsize=268435456\nHEADER=END\n")
	for i := range n {
		fmt.Fprintf(&b, " key-%08d\n value-%d-%s\n", i, i, strings.Repeat("x", i%100))
	}
	b.WriteString("DATA=END\n")
	if err := os.WriteFile(input, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range scale(3, 10) {
		db := filepath.Join(m.dir, "lmdb")
		os.Mkdir(db, 0o755)
		cmd := exec.Command("mdb_load", "-f", input, db)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+i*30) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		sh(t, m.dir, fmt.Sprintf("mdb_stat lmdb >/dev/null; mdb_load -f %s lmdb; test $(mdb_dump -p lmdb | grep -c '^ key-') = %d", input, n))
		want := strings.Count(b.String(), "\n")
		if got := strings.Count(sh(t, m.dir, "mdb_dump -p lmdb"), "\n"); got < want-10 {
			t.Fatalf("%d lines of %d", got, want)
		}
	}
}

// stressors are those of stress-ng that use a file system.
var stressors = []string{
	"access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup", "fallocate", "fiemap", "file-ioctl", "filename",
	"flock", "fpunch", "fstat", "getdent", "hdd", "io", "iomix", "lease", "link", "locka", "lockf", "lockofd", "metamix", "mknod",
	"mmap", "mmapaddr", "msync", "open", "readahead", "rename", "revio", "seek", "sendfile", "symlink", "sync-file", "touch", "unlink",
	"utime", "xattr",
}

// TestStress runs stress-ng's stressors, which verify what they do. One that does the same to the host's file system is none of
// ours.
func TestStress(t *testing.T) {
	need(t, "stress-ng", "stress-ng")
	m := newMount(t, "4G")
	known := strings.Fields(sh(t, m.dir, "stress-ng --stressors"))
	ran := 0
	for _, s := range stressors {
		if !slices.Contains(known, s) {
			continue
		}
		ran++
		script := fmt.Sprintf("stress-ng --%s 2 --temp-path . --timeout %d --verify", s, scale(1, 10))
		out, err := shell(m.dir, script).CombinedOutput()
		failed := func(out []byte, err error) bool { return err != nil || bytes.Contains(out, []byte("fail:")) }
		if failed(out, err) && !failed(shell(hostDir(t), script).CombinedOutput()) {
			t.Errorf("%s: %v\n%s", s, err, tail(string(out)))
		}
	}
	if ran < 20 {
		t.Errorf("this stress-ng has %d of %d stressors", ran, len(stressors))
	}
}
