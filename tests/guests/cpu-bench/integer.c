/* Integer code whose data is in the caches. */
#include "bench.h"
#include <stddef.h>
#include <string.h>

/* SHA-256 (FIPS 180-4) of a buffer of whole blocks. */

#define SHA_BYTES (32 * 1024)

static uint32_t sha_constants[64];
static uint8_t sha_data[SHA_BYTES];

static uint32_t rotate_right(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* The first 32 bits of the fraction of a prime's root (4.2.2), by whole numbers only. */
static uint32_t root_fraction(uint32_t prime)
{
    unsigned __int128 target = (unsigned __int128)prime << 96;
    uint64_t root = 0;

    for (int bit = 36; bit >= 0; bit--) {
        uint64_t candidate = root | UINT64_C(1) << bit;

        if ((unsigned __int128)candidate * candidate * candidate <= target)
            root = candidate;
    }
    return (uint32_t)root;
}

static void setup_sha256(void)
{
    uint64_t seed = 1;
    int found = 0;

    for (uint32_t n = 2; found < 64; n++) {
        uint32_t divisor = 2;

        while (n % divisor)
            divisor++;
        if (divisor == n)
            sha_constants[found++] = root_fraction(n);
    }
    for (size_t i = 0; i < SHA_BYTES; i++)
        sha_data[i] = (uint8_t)next_random(&seed);
}

static void sha256_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];

    for (int i = 0; i < 16; i++) {
        uint32_t word;

        memcpy(&word, block + 4 * i, 4);
        w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ w[i - 2] >> 10;

        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + sha_constants[i] + w[i];
        uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));

        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

