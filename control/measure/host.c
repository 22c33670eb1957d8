/* SPDX-License-Identifier: Apache-2.0 */
/* A host with a model. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "codec/cpu.h"
#include "control/bench/bounds.h"
#include "control/bench/machine.h"
#include "control/cmd.h"
#include "control/commit.h"
#include "control/log.h"
#include "control/measure/measure.h"
#include "control/memory.h"

#define ROWS_MAX    128u
#define ATTEND_ROWS 64u
#define BOUNDS_S    .3
#define TURNS_MOST  4u
#define RESTED_MAX  16u /* rows: of longer steps a rest before is no part that counts */

static const uint32_t row_counts[] = {1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128};

void measure_names(struct plan_host *h)
{
    memset(h, 0, sizeof(*h));
    if (gethostname(h->host, sizeof h->host - 1) < 0)
        snprintf(h->host, sizeof h->host, "unknown host");
    machine_cpu_name(h->cpu);
    snprintf(h->isa, sizeof h->isa, "%s", cpu_level_name(cpu_flags()));
    snprintf(h->version, sizeof h->version, "%s", ISTHMUS_VERSION);
    snprintf(h->commit, sizeof h->commit, "%s", ISTHMUS_COMMIT);
}

int measure_failed(int rc, const char *what)
{
    if (rc == -EINTR)
        return EXIT_INTERRUPTED;
    log_error("%s: %s", what, strerror(-rc));
    return EXIT_FAILED;
}

/* --- layers and head ---------------------------------------------------------------------------
 */

/* Steps without logits; with the head also what logits of all rows add. */
static int time_rows(const struct measure_params *p, struct stage *stage, struct plan_host *h)
{
    double *s = h->stages[h->n_stages].s, *rested_s = h->stages[h->n_stages].rested_s;
    const struct stage_info *info = stage_info(stage);
    const bool head = info->end_layer == info->n_layers;
    struct measure_stage *steps;
    uint32_t n_rested = 0;
    int rc = measure_stage_open(stage, &steps);

    for (uint32_t i = 0; i < h->n_rows && rc == 0; i++) {
        const uint32_t rows = h->rows[i];
        n_rested += rows <= RESTED_MAX;
        rc = measure_step(steps, 0, rows, 0, MEASURE_AT_ONCE, p->time_s, &s[i]);
        rested_s[i] = s[i];
        if (rc == 0 && rows <= RESTED_MAX)
            rc = measure_step(steps, 0, rows, 0, MEASURE_RESTED, p->time_s, &rested_s[i]);
        if (rc == 0 && head) /* the step with it, as yet */
            rc = measure_step(steps, 0, rows, rows,
                              rows <= RESTED_MAX ? MEASURE_RESTED : MEASURE_AT_ONCE, p->time_s,
                              &h->head_s[i]);
    }
    measure_stage_close(steps);
    if (rc)
        return measure_failed(rc, "a step of the model");
    const uint32_t n_others = h->n_rows - n_rested; /* of these a rest is no part */
    plan_trim_steps(s, h->n_rows);
    plan_trim_steps(rested_s, n_rested);
    memcpy(rested_s + n_rested, s + n_rested, n_others * sizeof *s);
    plan_trim_steps(h->head_s, head ? n_rested : 0);
    plan_trim_steps(h->head_s + n_rested, head ? n_others : 0);
    for (uint32_t i = 0; i < h->n_rows && head; i++)
        h->head_s[i] = h->head_s[i] > rested_s[i] ? h->head_s[i] - rested_s[i] : 0;
    return EXIT_OK;
}

static int time_stages(const struct measure_params *p, struct team *team, struct plan_host *h)
{
    const uint32_t n = p->shapes->n_layers;
    const uint32_t layers[] = {(n + 5) / 6, (n + 2) / 3, (2 * n + 2) / 3, n};
    int rc = EXIT_OK;

    for (unsigned i = 0; i < sizeof layers / sizeof *layers && rc == EXIT_OK; i++) {
        struct stage *stage = NULL;
        if (h->n_stages && h->stages[h->n_stages - 1].layers == layers[i])
            continue;
        rc = measure_open_layers(p, team, layers[i], KV_F16, ROWS_MAX, 0, &stage);
        if (rc == EXIT_OK)
            rc = time_rows(p, stage, h);
        stage_close(stage);
        h->stages[h->n_stages++].layers = layers[i];
        progress_add(p->progress, 3);
    }
    return rc;
}

/* --- attention ---------------------------------------------------------------------------------
 */

