/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench_stage MODEL [THREADS [PROMPT [FIRST END [KV]]]]: tokens a second of a stage, prefill of PROMPT
 * (default 512) tokens in chunks of 128 and decode of 64 tokens after it, best of three rounds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compute/gguf.h"
#include "compute/stage.h"
#include "compute/team.h"

enum { CHUNK = 128, DECODE = 64, ROUNDS = 3 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct stage *stage;
static int32_t *ids;
static float *rows, *logits;

/* n rows at pos; logits of the last where there is a head. */
static void run(int seq, uint32_t pos, uint32_t n)
{
    const struct stage_info *info = stage_info(stage);
    const bool head = info->end_layer == info->n_layers, front = info->first_layer == 0;
    const struct stage_rows r = {.seq = seq, .pos = pos, .n = n, .n_logits = head};

    if (stage_run(stage, &r, 1, front ? ids : NULL, front ? NULL : rows, head ? NULL : rows,
                  logits)) {
        fprintf(stderr, "stage_run failed\n");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 1, used;
    uint32_t prompt = argc > 3 ? (uint32_t)atoi(argv[3]) : 512;
    struct stage_params p = {.max_rows = CHUNK, .n_ctx = prompt + DECODE};
    double best_prefill = 1e9, best_decode = 1e9;
    struct team *team;
    struct gguf *g;
    char err[GGUF_ERR] = "usage: bench_stage MODEL [THREADS [PROMPT [FIRST END [KV]]]]";

    for (int f = 0; argc > 6 && f < KV_FORMATS; f++)
        if (strcmp(argv[6], kv_format_name((enum kv_format)f)) == 0)
            p.kv_format = (enum kv_format)f;
    if (argc > 5) {
        p.first_layer = (uint32_t)atoi(argv[4]);
        p.end_layer = (uint32_t)atoi(argv[5]);
    }
    if (argc < 2 || gguf_open(argv[1], &g, err) || team_open(threads, -1, &team, &used) ||
        stage_open(g, &p, team, &stage, err)) {
        fprintf(stderr, "%s\n", err);
        return 2;
    }
    gguf_close(g);
    const struct stage_info *info = stage_info(stage);
    ids = malloc(CHUNK * sizeof(*ids));
    rows = malloc(CHUNK * info->d_model * sizeof(*rows));
    logits = malloc(info->n_vocab * sizeof(*logits));
    for (uint32_t i = 0; i < CHUNK; i++)
        ids[i] = (int32_t)(i * 7919 % info->n_vocab);
    for (uint32_t i = 0; i < CHUNK * info->d_model; i++)
        rows[i] = (float)(i * 2654435761u % 2001) / 1000 - 1;

    for (int round = 0; round < ROUNDS; round++) {
        int seq = stage_seq_open(stage, prompt + DECODE);
        double t0 = now_s();
        for (uint32_t pos = 0; pos < prompt; pos += CHUNK)
            run(seq, pos, prompt - pos < CHUNK ? prompt - pos : CHUNK);
        double t1 = now_s();
        for (uint32_t i = 0; i < DECODE; i++)
            run(seq, prompt + i, 1);
        double t2 = now_s();
        stage_seq_close(stage, seq);
        best_prefill = t1 - t0 < best_prefill ? t1 - t0 : best_prefill;
        best_decode = t2 - t1 < best_decode ? t2 - t1 : best_decode;
    }
    printf("layers [%u, %u), %u threads: prefill %u: %.1f t/s, decode: %.1f t/s; weights %.1f MB, "
           "scratch %.1f MB\n",
           info->first_layer, info->end_layer, used, prompt, prompt / best_prefill,
           DECODE / best_decode, (double)info->weights_bytes * 1e-6,
           (double)info->scratch_bytes * 1e-6);
    stage_close(stage);
    team_close(team);
    free(ids);
    free(rows);
    free(logits);
    return 0;
}
