# Everything here also works as the plain go command beside it.

STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME   ?= 20s

SHELL       = /bin/bash
.SHELLFLAGS = -o pipefail -c

# Modules of their own, so that nobody downloads what they need who does not use them.
MODULES = bench bench/databases pebblevfs sqlitevfs

.PHONY: all build test race lint fuzz microbench bench bench-short vmbench demo arm64 riscv64 mount-test vmtest ci

all: lint test

build:
	CGO_ENABLED=0 go build -o bin/ ./cmd/pmemfs

test:
	go test ./...

race:
	go test -race ./...

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	for module in $(MODULES); do (cd $$module && go vet ./... && $(STATICCHECK) ./...) || exit 1; done

# Each fuzz target for FUZZTIME; go test runs their seeds only.
fuzz:
	@for target in $$(grep -rhoE '^func Fuzz[A-Za-z]+' --include='*_test.go' . | sed 's/^func //' | sort -u); do \
		dir=$$(dirname $$(grep -rlE "^func $$target\(" --include='*_test.go' .)); \
		echo "$$dir $$target"; \
		go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$dir || exit 1; \
	done

microbench:
	go test -run '^$$' -bench . -benchmem ./...

# Every comparison with what else one could take, nine minutes on two CPUs: docs/performance.md, its figures and plots. As root,
# with what the peers need: apt-get install gcc libc6-dev libpmem-dev liblmdb-dev e2fsprogs
bench: build
	cd bench && go run . --out ../docs

# The same in a minute or two, into bin/.
bench-short: build
	cd bench && go run . --short --out ../bin

# What of it takes a kernel's persistent memory, in a guest (go doc ./test/vm), five minutes, and the page with it, which is
# about an emulated CPU.
GUEST = --dir /mnt/ext4 --dir /mnt/xfs --rounds 9 --time 100ms --json
vmbench:
	mkdir -p bin docs/performance
	VM_ACCEL=tcg go run ./test/vm \
		-run 'pmemfs bench ways --pool /mnt/ext4 --size 64M $(GUEST)' \
		-run 'pmemfs bench metadata --pool /mnt/ext4 --files 1000 $(GUEST)' \
		-run 'pmemfs bench profile --pool /mnt/ext4 --json' \
		-run 'pmemfs bench ways --pool /dev/dax-4k --size 32M $(GUEST)' >bin/guest.json
	mv bin/guest.json docs/performance/
	cd bench && go run . --only none --out ../docs

demo:
	go run ./cmd/pmemfs demo

# Other CPUs under user emulation (apt-get install qemu-user): the assembly, the signal entries, processes that map each
# other's files, and the demo on a small tree. What is left out prints why; docs/design.md, "Other CPUs", has the list. QEMU
# 7.2 has no DC CVAP, so a CPU without it is chosen. riscv64 has no entries and no assembly: what remains is tried.
ARM64   = qemu-aarch64 -cpu cortex-a57
RISCV64 = qemu-riscv64
TERSE   = grep -vE '^ *(=== |--- PASS|PASS$$)'

arm64: export GOARCH=arm64
arm64: export PMEMFS_EXEC=$(ARM64)
arm64:
	go vet ./...
	go test -exec "$(ARM64)" -short -v ./pmem ./internal/rerun ./internal/medium ./internal/fault | $(TERSE)
	go test -exec "$(ARM64)" -short -v . \
		-run '^Test(Map.*|Persist.*|ServerDies|CrashLoop|Sync.*|Pin|Seal(Ends|Limits|Privilege)|RestartWhileAllThreadsFault)$$' | $(TERSE)
	go run -exec "$(ARM64)" ./cmd/pmemfs demo internal/fault

riscv64: export GOARCH=riscv64
riscv64: export PMEMFS_EXEC=$(RISCV64)
riscv64:
	go test -exec "$(RISCV64)" -short -v ./pmem ./internal/rerun ./internal/medium ./internal/fault | $(TERSE)

# The long form of the tests of mounts, half an hour: as root, with /dev/fuse. What they use:
# apt-get install fio sqlite3 git tar postgresql lmdb-utils stress-ng
mount-test:
	go test -count=1 -timeout 2h -v ./internal/fusefs -long

# A real kernel with emulated persistent memory, in QEMU: every medium, and crashes. Debian packages that it lacks it fetches.
vmtest:
	go test -count=1 -timeout 30m -v ./test/vm -vm

ci:
	bash .ci/run
