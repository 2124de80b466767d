/* Copying and filling. */
#include "bench.h"
#include <stddef.h>
#include <string.h>

#define BLOCK (16 * 1024)
#define SHORT 1000
#define REPEATS 1000
#define SHORT_REPEATS 20000
#define LOOPS 32

/*
 * One behind the other: a direct-mapped table of pages has room for both, whatever its size. And at another place in
 * its page: processors take a load for one of what was just stored 4096 bytes away.
 */
static struct {
    uint64_t from[BLOCK / 8], gap[1088 / 8], to[BLOCK / 8];
} memory __attribute__((aligned(4096)));

static void setup_memory(void)
{
    uint64_t seed = 7;

    for (size_t i = 0; i < BLOCK / 8; i++)
        memory.from[i] = next_random(&seed);
    memset(memory.to, 0, sizeof memory.to);
}

/* Some of what was written, so that looking at it costs little. */
static uint64_t hash_copy(size_t bytes)
{
    uint64_t hash = HASH_START;

    for (size_t i = 0; i < bytes / 8; i += 61)
        hash = mix(hash, memory.to[i]);
    return mix(hash, memory.to[bytes / 8 - 1]);
}

/* By a loop of words; the compiler's flags keep it from calling memcpy. */
static uint64_t copy_words(void)
{
    for (int loop = 0; loop < LOOPS; loop++) {
        for (size_t i = 0; i < BLOCK / 8; i++)
            memory.to[i] = memory.from[i];
        barrier();
    }
    return hash_copy(BLOCK);
}

static uint64_t copy_library(size_t bytes, int repeats)
{
    for (int i = 0; i < repeats; i++) {
        void *to = memory.to;

        __asm__("" : "+r"(to), "+r"(bytes));
        memcpy(to, memory.from, bytes);
        barrier();
    }
    return hash_copy(bytes);
}

static uint64_t copy_block(void)
{
    return copy_library(BLOCK, REPEATS);
}

static uint64_t copy_short(void)
{
    return copy_library(SHORT, SHORT_REPEATS);
}

static uint64_t rep_movsb(void)
{
    for (int i = 0; i < REPEATS; i++) {
        void *to = memory.to;
        const void *from = memory.from;
        size_t count = BLOCK;

        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    return hash_copy(BLOCK);
}

static uint64_t rep_stosq(void)
{
    for (int i = 0; i < REPEATS; i++) {
        void *to = memory.to;
        size_t count = BLOCK / 8;

        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(memory.from[i]) : "memory");
    }
    return hash_copy(BLOCK);
}

const struct row memory_rows[] = {
    {"copy-words", setup_memory, copy_words, NULL, LOOPS * (BLOCK / 8)},
    {"memcpy-1000", setup_memory, copy_short, NULL, SHORT_REPEATS},
    {"memcpy-16k", setup_memory, copy_block, NULL, REPEATS},
    {"rep-movsb-16k", setup_memory, rep_movsb, NULL, REPEATS},
    {"rep-stosq-16k", setup_memory, rep_stosq, NULL, REPEATS},
    {NULL, NULL, NULL, NULL, 0},
};
