/* What the rows of `cargo xtask bench cpu` share. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

/*
 * One row. `unit` does the same work each time and returns a checksum that depends on all of it, and on
 * nothing else: not on the clock, the CPU, addresses or the time of day.
 */
struct row {
    const char *name;
    void (*setup)(void);        /* before the first unit, untimed; may be NULL */
    uint64_t (*unit)(void);
    void (*teardown)(void);     /* after the last unit, untimed; may be NULL */
    uint64_t iterations;        /* in one unit: what the time is divided by */
};

/* Each ends with a row without a name. */
extern const struct row integer_rows[], call_rows[], float_rows[], simd_rows[];
extern const struct row memory_rows[], system_rows[], program_rows[];

uint64_t multiply_avx2(void);   /* its own file, for its own -march */
void setup_matrices(void);

/* A file beside this program, and one in the folder where files may be made: of memory, not of a disk. */
const char *beside(const char *name);
const char *scratch(const char *name);

/* Ends the run with what failed and why (errno). */
void fail(const char *what) __attribute__((noreturn));

/* xorshift64*: the same numbers everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dULL;
}

/* One step of FNV-1a, by words. */
static inline uint64_t mix(uint64_t hash, uint64_t word)
{
    return (hash ^ word) * 0x100000001b3ULL;
}

#define HASH_START 0xcbf29ce484222325ULL

/* The compiler must take what is in memory as changed. */
#define barrier() __asm__ volatile("" ::: "memory")

#endif
