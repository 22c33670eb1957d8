/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds a row for encode and decode, each ISA this machine has beside C. The ISAs take turns
 * within one run and the fastest turn of each counts, so that other load cancels out. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "codec/codec.h"
#include "codec/cpu.h"

#define TURNS 40
#define ROWS  16u
#define LOOPS 20

static const unsigned masks[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
#define N_MASKS (sizeof(masks) / sizeof(masks[0]))

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Like a hidden state: small values, about 2 % of outliers. */
static float *make_rows(uint32_t cols)
{
    float *rows = malloc(ROWS * cols * sizeof(*rows));

    srand(1);
    for (uint32_t i = 0; i < ROWS * cols; i++) {
        float v = 0.0f;
        for (int k = 0; k < 6; k++)
            v += (float)rand() / (float)RAND_MAX - 0.5f;
        rows[i] = rand() % 50 ? v : 20.0f * v;
    }
    return rows;
}

static void bench(enum codec_mode mode, uint32_t cols)
{
    static const char *const names[] = {"f32", "f16", "tsq"};
    const struct codec_params p = codec_params_default(mode);
    const size_t capacity = codec_bound(&p, ROWS, cols);
    float *rows = make_rows(cols), *out = malloc(ROWS * cols * sizeof(*out));
    uint8_t *tile = malloc(capacity);
    double best[N_MASKS][2];
    int bytes = 0;

    for (size_t m = 0; m < N_MASKS; m++)
        best[m][0] = best[m][1] = INFINITY;
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t m = 0; m < N_MASKS; m++) {
            struct codec *c;
            double start, middle, end;
            cpu_set_mask(masks[m]);
            if (cpu_flags() != masks[m] || codec_open(&p, cols, &c))
                continue;
            start = now_ns();
            for (int i = 0; i < LOOPS; i++) {
                struct codec_cursor at = {0, 0};
                bytes = codec_encode(c, rows, cols, ROWS, 0, &at, tile, capacity, NULL);
            }
            middle = now_ns();
            for (int i = 0; i < LOOPS; i++)
                codec_decode(c, tile, (size_t)bytes, 0, out, cols, ROWS, NULL);
            end = now_ns();
            best[m][0] = fmin(best[m][0], (middle - start) / (LOOPS * ROWS));
            best[m][1] = fmin(best[m][1], (end - middle) / (LOOPS * ROWS));
            codec_close(c);
        }
    }
    for (size_t m = 0; m < N_MASKS; m++) {
        if (isinf(best[m][0]))
            continue;
        printf("%s d %5u %-6s  encode %7.0f ns/row (C x %.1f)  decode %7.0f ns/row (C x %.1f)\n",
               names[mode], cols, cpu_level_name(masks[m]), best[m][0], best[0][0] / best[m][0],
               best[m][1], best[0][1] / best[m][1]);
    }
    free(rows);
    free(out);
    free(tile);
}

int main(void)
{
    for (int mode = CODEC_F32; mode <= CODEC_TSQ; mode++) {
        bench((enum codec_mode)mode, 576);
        bench((enum codec_mode)mode, 4096);
    }
    return 0;
}
