/* Scalar floating point: one double at a time, in XMM registers. */
#include "bench.h"
#include <stddef.h>
#include <string.h>

static uint64_t bits(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Bodies that draw each other. */

#define BODIES 5
#define STEPS 1000

static struct body {
    double x, y, z, vx, vy, vz, mass;
} bodies[BODIES];

static void place_bodies(void)
{
    for (int i = 0; i < BODIES; i++) {
        double n = i + 1;

        bodies[i] = (struct body){n, n * n / 4, -n / 3, 0.1 / n, -0.05 * n, 0.02, 1 / n};
    }
}

static void move_bodies(double step)
{
    for (int i = 0; i < BODIES; i++) {
        struct body *a = &bodies[i];

        for (int j = i + 1; j < BODIES; j++) {
            struct body *b = &bodies[j];
            double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
            double square = dx * dx + dy * dy + dz * dz + 0.01;
            double force = step / (square * __builtin_sqrt(square));

            a->vx -= dx * b->mass * force;
            a->vy -= dy * b->mass * force;
            a->vz -= dz * b->mass * force;
            b->vx += dx * a->mass * force;
            b->vy += dy * a->mass * force;
            b->vz += dz * a->mass * force;
        }
    }
    for (int i = 0; i < BODIES; i++) {
        struct body *body = &bodies[i];

        body->x += step * body->vx;
        body->y += step * body->vy;
        body->z += step * body->vz;
    }
}

static uint64_t nbody(void)
{
    uint64_t hash = HASH_START;

    place_bodies();
    for (int i = 0; i < STEPS; i++)
        move_bodies(0.001);
    for (int i = 0; i < BODIES; i++) {
        hash = mix(hash, bits(bodies[i].x));
        hash = mix(hash, bits(bodies[i].y));
        hash = mix(hash, bits(bodies[i].vz));
    }
    return hash;
}

/* The Mandelbrot set, coarsely. */

#define WIDTH 48
#define HEIGHT 32
#define DEPTH 100

static uint64_t mandelbrot(void)
{
    uint64_t hash = HASH_START;

    for (int row = 0; row < HEIGHT; row++)
        for (int column = 0; column < WIDTH; column++) {
            double cr = 3.0 * column / WIDTH - 2.0, ci = 2.0 * row / HEIGHT - 1.0;
            double r = 0, i = 0, rr = 0, ii = 0;
            int n = 0;

            while (n < DEPTH && rr + ii <= 4.0) {
                i = 2 * r * i + ci;
                r = rr - ii + cr;
                rr = r * r;
                ii = i * i;
                n++;
            }
            hash = mix(hash, (uint64_t)n);
        }
    return hash;
}

const struct row float_rows[] = {
    {"nbody", NULL, nbody, NULL, STEPS},
    {"mandelbrot", NULL, mandelbrot, NULL, WIDTH * HEIGHT},
    {NULL, NULL, NULL, NULL, 0},
};