/* A row's time at the depth beyond that at none; <= 0 where others on the machine took more. */
static int beyond(const struct measure_params *p, struct measure_stage *steps, uint32_t rows,
                  double time_s, double *s)
{
    double near_s, far_s;
    int rc = measure_step(steps, 0, rows, 0, MEASURE_AT_ONCE, time_s, &near_s);

    if (rc == 0)
        rc = measure_step(steps, p->depth, rows, 0, MEASURE_AT_ONCE, time_s, &far_s);
    if (rc == 0)
        *s = far_s - near_s;
    return rc;
}

/* What a row takes more for each token before it. Where that is lost among what others on the
 * machine take, measured again for longer; 0: it stays lost, which is said. */
static int slope(const struct measure_params *p, struct measure_stage *steps, uint32_t layers,
                 enum kv_format kv, uint32_t rows, double *s)
{
    double more_s = 0;
    int rc = 0;

    for (unsigned turn = 0; turn < TURNS_MOST && rc == 0 && more_s <= 0; turn++)
        rc = beyond(p, steps, rows, p->time_s * (1u << turn), &more_s);
    if (rc == 0 && more_s <= 0)
        log_warn("%s: steps of %u rows took no longer with %u tokens before them than with none, "
                 "%u times: attention is not measured, and nothing with this cache can be planned; "
                 "is the machine busy? A greater --depth or --time may help",
                 kv_format_name(kv), rows, p->depth, TURNS_MOST);
    *s = more_s > 0 ? more_s / layers / rows / p->depth : 0;
    return rc;
}

static int time_attention(const struct measure_params *p, struct team *team, struct plan_host *h,
                          enum kv_format kv)
{
    const uint32_t layers = h->stages[0].layers;
    struct measure_stage *steps;
    struct stage *stage = NULL;
    int rc = measure_open_layers(p, team, layers, kv, ROWS_MAX, p->depth, &stage);

    if (rc != EXIT_OK)
        return rc;
    rc = measure_stage_open(stage, &steps);
    if (rc == 0)
        rc = slope(p, steps, layers, kv, 1, &h->attend[kv].one_s);
    if (rc == 0)
        rc = slope(p, steps, layers, kv, ATTEND_ROWS, &h->attend[kv].many_s);
    measure_stage_close(steps);
    stage_close(stage);
    progress_add(p->progress, 1);
    return rc ? measure_failed(rc, "attention") : EXIT_OK;
}

/* --- bounds ------------------------------------------------------------------------------------
 */

static int time_bounds(struct team *team, struct plan_host *h)
{
    struct bounds *b;
    int rc = bounds_open(team, BOUND(BOUND_DRAM_READ) | BOUND(BOUND_DOT), machine_dram_bytes(), &b);

    if (rc == 0)
        rc = bounds_measure(b, BOUNDS_S);
    if (rc == 0) {
        h->dram_bytes_per_s = bounds_best(b, BOUND_DRAM_READ, BOUND_ANY_ISA).rate * 1e9;
        h->int8_ops_per_s = bounds_best(b, BOUND_DOT, BOUND_ANY_ISA).rate * 1e9;
    }
    bounds_close(b);
    return rc ? measure_failed(rc, "bounds of this machine") : EXIT_OK;
}

int measure_host(const struct measure_params *p, struct plan_host *h)
{
    struct team *team = NULL;

    measure_names(h);
    memcpy(h->model, p->shapes->fingerprint, sizeof h->model);
    h->memory_bytes = memory_there();
    h->n_rows = sizeof row_counts / sizeof *row_counts;
    memcpy(h->rows, row_counts, sizeof row_counts);
    h->attend_rows = ATTEND_ROWS;
    int rc = measure_wake(&h->wake_s); /* before the team pins this thread */
    rc = rc ? measure_failed(rc, "how long waking takes") : EXIT_OK;
    if (rc == EXIT_OK)
        rc = model_team(p->options, 1, 0, &team);
    if (rc != EXIT_OK)
        return rc;
    h->threads = team_size(team);
    rc = time_stages(p, team, h);
    for (unsigned kv = 0; kv < KV_FORMATS && rc == EXIT_OK; kv++)
        if (kv_value_code((enum kv_format)kv) != KV_CODE_Q4 || p->shapes->head_dim % 32 == 0)
            rc = time_attention(p, team, h, (enum kv_format)kv);
    if (rc == EXIT_OK)
        rc = measure_products(p, h);
    progress_add(p->progress, 2);
    if (rc == EXIT_OK)
        rc = time_bounds(team, h);
    team_close(team);
    if (rc == EXIT_OK)
        rc = measure_beside(p, h);
    progress_add(p->progress, 2);
    return rc;
}
