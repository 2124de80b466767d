/*
 * What the ways of reading and writing a file at random cost on this host: threads that call preadv(2) and pwritev(2), or one
 * thread with io_uring(7). Requests of 4 KiB, each anywhere in the file (docs/adr/0026-disk-io.md).
 *
 * gcc -O2 -pthread -o ways ways.c; ./ways FILE threads|io_uring COUNT SECONDS read|write cached|cold|direct
 *
 * COUNT are threads, or requests under way at once, 64 at most. cold: what the host has of the file in its page cache is dropped first.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST 64
#define BLOCK 4096

static int file, writes;
static uint64_t blocks;
static double seconds;
static atomic_ullong total;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static off_t place(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (off_t)(*state % blocks) * BLOCK;
}

static char *memory(int count)
{
	char *buffer = aligned_alloc(BLOCK, (size_t)BLOCK * count);
	if (!buffer)
		fail("memory");
	return memset(buffer, 1, (size_t)BLOCK * count);
}

static void *thread(void *number)
{
	uint64_t state = 0x9e3779b97f4a7c15u * ((uintptr_t)number + 1), done = 0;
	struct iovec vector = { memory(1), BLOCK };
	for (double end = now() + seconds; now() < end; done++) {
		off_t at = place(&state);
		if ((writes ? pwritev(file, &vector, 1, at) : preadv(file, &vector, 1, at)) != BLOCK)
			fail("a request");
	}
	total += done;
	return NULL;
}

static void by_threads(int count)
{
	pthread_t threads[MOST];
	for (long n = 0; n < count; n++)
		if (pthread_create(&threads[n], NULL, thread, (void *)n))
			fail("a thread");
	for (int n = 0; n < count; n++)
		pthread_join(threads[n], NULL);
}

static void *map(int ring, size_t bytes, off_t what)
{
	void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
	if (mapped == MAP_FAILED)
		fail("mmap");
	return mapped;
}

static void by_ring(int count)
{
	struct io_uring_params p = { 0 };
	int ring = syscall(SYS_io_uring_setup, count, &p);
	if (ring < 0)
		fail("io_uring_setup");
	char *sq = map(ring, p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
	char *cq = map(ring, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	struct io_uring_sqe *entries = map(ring, p.sq_entries * sizeof *entries, IORING_OFF_SQES);
	struct io_uring_cqe *results = (void *)(cq + p.cq_off.cqes);
	_Atomic unsigned *tail = (void *)(sq + p.sq_off.tail);
	_Atomic unsigned *head = (void *)(cq + p.cq_off.head), *end = (void *)(cq + p.cq_off.tail);
	unsigned *order = (void *)(sq + p.sq_off.array);
	struct iovec vectors[MOST];
	char *buffer = memory(count);
	int idle[MOST], idles = 0;
	uint64_t state = 88172645463325252u, done = 0;
	for (int n = 0; n < count; n++)
		idle[idles++] = n;
	for (double until = now() + seconds; now() < until;) {
		unsigned made = 0;
		for (; idles; made++) {
			int n = idle[--idles];
			unsigned at = *tail & (p.sq_entries - 1);
			vectors[n] = (struct iovec){ buffer + (size_t)BLOCK * n, BLOCK };
			entries[at] = (struct io_uring_sqe){
				.opcode = writes ? IORING_OP_WRITEV : IORING_OP_READV, .fd = file, .off = place(&state),
				.addr = (uintptr_t)&vectors[n], .len = 1, .user_data = n,
			};
			order[at] = at;
			++*tail;
		}
		if (syscall(SYS_io_uring_enter, ring, made, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
			fail("io_uring_enter");
		for (; *head != *end; done++) {
			struct io_uring_cqe *result = &results[*head & (p.cq_entries - 1)];
			if (result->res != BLOCK)
				fail("a request");
			idle[idles++] = result->user_data;
			++*head;
		}
	}
	total += done;
}

static double cpu(void)
{
	struct rusage used;
	getrusage(RUSAGE_SELF, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	int count = argc == 7 ? atoi(argv[3]) : 0;
	if (count < 1 || count > MOST) {
		fprintf(stderr, "ways FILE threads|io_uring COUNT SECONDS read|write cached|cold|direct\n");
		return 1;
	}
	seconds = atof(argv[4]);
	writes = !strcmp(argv[5], "write");
	file = open(argv[1], O_RDWR | (strcmp(argv[6], "direct") ? 0 : O_DIRECT));
	if (file < 0)
		fail(argv[1]);
	blocks = lseek(file, 0, SEEK_END) / BLOCK;
	if (!strcmp(argv[6], "cold")) {
		fdatasync(file);
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	}
	double began = now(), used = cpu();
	if (!strcmp(argv[2], "threads"))
		by_threads(count);
	else
		by_ring(count);
	printf("%s %s, %s %d: %.0f a second, %.2f us of CPU time each\n", argv[6], argv[5], argv[2], count,
	       total / (now() - began), (cpu() - used) * 1e6 / total);
	return 0;
}
