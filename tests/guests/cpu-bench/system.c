/* What programs ask of the operating system. */
#define _GNU_SOURCE
#include "bench.h"
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

/* All rows here stay on one CPU, so that a host with many is like a guest with one. */
static void stay(void)
{
    int cpu = sched_getcpu();
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : (size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("sched_setaffinity");
}

/* The cheapest system call; not through the library, which might keep the number. */

#define CALLS 5000

static uint64_t getpids(void)
{
    uint64_t same = 1;
    long first = 0;

    for (int i = 0; i < CALLS; i++) {
        long result;

        __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_getpid) : "rcx", "r11", "memory");
        if (i == 0)
            first = result;
        same &= result > 0 && result == first;
    }
    return same;
}

/* Anonymous pages: mapped, touched, unmapped. */

#define PAGES 256

static uint64_t page_faults(void)
{
    uint64_t sum = 0;
    uint8_t *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        fail("mmap");
    madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < PAGES; i++) {
        sum += memory[i * PAGE + 1];
        memory[i * PAGE] = (uint8_t)i;
    }
    for (size_t i = 0; i < PAGES; i++)
        sum += memory[i * PAGE];
    if (munmap(memory, PAGES * PAGE) != 0)
        fail("munmap");
    return sum;
}

#define FORKS 10
#define STATUS 7

static int wait_for(pid_t child)
{
    int status;

    if (child < 0)
        fail("fork");
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
        fail("waitpid");
    return WEXITSTATUS(status);
}

static uint64_t forks(void)
{
    uint64_t sum = 0;

    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();

        if (child == 0)
            _exit(STATUS);
        sum += (uint64_t)wait_for(child);
    }
    return sum;
}

static char tiny[PATH_MAX];

static void setup_exec(void)
{
    stay();
    strcpy(tiny, beside("tiny"));
}

static uint64_t execs(void)
{
    char *const arguments[] = {tiny, NULL}, *const environment[] = {NULL};
    uint64_t sum = 0;

    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();

        if (child == 0) {
            execve(tiny, arguments, environment);
            _exit(127);
        }
        sum += (uint64_t)wait_for(child);
    }
    return sum;
}

/* A byte to another process and back. */

#define ROUNDS 100

static int to_child[2], from_child[2];
static pid_t partner;

static void setup_pipe(void)
{
    stay();
    if (pipe(to_child) != 0 || pipe(from_child) != 0)
        fail("pipe");
    partner = fork();
    if (partner < 0)
        fail("fork");
    if (partner == 0) {
        uint8_t byte;

        close(to_child[1]);
        close(from_child[0]);
        while (read(to_child[0], &byte, 1) == 1) {
            byte++;
            if (write(from_child[1], &byte, 1) != 1)
                break;
        }
        _exit(0);
    }
    close(to_child[0]);
    close(from_child[1]);
}

static uint64_t ping_pong(void)
{
    uint8_t byte = 0;

    for (int i = 0; i < ROUNDS; i++)
        if (write(to_child[1], &byte, 1) != 1 || read(from_child[0], &byte, 1) != 1)
            fail("the pipe");
    return byte;
}

static void teardown_pipe(void)
{
    close(to_child[1]);
    close(from_child[0]);
    wait_for(partner);
}

/* A file that is made, written and taken away. */

#define FILES 50

static char file[PATH_MAX];

static void setup_files(void)
{
    stay();
    strcpy(file, scratch("file"));
}

static uint64_t files(void)
{
    static const char data[PAGE] = "what is written";
    uint64_t written = 0;

    for (int i = 0; i < FILES; i++) {
        int fd = open(file, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        ssize_t count;

        if (fd < 0)
            fail(file);
        count = write(fd, data, sizeof data);
        if (count < 0 || close(fd) != 0 || unlink(file) != 0)
            fail(file);
        written += (uint64_t)count;
    }
    return written;
}

const struct row system_rows[] = {
    {"getpid", stay, getpids, NULL, CALLS},
    {"page-fault", stay, page_faults, NULL, PAGES},
    {"fork", stay, forks, NULL, FORKS},
    {"exec", setup_exec, execs, NULL, FORKS},
    {"pipe", setup_pipe, ping_pong, teardown_pipe, ROUNDS},
    {"file", setup_files, files, NULL, FILES},
    {NULL, NULL, NULL, NULL, 0},
};
