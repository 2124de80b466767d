/*
 * Programs that people use, over data that is made here, from fork to the end of wait: the guest's busybox, and the
 * host's own python3 and openssl, where it has them.
 */
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINES 12000

static char input[PATH_MAX], output[PATH_MAX];

/* Lines of numbers and words. */
static void setup_data(void)
{
    static const char *const words[] = {
        "reef", "islet", "lagoon", "atoll", "palm", "coral", "tide", "current", "swell", "anchor",
    };
    uint64_t seed = 8;
    FILE *file;

    strcpy(input, scratch("input"));
    strcpy(output, scratch("output"));
    file = fopen(input, "w");
    if (!file)
        fail(input);
    for (int i = 0; i < LINES; i++) {
        uint64_t number = next_random(&seed) >> 20;

        fprintf(file, "%u %s %s %u\n", (unsigned)(number % 1000000), words[number / 7 % 10], words[number / 77 % 10],
                (unsigned)(number / 777 % 1000));
    }
    if (fclose(file) != 0)
        fail(input);
}

static void remove_data(void)
{
    unlink(input);
    unlink(output);
}

static uint64_t hash_output(void)
{
    uint64_t hash = HASH_START;
    struct stat about;
    int fd = open(output, O_RDONLY | O_CLOEXEC);
    const uint8_t *bytes;

    if (fd < 0 || fstat(fd, &about) != 0)
        fail(output);
    if (about.st_size == 0) {
        errno = ENODATA;
        fail(output);
    }
    bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        fail("mmap");
    for (off_t i = 0; i < about.st_size; i++)
        hash = mix(hash, bytes[i]);
    munmap((void *)bytes, (size_t)about.st_size);
    close(fd);
    return hash;
}

/* What python3 needs to do the same everywhere, and to find its library beside it. */
static void set_environment(void)
{
    if (setenv("PYTHONHOME", beside("python"), 1) != 0 || setenv("PYTHONUTF8", "1", 1) != 0 ||
        setenv("PYTHONCOERCECLOCALE", "0", 1) != 0 || setenv("PYTHONHASHSEED", "0", 1) != 0 ||
        setenv("LC_ALL", "C", 1) != 0)
        _exit(126);
}

/* Runs a program from beside this one, its input and output those files, where `input` is a file's name. */
static uint64_t run(const char *name, char *const arguments[])
{
    int status;
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child == 0) {
        int in = open(input, O_RDONLY), out = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        set_environment();
        if (in < 0 || out < 0 || dup2(in, 0) != 0 || dup2(out, 1) != 1 || chdir(scratch(".")) != 0)
            _exit(126);
        execv(beside(name), arguments);
        _exit(127);
    }
    if (waitpid(child, &status, 0) != child)
        fail("waitpid");
    if (status != 0) {
        errno = WIFEXITED(status) && WEXITSTATUS(status) == 127 ? ENOENT : ECHILD;
        fail(arguments[0]);
    }
    return hash_output();
}

static uint64_t run_gzip(void)
{
    return run("busybox", (char *[]){"gzip", "-c", NULL});
}

static uint64_t run_sha256sum(void)
{
    /* Often, because once is hardly longer than the program's start. */
    return run("busybox", (char *[]){
        "sha256sum", "input", "input", "input", "input", "input", "input", "input", "input", NULL,
    });
}

static uint64_t run_sort(void)
{
    return run("busybox", (char *[]){"sort", "-k", "2,3", "-k", "4n", NULL});
}

static uint64_t run_awk(void)
{
    return run("busybox", (char *[]){
        "awk",
        "{ count[$2]++; sum[$3] += $4; if ($0 ~ /reef.*7$/) seen++ }"
        "END { for (w in count) t += count[w] * length(w); for (w in sum) t += sum[w]; print t, seen, NR }",
        NULL,
    });
}

static uint64_t run_python_start(void)
{
    return run("python3", (char *[]){"python3", "-S", "-B", "-c", "print('up')", NULL});
}

static uint64_t run_python_loop(void)
{
    static char script[PATH_MAX];

    strcpy(script, beside("loop.py"));
    return run("python3", (char *[]){"python3", "-S", "-B", script, NULL});
}

static uint64_t run_openssl_sha512(void)
{
    return run("openssl", (char *[]){
        "openssl", "dgst", "-sha512", "input", "input", "input", "input", "input", "input", "input", "input",
        "input", "input", "input", "input", "input", "input", "input", "input", NULL,
    });
}

/* Whether 2 to the power of 1279, less 1, is prime (it is): what openssl does for RSA, and always as long. */
static uint64_t run_openssl_prime(void)
{
    static char number[1 + 319 + 1];

    memset(number, 'F', sizeof number - 1);
    number[0] = '7';
    return run("openssl", (char *[]){"openssl", "prime", "-hex", number, NULL});
}

const struct row program_rows[] = {
    {"gzip", setup_data, run_gzip, remove_data, 1},
    {"sha256sum", setup_data, run_sha256sum, remove_data, 1},
    {"sort", setup_data, run_sort, remove_data, 1},
    {"awk", setup_data, run_awk, remove_data, 1},
    {"python-start", setup_data, run_python_start, remove_data, 1},
    {"python-loop", setup_data, run_python_loop, remove_data, 1},
    {"openssl-sha512", setup_data, run_openssl_sha512, remove_data, 1},
    {"openssl-prime", setup_data, run_openssl_prime, remove_data, 1},
    {NULL, NULL, NULL, NULL, 0},
};
