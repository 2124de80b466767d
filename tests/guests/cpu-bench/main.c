/*
 * The guest of `cargo xtask bench cpu`. It runs its rows one after the other and prints a line for each:
 *
 *     row NAME best=NS mean=NS units=N check=HEX
 *
 * nanoseconds an iteration in the fastest unit and over all of them. It runs as a guest's init and as an
 * ordinary process on the host, the same file. Environment, which the kernel's command line becomes for an init:
 *
 *     bench=NAME[,NAME...]     these rows only
 *     bench_ms=N               units of a row are repeated until N ms have passed (150), but twice at least
 *     bench_shell=1            a shell when the rows are through, in a guest
 */
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MARKER
#define MARKER "first line of user space"
#endif

#define MILLISECOND UINT64_C(1000000)

/* The first unit of a row may be the first time that its code runs at all. */
#define LEAST_UNITS 2

/* Units of which even a great many take no time would never end. */
#define MOST_UNITS 100000

static char own_folder[PATH_MAX];
static char scratch_folder[PATH_MAX];
static bool is_init;

/* The process that runs all rows; each row is run by a child of it. */
static pid_t first_process;

static uint64_t now(void)
{
    struct timespec time;

    if (clock_gettime(CLOCK_MONOTONIC, &time) != 0)
        fail("clock_gettime");
    return (uint64_t)time.tv_sec * 1000 * MILLISECOND + (uint64_t)time.tv_nsec;
}

static void end(int status)
{
    fflush(stdout);
    if (getpid() != first_process)
        _exit(status);
    rmdir(scratch_folder);
    if (!is_init)
        exit(status);
    if (getenv("bench_shell")) {
        char *const arguments[] = {"sh", NULL};

        execv("/bin/busybox", arguments);
    }
    sync();
    reboot(RB_POWER_OFF);
    /* An init must not end. */
    for (;;)
        pause();
}

void fail(const char *what)
{
    printf("failed %s: %s\n", what, strerror(errno));
    end(1);
    abort();
}

static const char *in_folder(char *path, const char *folder, const char *name)
{
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        fail(name);
    }
    return path;
}

const char *beside(const char *name)
{
    static char path[PATH_MAX];

    return in_folder(path, own_folder, name);
}

const char *scratch(const char *name)
{
    static char path[PATH_MAX];

    return in_folder(path, scratch_folder, name);
}

static bool wanted(const char *name)
{
    const char *list = getenv("bench");
    size_t length = strlen(name);

    if (!list || !*list)
        return true;
    for (;;) {
        size_t part = strcspn(list, ",");

        if (part == length && strncmp(list, name, length) == 0)
            return true;
        if (!list[part])
            return false;
        list += part + 1;
    }
}

static void measure(const struct row *row, uint64_t budget)
{
    uint64_t best = UINT64_MAX, total = 0, units = 0, check = 0;

    if (row->setup)
        row->setup();
    while (units < LEAST_UNITS || (total < budget && units < MOST_UNITS)) {
        uint64_t start = now();
        uint64_t result = row->unit();
        uint64_t took = now() - start;

        if (units && result != check) {
            printf("failed %s: unit %" PRIu64 " has the checksum %016" PRIx64 ", those before it %016" PRIx64 "\n",
                   row->name, units, result, check);
            end(1);
        }
        check = result;
        total += took;
        units++;
        if (took < best)
            best = took;
    }
    if (row->teardown)
        row->teardown();
    printf("row %s best=%.4f mean=%.4f units=%" PRIu64 " check=%016" PRIx64 "\n", row->name,
           (double)best / (double)row->iterations, (double)total / (double)units / (double)row->iterations,
           units, check);
}

/* In a process of its own, so that no row finds the memory, or the CPUs to run on, that another has left. */
static void run(const struct row *row, uint64_t budget)
{
    pid_t child = fork();
    int status;

    if (child < 0)
        fail("fork");
    if (child == 0) {
        measure(row, budget);
        end(0);
    }
    if (waitpid(child, &status, 0) != child)
        fail("waitpid");
    if (status != 0) {
        printf("failed %s: status %#x\n", row->name, (unsigned)status);
        end(1);
    }
}

static void find_folders(const char *program)
{
    if (!realpath(program, own_folder))
        fail(program);
    *strrchr(own_folder, '/') = '\0';
    if (is_init) {
        /* It may be there, and what else is wrong the mount tells. */
        mkdir("/dev/shm", 0777);
        if (mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL) != 0)
            fail("mounting /dev/shm");
    }
    strcpy(scratch_folder, "/dev/shm/cpu-bench.XXXXXX");
    if (!mkdtemp(scratch_folder))
        fail("making a folder in /dev/shm");
}

int main(int count, char **arguments)
{
    static const struct row *const groups[] = {
        integer_rows, call_rows, float_rows, simd_rows, memory_rows, system_rows, program_rows,
    };
    const char *milliseconds = getenv("bench_ms");
    uint64_t budget = (milliseconds ? strtoull(milliseconds, NULL, 10) : 150) * MILLISECOND;

    first_process = getpid();
    is_init = first_process == 1;
    printf("%s\nclock %" PRIu64 "\n", MARKER, now());
    fflush(stdout);
    find_folders(count > 0 ? arguments[0] : "");
    for (size_t group = 0; group < sizeof groups / sizeof groups[0]; group++)
        for (const struct row *row = groups[group]; row->name; row++)
            if (wanted(row->name))
                run(row, budget);
    printf("clock %" PRIu64 "\ndone\n", now());
    end(0);
}
