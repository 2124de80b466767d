/*
 * The rows of `cargo xtask bench disk`: reads and writes of a whole disk, past the guest's page cache (O_DIRECT), timed by the
 * guest's clock. Each row prints its name, how many requests it made and how many nanoseconds that took.
 *
 * disk-bench DISK MILLISECONDS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 16

struct row {
	const char *name;
	int write;
	size_t bytes;
	/* Requests under way at once. */
	int depth;
	int random;
	/* fdatasync after each. */
	int sync;
};

static const struct row ROWS[] = {
	{ "random-read-4k", 0, 4096, 1, 1, 0 },
	{ "random-write-4k", 1, 4096, 1, 1, 0 },
	{ "random-read-4k-16", 0, 4096, 16, 1, 0 },
	{ "random-write-4k-16", 1, 4096, 16, 1, 0 },
	{ "write-4k-sync", 1, 4096, 1, 1, 1 },
	{ "sequential-read-1m", 0, 1 << 20, 1, 0, 0 },
	{ "sequential-write-1m", 1, 1 << 20, 1, 0, 0 },
};

static uint64_t state = 88172645463325252u;

static uint64_t number(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
	printf("disk-bench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t place(const struct row *row, uint64_t size, uint64_t n)
{
	uint64_t places = size / row->bytes;
	return (row->random ? number() % places : n % places) * row->bytes;
}

static uint64_t one_by_one(int disk, const struct row *row, uint64_t size, char *buffer, uint64_t until)
{
	uint64_t n = 0;
	do {
		off_t at = (off_t)place(row, size, n);
		ssize_t done = row->write ? pwrite(disk, buffer, row->bytes, at) : pread(disk, buffer, row->bytes, at);
		if (done != (ssize_t)row->bytes)
			fail(row->name);
		if (row->sync && fdatasync(disk) != 0)
			fail("fdatasync");
		n++;
	} while (now() < until);
	return n;
}

static uint64_t many(int disk, const struct row *row, uint64_t size, char *buffer, uint64_t until)
{
	aio_context_t context = 0;
	struct iocb blocks[MOST], *first[MOST];
	struct io_event events[MOST];
	uint64_t n = 0;
	int under_way = 0;
	if (syscall(SYS_io_setup, MOST, &context) != 0)
		fail("io_setup");
	for (int i = 0; i < row->depth; i++)
		first[i] = &blocks[i];
	int ready = row->depth;
	for (;;) {
		int more = now() < until;
		if (!more && under_way == 0)
			break;
		if (more) {
			for (int i = 0; i < ready; i++) {
				struct iocb *block = first[i];
				memset(block, 0, sizeof *block);
				block->aio_fildes = (uint32_t)disk;
				block->aio_lio_opcode = row->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
				block->aio_buf = (uint64_t)(uintptr_t)(buffer + (size_t)(block - blocks) * row->bytes);
				block->aio_nbytes = row->bytes;
				block->aio_offset = (int64_t)place(row, size, n);
			}
			if (ready > 0 && syscall(SYS_io_submit, context, ready, first) != ready)
				fail("io_submit");
			under_way += ready;
		}
		long got = syscall(SYS_io_getevents, context, 1, MOST, events, NULL);
		if (got < 1)
			fail("io_getevents");
		for (long i = 0; i < got; i++) {
			if (events[i].res != (int64_t)row->bytes)
				fail(row->name);
			first[i] = (struct iocb *)(uintptr_t)events[i].obj;
		}
		ready = (int)got;
		under_way -= ready;
		n += (uint64_t)got;
	}
	syscall(SYS_io_destroy, context);
	return n;
}

int main(int count, char **words)
{
	if (count != 3)
		return 2;
	int disk = open(words[1], O_RDWR | O_DIRECT);
	uint64_t size = 0;
	void *buffer = NULL;
	if (disk < 0 || ioctl(disk, BLKGETSIZE64, &size) != 0)
		fail(words[1]);
	if (posix_memalign(&buffer, 4096, MOST * 4096 > 1 << 20 ? MOST * 4096 : 1 << 20) != 0)
		fail("memory");
	memset(buffer, 0x5a, 1 << 20);
	uint64_t budget = strtoull(words[2], NULL, 10) * 1000000u;
	for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
		const struct row *row = &ROWS[i];
		/* What was written before is not to be waited for in this row. */
		if (fdatasync(disk) != 0)
			fail("fdatasync");
		uint64_t start = now();
		uint64_t n = row->depth == 1 ? one_by_one(disk, row, size, buffer, start + budget)
					     : many(disk, row, size, buffer, start + budget);
		printf("row %s %llu %llu\n", row->name, (unsigned long long)n, (unsigned long long)(now() - start));
		fflush(stdout);
	}
	return 0;
}
