/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_load MODEL [THREADS [ROUNDS]]: seconds to open a whole stage, with the file in the page
 * cache and without, and on one thread those of its parts: reading, the check for what is no
 * number, packing. Without arguments: check and packing of each format, on one thread.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "compute/gguf.h"
#include "compute/kernels/kernels.h"
#include "compute/stage.h"
#include "compute/team.h"

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Out of the page cache, if nobody else has it mapped. */
static void forget(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
        fprintf(stderr, "%s stays in the page cache\n", path);
    close(fd);
}

static void parts(const struct gguf *g)
{
    double bytes = 0, sum[3] = {0};
    char err[GGUF_ERR];

    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (t->n_dims != 2 || mat_bytes_for(t->type, (uint32_t)t->ne[1], (uint32_t)t->ne[0]) == 0)
            continue;
        uint8_t *src = malloc(t->bytes);
        struct mat *m;
        memset(src, 0, t->bytes);
        double t0 = now_s();
        for (uint64_t at = 0; at < t->bytes; at += 256 << 10)
            if (gguf_read(g, t, at, src + at, t->bytes - at < 256 << 10 ? t->bytes - at : 256 << 10,
                          err))
                fprintf(stderr, "%s\n", err);
        double t1 = now_s();
        if (!qtype_finite(t->type, src, (size_t)(t->ne[0] * t->ne[1])))
            fprintf(stderr, "%s: not finite\n", t->name);
        double t2 = now_s();
        if (mat_from_blocks(t->type, src, (uint32_t)t->ne[1], (uint32_t)t->ne[0], &m))
            fprintf(stderr, "%s: not packed\n", t->name);
        double t3 = now_s();
        mat_free(m);
        free(src);
        bytes += (double)t->bytes;
        sum[0] += t1 - t0;
        sum[1] += t2 - t1;
        sum[2] += t3 - t2;
    }
    printf("one thread, %.0f MB of matrices: read %.3f s (%.0f MB/s), check %.3f s (%.0f MB/s), "
           "pack %.3f s (%.0f MB/s)\n",
           bytes * 1e-6, sum[0], bytes * 1e-6 / sum[0], sum[1], bytes * 1e-6 / sum[1], sum[2],
           bytes * 1e-6 / sum[2]);
}

/* Pieces of some 256 KiB, as when a model is loaded: from the L2 cache into memory not yet touched.
 */
static void formats(void)
{
    enum { COLS = 2048, ROWS = 8192, TRIES = 5 };

    for (uint32_t type = 0; type < 64; type++) {
        const struct qtype_info *q = qtype_info(type);
        if (!q)
            continue;
        const size_t row_bytes = COLS / q->block_values * q->block_bytes;
        const uint32_t rows = (uint32_t)(((256u << 10) / row_bytes + 15) / 16 * 16);
        uint8_t *src = calloc(rows, row_bytes);
        double best = 1e9;
        for (int i = 0; i < TRIES; i++) {
            struct mat *m;
            bool finite = true;
            if (mat_new((enum qtype)type, ROWS, COLS, &m))
                exit(1);
            double t0 = now_s();
            for (uint32_t row = 0; row + rows <= ROWS; row += rows) {
                finite &= qtype_finite((enum qtype)type, src, (size_t)rows * COLS);
                mat_pack(m, row, src, rows);
            }
            double s = now_s() - t0;
            best = finite && s < best ? s : best;
            mat_free(m);
        }
        printf("%-5s checked and packed at %.0f MB/s\n", q->name,
               (double)(ROWS / rows * rows) * (double)row_bytes * 1e-6 / best);
        free(src);
    }
}

static double open_s(const char *path, struct team *team)
{
    struct stage_params p = {.n_ctx = 256};
    struct stage *stage;
    struct gguf *g;
    char err[GGUF_ERR];
    double t0 = now_s();

    if (gguf_open(path, &g, err) || stage_open(g, &p, team, &stage, err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
    double t1 = now_s();
    gguf_close(g);
    stage_close(stage);
    return t1 - t0;
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 1, used;
    int rounds = argc > 3 ? atoi(argv[3]) : 3;
    char err[GGUF_ERR] = "";
    struct team *team;
    struct gguf *g;

    if (argc < 2) {
        formats();
        return 0;
    }
    if (gguf_open(argv[1], &g, err) || team_open(threads, -1, &team, &used)) {
        fprintf(stderr, "%s\n", err);
        return 2;
    }
    double mb = (double)gguf_file_bytes(g) * 1e-6;
    open_s(argv[1], team); /* fills the page cache */
    parts(g);
    for (int cold = 0; cold < 2; cold++) {
        double best = 1e9, worst = 0;
        for (int i = 0; i < rounds; i++) {
            if (cold)
                forget(argv[1]);
            double s = open_s(argv[1], team);
            best = s < best ? s : best;
            worst = s > worst ? s : worst;
        }
        printf("%u threads, %s: opened in %.3f to %.3f s, %.0f MB/s\n", used,
               cold ? "not in the page cache" : "in the page cache", best, worst, mb / best);
    }
    gguf_close(g);
    team_close(team);
    return 0;
}
