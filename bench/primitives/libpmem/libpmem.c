// The peer of package pmem: PMDK's libpmem, and the bare instructions, which are the limit of both. It maps the file that
// it is given, and answers each line "operation size region count" of standard input by the nanoseconds that count
// operations took, each on size bytes at a random place of the first region bytes. primitives.go has the same loop.
#define _GNU_SOURCE
#include <fcntl.h>
#include <immintrin.h>
#include <libpmem.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { line = 64, source_size = 2 << 20 };

static char *medium, *source;

// A store to each line of [p, p+n): what there is to be made durable.
static inline void store(char *p, size_t n, uint64_t value)
{
	for (size_t i = 0; i < n; i += line)
		*(volatile uint64_t *)(p + i) = value;
}

static void persist(char *p, size_t n, uint64_t i)
{
	store(p, n, i);
	pmem_persist(p, n);
}

static void copy(char *p, size_t n, uint64_t i)
{
	(void)i;
	pmem_memcpy_persist(p, source, n);
}

static void plain_copy(char *p, size_t n, uint64_t i)
{
	(void)i;
	memcpy(p, source, n);
	__asm__ volatile("" ::: "memory");
}

__attribute__((target("clwb"))) static void clwb(char *p, size_t n, uint64_t v)
{
	store(p, n, v);
	for (size_t i = 0; i < n; i += line)
		_mm_clwb(p + i);
	_mm_sfence();
}

__attribute__((target("clflushopt"))) static void clflushopt(char *p, size_t n, uint64_t v)
{
	store(p, n, v);
	for (size_t i = 0; i < n; i += line)
		_mm_clflushopt(p + i);
	_mm_sfence();
}

static void clflush(char *p, size_t n, uint64_t v)
{
	store(p, n, v);
	for (size_t i = 0; i < n; i += line)
		_mm_clflush(p + i);
	_mm_sfence();
}

__attribute__((target("avx512f"))) static void avx512(char *p, size_t n, uint64_t v)
{
	(void)v;
	for (size_t i = 0; i < n; i += line)
		_mm512_stream_si512((__m512i *)(p + i), _mm512_loadu_si512(source + i));
	_mm_sfence();
}

__attribute__((target("avx2"))) static void avx2(char *p, size_t n, uint64_t v)
{
	(void)v;
	for (size_t i = 0; i < n; i += line / 2)
		_mm256_stream_si256((__m256i *)(p + i), _mm256_loadu_si256((__m256i *)(source + i)));
	_mm_sfence();
}

static void sse2(char *p, size_t n, uint64_t v)
{
	(void)v;
	for (size_t i = 0; i < n; i += line / 4)
		_mm_stream_si128((__m128i *)(p + i), _mm_loadu_si128((__m128i *)(source + i)));
	_mm_sfence();
}

// For what is no whole line.
static void movnti(char *p, size_t n, uint64_t v)
{
	(void)v;
	for (size_t i = 0; i < n; i += 8)
		_mm_stream_si64((long long *)(p + i), *(long long *)(source + i));
	_mm_sfence();
}

static const struct operation {
	const char *name;
	void (*run)(char *p, size_t n, uint64_t i);
} operations[] = {
	{"persist", persist}, {"copy", copy}, {"memcpy", plain_copy},
	{"clwb", clwb}, {"clflushopt", clflushopt}, {"clflush", clflush},
	{"avx512", avx512}, {"avx2", avx2}, {"sse2", sse2}, {"movnti", movnti},
};

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

// Places are multiples of what the operation takes, rounded up to lines; xorshift64 chooses them.
static uint64_t measure(const struct operation *o, size_t size, size_t region, uint64_t count)
{
	static uint64_t random = 88172645463325252;
	size_t step = (size + line - 1) / line * line, places = region / step;
	uint64_t start = now();
	for (uint64_t i = 0; i < count; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		o->run(medium + (uint64_t)(((unsigned __int128)random * places) >> 64) * step, size, i);
	}
	return now() - start;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: libpmem FILE BYTES\n");
		return 2;
	}
	size_t bytes = strtoull(argv[2], NULL, 10);
	int fd = open(argv[1], O_RDWR);
	if (fd < 0)
		fail(argv[1]);
	medium = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	source = mmap(NULL, source_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (medium == MAP_FAILED || source == MAP_FAILED)
		fail("mmap");
	memset(source, 'p', source_size);
	char name[32];
	size_t size, region;
	unsigned long count;
	while (scanf("%31s %zu %zu %lu", name, &size, &region, &count) == 4) {
		const struct operation *o = NULL;
		for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
			if (strcmp(operations[i].name, name) == 0)
				o = &operations[i];
		if (o == NULL || size > region || size > source_size || region > bytes) {
			fprintf(stderr, "there is no operation %s of %zu bytes in %zu\n", name, size, region);
			return 2;
		}
		printf("%lu\n", (unsigned long)measure(o, size, region, count));
		fflush(stdout);
	}
	return 0;
}