static uint64_t sha256(void)
{
    uint32_t state[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    uint64_t hash = HASH_START;

    for (size_t i = 0; i < SHA_BYTES; i += 64)
        sha256_block(state, sha_data + i);
    for (int i = 0; i < 8; i++)
        hash = mix(hash, state[i]);
    return hash;
}

/* Quicksort (Hoare's partition, insertion sort for what is short) of random numbers. */

#define SORTED 16384

static uint32_t sort_data[SORTED];

static void sort(uint32_t *first, uint32_t *last)
{
    while (last - first > 12) {
        uint32_t pivot = first[(last - first) / 2];
        uint32_t *left = first, *right = last;

        for (;;) {
            while (*left < pivot)
                left++;
            while (*right > pivot)
                right--;
            if (left >= right)
                break;
            uint32_t swap = *left;
            *left++ = *right;
            *right-- = swap;
        }
        sort(first, left - 1);
        first = left;
    }
    for (uint32_t *at = first + 1; at <= last; at++) {
        uint32_t value = *at, *hole = at;

        for (; hole > first && hole[-1] > value; hole--)
            *hole = hole[-1];
        *hole = value;
    }
}

static uint64_t quicksort(void)
{
    uint64_t seed = 2, hash = HASH_START;

    for (size_t i = 0; i < SORTED; i++)
        sort_data[i] = (uint32_t)next_random(&seed);
    sort(sort_data, sort_data + SORTED - 1);
    for (size_t i = 0; i < SORTED; i += 16)
        hash = mix(hash, sort_data[i]);
    return hash;
}

/* A hash table with open addressing: numbers are counted, then looked up, half of them in vain. */

#define SLOTS 16384
#define KEYS 10000
#define LOOKUPS 20000

static struct slot {
    uint64_t key, count;
} slots[SLOTS];

static struct slot *find_slot(uint64_t key)
{
    uint64_t at = (key * 0x9e3779b97f4a7c15ULL) >> 50;

    while (slots[at].key && slots[at].key != key)
        at = (at + 1) % SLOTS;
    return &slots[at];
}

static uint64_t hash_table(void)
{
    uint64_t seed = 3, hash = HASH_START;

    memset(slots, 0, sizeof slots);
    for (int i = 0; i < KEYS; i++) {
        uint64_t key = 1 + (next_random(&seed) >> 20) % KEYS;
        struct slot *slot = find_slot(key);

        slot->key = key;
        slot->count++;
    }
    for (int i = 0; i < LOOKUPS; i++) {
        uint64_t key = 1 + (next_random(&seed) >> 20) % (2 * KEYS);

        hash += find_slot(key)->count * key;
    }
    return hash;
}

/* Pointers that lead through memory in an order that no prefetcher knows, one a cache line. */

#define L1_NODES 256
#define L2_NODES 8192
#define STEPS 100000

static struct node {
    struct node *next;
    uint64_t number;
    char rest[48];
} nodes[L2_NODES] __attribute__((aligned(4096)));

/* One cycle through all of them (Sattolo). */
static void setup_nodes(unsigned count)
{
    static uint32_t order[L2_NODES];
    uint64_t seed = 4;

    for (unsigned i = 0; i < count; i++)
        order[i] = i;
    for (unsigned i = count - 1; i > 0; i--) {
        unsigned other = (unsigned)((next_random(&seed) >> 20) % i);
        uint32_t swap = order[i];

        order[i] = order[other];
        order[other] = swap;
    }
    for (unsigned i = 0; i < count; i++) {
        nodes[i].next = &nodes[order[i]];
        nodes[i].number = i;
    }
}

static void setup_l1(void)
{
    setup_nodes(L1_NODES);
}

static void setup_l2(void)
{
    setup_nodes(L2_NODES);
}

static uint64_t chase(void)
{
    const struct node *at = nodes;

    for (int i = 0; i < STEPS; i++)
        at = at->next;
    return at->number;
}

/* A list of structures, each changed by short functions as an object's methods change it. */

#define ACCOUNTS 256
#define WALKS 64

static struct account {
    struct account *next;
    int64_t balance;
    uint32_t bookings, refused;
    int64_t highest;
} accounts[ACCOUNTS];

static __attribute__((noinline)) void deposit(struct account *account, int64_t amount)
{
    account->balance += amount;
    account->bookings++;
}

static __attribute__((noinline)) int withdraw(struct account *account, int64_t amount)
{
    if (account->balance < amount) {
        account->refused++;
        return 0;
    }
    account->balance -= amount;
    account->bookings++;
    return 1;
}

static __attribute__((noinline)) void note_highest(struct account *account)
{
    if (account->balance > account->highest)
        account->highest = account->balance;
}

static uint64_t list_update(void)
{
    uint64_t hash = HASH_START;
    int64_t amount = 1;

    memset(accounts, 0, sizeof accounts);
    for (int i = 0; i < ACCOUNTS; i++)
        accounts[i].next = i + 1 < ACCOUNTS ? &accounts[i + 1] : NULL;
    for (int walk = 0; walk < WALKS; walk++)
        for (struct account *account = accounts; account; account = account->next) {
            amount = (amount * 37 + 11) & 1023;
            deposit(account, amount);
            note_highest(account);
            if (withdraw(account, amount + walk - 20) && account->next)
                deposit(account->next, walk);
        }
    for (int i = 0; i < ACCOUNTS; i++) {
        hash = mix(hash, (uint64_t)accounts[i].balance);
        hash = mix(hash, (uint64_t)accounts[i].bookings << 32 | accounts[i].refused);
        hash = mix(hash, (uint64_t)accounts[i].highest);
    }
    return hash;
}

/* CRC-32 (the polynomial of Ethernet and zlib) by a table, a byte at a time. */

#define CRC_BYTES (32 * 1024)

static uint32_t crc_table[256];
static uint8_t crc_data[CRC_BYTES];

static void setup_crc32(void)
{
    uint64_t seed = 5;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
        crc_table[i] = crc;
    }
    for (size_t i = 0; i < CRC_BYTES; i++)
        crc_data[i] = (uint8_t)next_random(&seed);
}

static uint64_t crc32(void)
{
    uint32_t crc = ~UINT32_C(0);

    for (size_t i = 0; i < CRC_BYTES; i++)
        crc = crc_table[(crc ^ crc_data[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}

const struct row integer_rows[] = {
    {"sha256", setup_sha256, sha256, NULL, SHA_BYTES},
    {"quicksort", NULL, quicksort, NULL, SORTED},
    {"hash", NULL, hash_table, NULL, KEYS + LOOKUPS},
    {"chase-16k", setup_l1, chase, NULL, STEPS},
    {"chase-512k", setup_l2, chase, NULL, STEPS},
    {"list", NULL, list_update, NULL, ACCOUNTS * WALKS},
    {"crc32", setup_crc32, crc32, NULL, CRC_BYTES},
    {NULL, NULL, NULL, NULL, 0},
};
