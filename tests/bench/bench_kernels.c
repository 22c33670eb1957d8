/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_kernels [TYPE [TOKENS [EXACT [MIB]]]]: the product of a matrix of about MIB (default 64) on
 * this core, each table in turn in every round; prints the best of the rounds. GOP/s counts a
 * multiply-add as two; GB/s are the panels' bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "codec/cpu.h"
#include "compute/kernels/internal.h"

#define COLS 768u

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may share the core */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct {
    const struct kernels_isa *isa;
    unsigned needs;
} tables[] = {
    {&kernels_isa_c, 0},
#if defined(__x86_64__)
    {&kernels_isa_avx2, CPU_AVX2},
    {&kernels_isa_avx512, CPU_AVX512},
    {&kernels_isa_vnni, CPU_VNNI},
#endif
};
#define N_TABLES (sizeof(tables) / sizeof(tables[0]))

static void bench(enum layout_id id, uint32_t tokens, int exact, size_t bytes)
{
    const struct qtype_info *q = qtype_info(kernels_layouts[id].type);
    uint32_t rows = (uint32_t)(bytes / panel_bytes(&kernels_layouts[id], COLS)) * PANEL_ROWS;
    size_t n = (size_t)rows * COLS / q->block_values * q->block_bytes;
    uint8_t *src = calloc(1, n);
    float *x = malloc((size_t)tokens * COLS * 4), *y = malloc((size_t)tokens * rows * 4);
    double best[N_TABLES];
    struct acts *a;
    struct mat *m;

    for (size_t i = 0; i < n; i++)
        src[i] = (uint8_t)(i * 2654435761u >> 16 & 0x3f);
    for (size_t i = 0; i < (size_t)tokens * COLS; i++)
        x[i] = (float)(i * 2654435761u % 1000) - 500.f;
    if (mat_from_blocks(kernels_layouts[id].type, src, rows, COLS, &m) ||
        acts_alloc(tokens, COLS, exact, &a))
        exit(1);
    free(src);
    acts_set(a, x, COLS, tokens, COLS, 0, 1);
    memset(y, 0, (size_t)tokens * rows * 4);
    for (size_t i = 0; i < N_TABLES; i++)
        best[i] = 1e9;
    for (int round = 0; round < 9; round++) {
        for (size_t i = 0; i < N_TABLES; i++) {
            if ((cpu_detect() & tables[i].needs) != tables[i].needs)
                continue;
            if (i == 0 && round) /* slow, and steady */
                continue;
            double t = cpu_s();
            unsigned share = i == 0 ? 16 : 1; /* of the matrix */
            kernels_mat_mul(tables[i].isa, &(struct product){m, NULL, y, rows}, 1, a, 0, 0, share);
            t = (cpu_s() - t) * share;
            if (t < best[i])
                best[i] = t;
        }
    }
    for (size_t i = 0; i < N_TABLES; i++)
        if (best[i] < 1e9)
            printf("%-5s %3u tokens %s %-6s %8.1f GOP/s %7.2f GB/s %6.1f x C\n", q->name, tokens,
                   exact ? "f32 " : "int8", tables[i].isa->rows.name,
                   2e-9 * rows * COLS * tokens / best[i], 1e-9 * (double)mat_bytes(m) / best[i],
                   best[0] / best[i]);
    mat_free(m);
    acts_free(a);
    free(x);
    free(y);
}

int main(int argc, char **argv)
{
    static const uint32_t tokens[] = {1, 2, 4, 8, 128};
    size_t mib = argc > 4 ? strtoul(argv[4], NULL, 0) : 64;

    for (int id = 0; id < N_LAYOUTS; id++) {
        if (argc > 1 && strcmp(argv[1], qtype_info(kernels_layouts[id].type)->name) &&
            strcmp(argv[1], "all"))
            continue;
        for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++)
            for (int exact = 0; exact < 2; exact++)
                if ((argc <= 2 || strtoul(argv[2], NULL, 0) == tokens[i]) &&
                    (argc <= 3 || atoi(argv[3]) == exact))
                    bench((enum layout_id)id, tokens[i], exact, mib << 20);
    }
    return 0;
}
