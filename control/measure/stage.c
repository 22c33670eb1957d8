/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of a stage, timed. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/bench/memory.h"
#include "control/bench/turns.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"
#include "control/signals.h"

#define TURNS_MIN 5u
#define REST_NS   2000000l           /* about what the other half works for a token */
#define OTHERS    ((size_t)64 << 20) /* bytes of its weights: more than most caches have */

struct measure_stage {
    struct stage *stage;
    const struct stage_info *info;
    int seq;
    uint32_t tokens; /* of seq */
    int32_t *ids;    /* [max_rows] */
    float *out;      /* [max_rows][d_model]; NULL: the stage has the head */
    float *logits;   /* [max_rows][n_vocab]; NULL: it has not */
    void *others;    /* OTHERS bytes; NULL: not needed yet */
};

int measure_open_layers(const struct measure_params *p, struct team *team, uint32_t layers,
                        enum kv_format kv, uint32_t rows, uint32_t depth, struct stage **out)
{
    const struct stage_params params = {
        .end_layer = layers,
        .max_rows = rows,
        .n_ctx = depth + rows,
        .kv_format = kv,
    };
    const struct need_process with = {.threads = team_size(team), .logit_rows = rows};

    return model_open_stage(p->m, &params, &with, team, out);
}

int measure_stage_open(struct stage *stage, struct measure_stage **out)
{
    struct measure_stage *s = calloc(1, sizeof(*s));

    *out = NULL;
    if (!s)
        return -ENOMEM;
    const struct stage_info *info = s->info = stage_info(stage);
    const size_t rows = info->max_rows;
    const bool head = info->end_layer == info->n_layers;
    s->stage = stage;
    s->ids = calloc(rows, sizeof(*s->ids));
    s->out = head ? NULL : calloc(rows * info->d_model, sizeof(*s->out));
    s->logits = head ? calloc(rows * info->n_vocab, sizeof(*s->logits)) : NULL;
    s->seq = stage_seq_open(stage, info->n_ctx);
    if (!s->ids || (head ? !s->logits : !s->out) || s->seq < 0) {
        measure_stage_close(s);
        return -ENOMEM;
    }
    for (size_t i = 0; i < rows; i++)
        s->ids[i] = (int32_t)((i + 1) * 7919u % info->n_vocab);
    *out = s;
    return 0;
}

void measure_stage_close(struct measure_stage *s)
{
    if (!s)
        return;
    if (s->seq >= 0)
        stage_seq_close(s->stage, s->seq);
    free(s->ids);
    free(s->out);
    free(s->logits);
    if (s->others)
        memory_unmap(s->others, OTHERS);
    free(s);
}

static int run(struct measure_stage *s, uint32_t rows, uint32_t n_logits)
{
    const struct stage_rows batch = {
        .seq = s->seq, .pos = s->tokens, .n = rows, .n_logits = n_logits};
    const int rc = stage_run(s->stage, &batch, 1, s->ids, NULL, s->out, s->logits);

    if (rc == 0)
        s->tokens += rows;
    return rc < 0 ? rc : signals_caught() ? -EINTR : 0;
}

static int go_to(struct measure_stage *s, uint32_t depth)
{
    int rc = 0;

    if (s->tokens > depth) {
        rc = stage_seq_truncate(s->stage, s->seq, depth);
        s->tokens = depth;
    }
    while (s->tokens < depth && rc == 0) {
        const uint32_t left = depth - s->tokens;
        rc = run(s, left < s->info->max_rows ? left : s->info->max_rows, 0);
    }
    return rc;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int come_to_rest(struct measure_stage *s, enum measure_before before)
{
    const struct timespec rest = {.tv_nsec = REST_NS};

    if (before == MEASURE_AT_ONCE)
        return 0;
    if (before == MEASURE_EVICTED && !s->others) {
        s->others = memory_map(OTHERS);
        if (!s->others)
            return -ENOMEM;
        memset(s->others, 1, OTHERS);
    }
    nanosleep(&rest, NULL);
    if (before == MEASURE_EVICTED)
        memory_read(s->others, OTHERS);
    return 0;
}

int measure_step(struct measure_stage *s, uint32_t depth, uint32_t rows, uint32_t n_logits,
                 enum measure_before before, double time_s, double *quarter_s)
{
    double turns[MEASURE_TURNS_MAX];
    uint32_t n = 0;
    int rc = go_to(s, depth);

    if (rc == 0)
        rc = run(s, rows, n_logits); /* touches what it touches first */
    for (const double until = turns_now_ns() + time_s * 1e9;
         rc == 0 && n < MEASURE_TURNS_MAX && (n < TURNS_MIN || turns_now_ns() < until); n++) {
        rc = go_to(s, depth);
        if (rc == 0)
            rc = come_to_rest(s, before);
        const double start = turns_now_ns();
        if (rc == 0)
            rc = run(s, rows, n_logits);
        turns[n] = (turns_now_ns() - start) * 1e-9;
    }
    if (rc)
        return rc;
    qsort(turns, n, sizeof(*turns), compare);
    *quarter_s = turns[n / 4];
    return 0;
}
