// Package pmem makes stores to persistent memory durable with CPU instructions
// alone: no system call, no allocation, no lock.
//
// A program that maps persistent memory stores to it as to any memory. The
// stores stay in the CPU's caches for as long as the CPU likes, and leave in
// any order. This package has the three things that are missing:
//
//   - [Flush] starts the write-back of cache lines,
//   - [Fence] makes what was flushed durable before anything that follows,
//   - [Copy] and [Zero] store past the cache, and need a Fence only.
//
// [Persist] is a Flush and a Fence. Flush many ranges, then Fence once: the
// Fence is what takes time (see Costs).
//
// # Persistence domains
//
// Bytes are durable once they are in the persistence domain, the part of the
// machine that a power cut leaves with enough energy to finish. How far it
// reaches depends on the platform, and the package medium finds out:
//
//   - memory controller (Intel: ADR): lines must be flushed, then fenced. This
//     is what the functions here are written for.
//   - CPU caches (Intel: eADR): Fence alone is enough after ordinary stores, and
//     for Copy and Zero, as ever. Flush is not wrong, only a waste.
//   - page cache: nothing here helps; it takes msync or fdatasync. The same
//     goes for a MAP_SHARED file mapping without MAP_SYNC, whose blocks the
//     file system may not yet have made findable.
//   - volatile (tmpfs): nothing is durable, the instructions run all the same.
//
// # What is ordered, and what may be torn
//
// Only Fence orders durability. Between two Fences any set of the lines stored
// to may have reached the medium, flushed or not: caches also evict of their
// own accord. Cached stores to one line arrive in program order. Streaming
// stores arrive in any order, even within a line.
//
// The unit that is never torn is the aligned 8-byte word, and Copy and Zero
// never break one that is wholly inside their range: unaligned ends are stored
// byte by byte only up to the first, and from the last, aligned word. (The
// builtin copy promises nothing of the sort.) A record of more than a word is
// published like this: Copy the record, Fence, store a word that makes it
// valid, Persist the word.
//
// # Goroutines move between CPUs
//
// A goroutine may Flush on one CPU and Fence on another, since the Go scheduler
// may move it to another thread, and the kernel the thread to another CPU. The
// guarantee holds nevertheless, by different means:
//
// amd64: CLWB, CLFLUSHOPT and streaming stores are ordered not only by SFENCE
// but also by every locked instruction. The scheduler changes a goroutine's
// status by a locked instruction on the CPU that the goroutine leaves, before
// another thread can take it; the kernel takes locks, and returns by IRET,
// before a thread runs elsewhere. So the old CPU has finished before the new
// one begins, and Fence orders the rest.
//
// arm64: a DSB waits for the cache maintenance of the CPU that executes it, and
// for no other's. Linux executes one when it switches threads, but the Go
// scheduler hands goroutines over by acquire and release alone. Therefore the
// flush methods end with a DSB of their own, in the same uninterrupted piece of
// assembly. Grouping flushes gains less there; one Flush of a long range, or
// one long Copy, has one DSB for each 256 KiB or 16 KiB.
//
// Assembly cannot be preempted by the Go scheduler. Long ranges are worked off
// in pieces, so that a call on gigabytes does not stop the garbage collector.
//
// # Methods
//
// The best instructions that the CPU (and for AVX the operating system) has are
// chosen once at start, in this order of preference:
//
//	          PMEMFS_FLUSH                 PMEMFS_STREAM
//	amd64     clwb, clflushopt, clflush    avx512, avx2, sse2
//	arm64     cvap, cvac                   stnp, stp
//	others    none                         plain
//
// Setting these environment variables forces a method, for tests and
// comparisons. A name that is unknown, or not supported by this CPU, is an error
// that [Available] returns; [Methods] tells what is in use. On GOARCHes without
// known instructions the functions store but make nothing durable, Copy may
// tear words, and Available says so.
//
// cvap is DC CVAP, for CPUs that report DCPOP; cvac, DC CVAC, cleans to the
// point of coherency instead, which is memory only where no system cache keeps
// dirty lines behind it: a property of the platform that no register tells.
// arm64 has no stores that bypass the cache for certain, so its stream methods
// are stores whose lines are flushed in pieces that fit the first-level cache.
//
// # Costs
//
// Medians of five, on a virtual AMD EPYC (family 26, model 2) with clwb and avx512,
// to ordinary memory, 64 MiB in turn; compare by ratio:
//
//	store, Flush, Fence: one line                 172 ns    1 line
//	store, Flush each; one Fence for 4 lines      182 ns    4 lines
//	                                16 lines      219 ns   16 lines
//	                                64 lines      576 ns   64 lines
//	                    8 B     64 B    128 B    256 B    512 B    4 KiB    2 MiB
//	Copy, Fence       95 ns   101 ns   104 ns   108 ns   111 ns   151 ns    31 µs
//	Zero, Fence           -    96 ns    99 ns   106 ns   111 ns   147 ns    22 µs
//	copy, Persist         -   161 ns   164 ns   171 ns   180 ns   309 ns    50 µs
//	copy alone            -     3 ns     4 ns     7 ns    14 ns    95 ns    30 µs
//
// A Fence waits for what was streamed two thirds of the time that it waits for a
// flushed line, so Copy is the cheaper way to a durable copy of whatever length
// that consists of aligned words. What it has stored is not in the cache
// afterwards: what is soon read again, or stored to again, is better stored
// through it. The stream methods differ by less than the noise. A Fence with
// nothing to wait for takes a nanosecond. Measured by
//
//	go test -run '^$' -bench . -benchtime 100ms -count 5 ./pmem
//
// docs/performance.md compares all this with libpmem and with bare instructions.
//
// # Sources
//
// Intel 64 and IA-32 Architectures Software Developer's Manual: volume 2, CLWB,
// CLFLUSHOPT, CLFLUSH, SFENCE, MOVNTDQ, MOVNTI; volume 3, "Buffering of Write Combining
// Memory Locations" (partly filled buffers leave in chunks of 8 bytes) and
// "Guaranteed Atomic Operations". Arm Architecture Reference Manual for A-profile:
// DC CVAP, DC CVAC, DSB, STNP, "Ordering and completion of data and instruction
// cache instructions", "Requirements for single-copy atomicity" (a pair is two
// accesses, each whole). Linux: arch/arm64/kernel/process.c (__switch_to).
package pmem
