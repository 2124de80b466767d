/* Code that mostly goes from one place to another. */
#include "bench.h"
#include <stddef.h>

/* Recursion. `optimize` keeps the compiler from making a loop of half of it, and the attributes from copying it. */

#define FIB_OF 25
#define FIB_CALLS 242785 /* 2 * fib(FIB_OF + 1) - 1 */

static __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls,no-inline"))) uint64_t fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t recursion(void)
{
    unsigned n = FIB_OF;

    __asm__("" : "+r"(n));
    return fib(n);
}

/* Calls through a table, in an order without a pattern. */

#define INDIRECT_CALLS 50000

static uint64_t op_add(uint64_t a, uint64_t b) { return a + b; }
static uint64_t op_xor(uint64_t a, uint64_t b) { return a ^ b; }
static uint64_t op_sub(uint64_t a, uint64_t b) { return a - b; }
static uint64_t op_rotate(uint64_t a, uint64_t b) { return (a << 7 | a >> 57) + b; }
static uint64_t op_shift(uint64_t a, uint64_t b) { return (a >> 3) ^ b; }
static uint64_t op_multiply(uint64_t a, uint64_t b) { return a * (b | 1); }
static uint64_t op_greater(uint64_t a, uint64_t b) { return a > b ? a : b ^ a; }
static uint64_t op_or(uint64_t a, uint64_t b) { return (a | b) + 1; }

static uint64_t (*volatile const operations[8])(uint64_t, uint64_t) = {
    op_add, op_xor, op_sub, op_rotate, op_shift, op_multiply, op_greater, op_or,
};

static uint64_t indirect(void)
{
    uint64_t a = 1;
    uint32_t order = 12345;

    for (int i = 0; i < INDIRECT_CALLS; i++) {
        order = order * 1664525 + 1013904223;
        a = operations[order >> 29](a, order);
    }
    return a;
}

/* A machine with a stack, its program a nested loop: most dispatches go through one jump table. */

enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, AND, LESS, JUMP_IF, HALT };

#define INNER 100
#define OUTER 30

static const int32_t program[] = {
    /* i = OUTER */
    PUSH, OUTER, STORE, 0,
    /* 4: j = INNER */
    PUSH, INNER, STORE, 1,
    /* 8: sum = sum * 31 + (i & j) - j */
    LOAD, 2, PUSH, 31, MUL, LOAD, 0, LOAD, 1, AND, ADD, LOAD, 1, SUB, STORE, 2,
    /* 24: j = j - 1; if 0 < j go to 8 */
    LOAD, 1, PUSH, 1, SUB, STORE, 1, PUSH, 0, LOAD, 1, LESS, JUMP_IF, 8,
    /* 38: i = i - 1; if 0 < i go to 4 */
    LOAD, 0, PUSH, 1, SUB, STORE, 0, PUSH, 0, LOAD, 0, LESS, JUMP_IF, 4,
    HALT,
};

/* 11 of the sum and 8 of the loop, each time round; 10 around an inner loop; two at the start, one at the end. */
#define DISPATCHES (OUTER * (INNER * 18 + 10) + 3)

static uint64_t interpret(const int32_t *code)
{
    uint64_t stack[16], variables[4] = {0}, dispatches = 0;
    uint64_t *top = stack;
    const int32_t *at = code;

    for (;;) {
        dispatches++;
        switch ((enum op)*at++) {
        case PUSH:
            *top++ = (uint64_t)*at++;
            break;
        case LOAD:
            *top++ = variables[*at++];
            break;
        case STORE:
            variables[*at++] = *--top;
            break;
        case ADD:
            top--;
            top[-1] += *top;
            break;
        case SUB:
            top--;
            top[-1] -= *top;
            break;
        case MUL:
            top--;
            top[-1] *= *top;
            break;
        case AND:
            top--;
            top[-1] &= *top;
            break;
        case LESS:
            top--;
            top[-1] = top[-1] < *top;
            break;
        case JUMP_IF:
            at = *--top ? code + *at : at + 1;
            break;
        case HALT:
            return mix(variables[2], dispatches);
        }
    }
}

static uint64_t bytecode(void)
{
    const int32_t *code = program;

    __asm__("" : "+r"(code));
    return interpret(code);
}

const struct row call_rows[] = {
    {"fib", NULL, recursion, NULL, FIB_CALLS},
    {"indirect", NULL, indirect, NULL, INDIRECT_CALLS},
    {"bytecode", NULL, bytecode, NULL, DISPATCHES},
    {NULL, NULL, NULL, NULL, 0},
};
