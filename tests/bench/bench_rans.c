/* SPDX-License-Identifier: Apache-2.0 */
/* rANS encode and decode, Gsymbols/s of one core, each ISA this machine has beside C: in every
 * number of lanes, with one table for all groups and with another one for each. The ISAs take turns
 * within one run and the fastest turn of each counts, so that other load cancels out. Cycles are of
 * the clock that a chain of dependent additions shows. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codec/cpu.h"
#include "codec/dsp.h"

#define TURNS  200
#define LOOPS  4
#define TABLES 32u
#define N_MAX  16384u

static const unsigned masks[] = {0, CPU_AVX2, CPU_AVX2 | CPU_AVX512};
#define N_MASKS (sizeof(masks) / sizeof(masks[0]))

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* One addition a cycle on every x86-64. */
static double core_ghz(void)
{
    double best = INFINITY;

    for (int turn = 0; turn < 50; turn++) {
        const int n = 20000;
        uint64_t x = 0;
        double start = now_ns();
        for (int i = 0; i < n; i++) {
            x += 1;
            __asm__ volatile("" : "+r"(x));
            x += 1;
            __asm__ volatile("" : "+r"(x));
            x += 1;
            __asm__ volatile("" : "+r"(x));
            x += 1;
            __asm__ volatile("" : "+r"(x));
        }
        best = fmin(best, (now_ns() - start) / (4.0 * n));
    }
    return 1.0 / best;
}

struct input {
    struct rans_table tables[TABLES];
    uint8_t table_of[N_MAX / RANS_GROUP];
    uint8_t symbols[N_MAX];
    uint8_t seeds[RANS_LANES_MAX];
};

/* Two-sided exponentials of all scales from .5 to 4 bits a symbol, and symbols drawn from them. */
static void fill(struct input *in)
{
    uint16_t freq[TABLES][RANS_SYMBOLS];

    srand(1);
    for (unsigned k = 0; k < TABLES; k++) {
        uint32_t counts[RANS_SYMBOLS];
        const double scale = 0.25 * pow(32.0, k / (TABLES - 1.0));
        for (unsigned s = 0; s < RANS_SYMBOLS; s++)
            counts[s] = 1 + (uint32_t)(1e6 * exp(-fabs(s - 8.0) / scale));
        rans_quantize_freqs(counts, 0, freq[k]);
        rans_table_init(&in->tables[k], freq[k]);
    }
    for (unsigned i = 0; i < N_MAX; i++) {
        uint8_t *k = &in->table_of[i / RANS_GROUP];
        int slot = rand() % (int)RANS_TOTAL;
        if (i % RANS_GROUP == 0)
            *k = (uint8_t)(rand() % (int)TABLES);
        in->symbols[i] = 0;
        while ((slot -= freq[*k][in->symbols[i]]) >= 0)
            in->symbols[i]++;
    }
    for (unsigned i = 0; i < RANS_LANES_MAX; i++)
        in->seeds[i] = (uint8_t)rand();
}

static void bench(const struct input *in, unsigned lanes, unsigned n, bool tables, double ghz)
{
    static uint8_t packed[N_MAX + 2 * RANS_LANES_MAX], out[N_MAX], seeds[RANS_LANES_MAX];
    const struct rans_model model = {tables ? in->tables : in->tables + TABLES - 1,
                                     tables ? in->table_of : NULL};
    double best[N_MASKS][2];
    int bytes = 0;

    for (size_t m = 0; m < N_MASKS; m++)
        best[m][0] = best[m][1] = INFINITY;
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t m = 0; m < N_MASKS; m++) {
            struct codec_dsp dsp;
            double start, middle, end;
            cpu_set_mask(masks[m]);
            if (cpu_flags() != masks[m])
                continue;
            codec_dsp_init(&dsp, masks[m]);
            start = now_ns();
            for (int i = 0; i < LOOPS; i++)
                bytes = rans_encode(&dsp, &model, in->symbols, n, lanes, in->seeds, packed,
                                    sizeof(packed));
            middle = now_ns();
            for (int i = 0; i < LOOPS; i++)
                if (rans_decode(&dsp, &model, packed, (size_t)bytes, n, lanes, out, seeds))
                    abort();
            end = now_ns();
            if (memcmp(out, in->symbols, n) != 0)
                abort();
            best[m][0] = fmin(best[m][0], (middle - start) / (LOOPS * n));
            best[m][1] = fmin(best[m][1], (end - middle) / (LOOPS * n));
        }
    }
    for (size_t m = 0; m < N_MASKS; m++) {
        if (isinf(best[m][0]))
            continue;
        printf("%2u lanes, n %5u, %-12s %.2f bits  %-6s", lanes, n,
               tables ? "many tables" : "one table", 8.0 * bytes / n, cpu_level_name(masks[m]));
        for (int way = 0; way < 2; way++)
            printf("  %s %.2f Gsym/s, %.2f cycles (C x %.1f)", way ? "decode" : "encode",
                   1.0 / best[m][way], best[m][way] * ghz, best[0][way] / best[m][way]);
        printf("\n");
    }
}

int main(void)
{
    static struct input in;
    const double ghz = core_ghz();

    fill(&in);
    printf("%.2f GHz\n", ghz);
    for (unsigned lanes = 4; lanes <= 64; lanes *= 2) {
        bench(&in, lanes, 576, true, ghz);
        bench(&in, lanes, 4096, true, ghz);
    }
    bench(&in, 64, 4096, false, ghz);
    bench(&in, 64, N_MAX, true, ghz);
    return 0;
}
