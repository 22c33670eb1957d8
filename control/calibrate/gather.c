/* SPDX-License-Identifier: Apache-2.0 */
#include "control/calibrate/gather.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "compute/backprop.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/progress.h"

static int out_of_memory(void)
{
    log_error("out of memory");
    return EXIT_FAILED;
}

/* --- rows ------------------------------------------------------------------------------------ */

static int gather_rows(struct splitpass *pass, const struct eval_text *text, struct gathered *g)
{
    const struct stage_rows window = {.n = EVAL_WINDOW};
    struct progress progress;

    progress_start(&progress, "rows at the split", text->n / EVAL_WINDOW);
    for (uint32_t at = 0; at < text->n; at += EVAL_WINDOW) {
        float *rows = g->rows + (size_t)at * g->cols;
        const int rc =
            splitpass_run(pass, 0, 0, &window, 1, text->ids + at, NULL, &rows, NULL, NULL);
        if (rc < 0) {
            progress_clear(&progress);
            log_error("the model cannot be run: %s", strerror(-rc));
            return EXIT_FAILED;
        }
        for (uint32_t i = 0; i < EVAL_WINDOW; i++)
            g->token[at + i] = i;
        progress_step(&progress);
    }
    return EXIT_OK;
}

/* --- gradients ------------------------------------------------------------------------------- */

/* Each member of the team takes the next window: what comes of it depends on the window alone. */
struct grads_task {
    const struct backprop *b;
    struct gathered *g;
    uint64_t seed;
    struct progress progress;
    atomic_uint next, done;
    unsigned said; /* of done, by the leader */
    atomic_bool failed;
};

/* The gradients come sample by sample, and are kept token by token. */
static void window_grads(struct grads_task *k, struct backprop_work *w, unsigned window,
                         int32_t *ids, float *grads)
{
    const size_t cols = k->g->cols, samples = k->g->samples;
    const size_t first = (size_t)window * EVAL_WINDOW;

    backprop_grads(w, k->g->rows + first * cols, EVAL_WINDOW, k->g->samples, &k->seed, window, ids,
                   grads);
    for (size_t s = 0; s < samples; s++)
        for (size_t t = 0; t < EVAL_WINDOW; t++)
            memcpy(k->g->grads + ((first + t) * samples + s) * cols,
                   grads + (s * EVAL_WINDOW + t) * cols, cols * sizeof(*grads));
}

static void grads_work(void *arg, unsigned part, unsigned parts)
{
    struct grads_task *k = arg;
    const unsigned windows = k->g->n / EVAL_WINDOW;
    const size_t values = (size_t)k->g->samples * EVAL_WINDOW;
    struct backprop_work *w = NULL;
    int32_t *ids = malloc(values * sizeof(*ids));
    float *grads = malloc(values * k->g->cols * sizeof(*grads));

    if (part >= windows)
        goto out;
    if (!ids || !grads || backprop_work_open(k->b, EVAL_WINDOW, k->g->samples, &w))
        k->failed = true;
    for (unsigned i = k->next++; i < windows && !k->failed; i = k->next++) {
        window_grads(k, w, i, ids, grads);
        const unsigned done = ++k->done;
        if (part == 0) {
            progress_add(&k->progress, done - k->said);
            k->said = done;
        }
    }
out:
    backprop_work_close(w);
    free(ids);
    free(grads);
}

static int gather_grads(const struct model *m, struct team *team, uint32_t split, uint64_t seed,
                        struct gathered *g)
{
    struct grads_task k = {.g = g, .seed = seed};
    char err[GGUF_ERR] = "";
    struct backprop *b;
    const int rc = backprop_open(m->gguf, split, &b, err);

    if (rc) {
        log_error("%s", err);
        return EXIT_FAILED;
    }
    k.b = b;
    progress_start(&k.progress, "gradients", g->n / EVAL_WINDOW);
    team_run(team, grads_work, &k);
    progress_clear(&k.progress);
    backprop_close(b);
    return k.failed ? out_of_memory() : EXIT_OK;
}

int gather(const struct model *m, struct splitpass *pass, struct team *team, uint32_t split,
           const struct eval_text *text, uint32_t samples, uint64_t seed, struct gathered *g)
{
    const size_t n = text->n;

    *g = (struct gathered){.n = text->n, .cols = pass->d_model, .samples = samples};
    g->rows = malloc(n * g->cols * sizeof(*g->rows));
    g->token = malloc(n * sizeof(*g->token));
    g->grads = malloc(n * samples * g->cols * sizeof(*g->grads));
    if (!g->rows || !g->token || !g->grads)
        return out_of_memory();
    const int rc = gather_rows(pass, text, g);
    return rc == EXIT_OK ? gather_grads(m, team, split, seed, g) : rc;
}

void gathered_free(struct gathered *g)
{
    free(g->rows);
    free(g->token);
    free(g->grads);
    *g = (struct gathered){0};
}
