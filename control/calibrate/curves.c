/* SPDX-License-Identifier: Apache-2.0 */
#include "control/calibrate/curves.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/divergence.h"
#include "control/log.h"
#include "control/progress.h"

/* What is tried: about .0015 to .1 in mean KL, for SmolLM2 in its first half. */
#define POINTS 6u
static const float deltas[POINTS] = {.05f, .065f, .08f, .1f, .14f, .2f};
static const float steps[POINTS] = {.006f, .0085f, .012f, .017f, .024f, .034f};

static const struct {
    enum codec_mode mode;
    const float *parameters;
} kinds[CODEC_PROFILE_CURVES] = {
    [CODEC_PROFILE_TSQ] = {CODEC_TSQ, deltas},
    [CODEC_PROFILE_RANS] = {CODEC_RANS, steps},
    [CODEC_PROFILE_XFORM] = {CODEC_XFORM, steps},
};

/* One point on a curve, while it is measured. */
struct point {
    struct codec *codec;
    struct splitpass_traffic traffic;
    struct divergence divergence;
};

struct curves {
    struct splitpass *pass;
    const struct gathered *g;
    struct point points[CODEC_PROFILE_CURVES][POINTS];
    float *got; /* f32[EVAL_WINDOW][cols] after a codec */
    float *ref; /* f32[EVAL_WINDOW][n_vocab] */
    struct point *now;
};

static int open_point(struct curves *c, struct codec_profile *profile, unsigned kind, unsigned i,
                      uint32_t windows)
{
    struct codec_params params = codec_params_default(kinds[kind].mode);
    struct point *p = &c->points[kind][i];

    if (params.mode == CODEC_TSQ)
        params.delta = kinds[kind].parameters[i];
    else
        params.step = kinds[kind].parameters[i];
    params.profile = params.mode == CODEC_TSQ ? NULL : profile;
    const int rc = codec_open(&params, c->g->cols, &p->codec);
    return rc ? rc
              : divergence_open(&p->divergence, c->pass->n_vocab, (size_t)windows * EVAL_WINDOW);
}

static int open_points(struct curves *c, struct codec_profile *profile, uint32_t windows)
{
    int rc = 0;

    for (unsigned kind = 0; kind < CODEC_PROFILE_CURVES; kind++)
        for (unsigned i = 0; i < POINTS && rc == 0; i++)
            rc = open_point(c, profile, kind, i, windows);
    return rc;
}

static void close_points(struct curves *c)
{
    for (unsigned kind = 0; kind < CODEC_PROFILE_CURVES; kind++)
        for (unsigned i = 0; i < POINTS; i++) {
            codec_close(c->points[kind][i].codec);
            divergence_close(&c->points[kind][i].divergence);
        }
}

static void keep_reference(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                           const float *logits)
{
    struct curves *c = arg;

    memcpy(c->ref + (size_t)first * c->pass->n_vocab, logits,
           (size_t)count * c->pass->n_vocab * sizeof(*logits));
}

static void compare(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                    const float *logits)
{
    struct curves *c = arg;
    const size_t n_vocab = c->pass->n_vocab;

    for (uint32_t i = 0; i < count; i++)
        divergence_add(&c->now->divergence, c->ref + (first + i) * n_vocab, logits + i * n_vocab,
                       -1, false);
}

static int measure_point(struct curves *c, const float *sent)
{
    const struct stage_rows rows = {.n = EVAL_WINDOW, .n_logits = EVAL_WINDOW};
    const int rc = splitpass_carry(c->now->codec, sent, EVAL_WINDOW, 0, c->g->cols,
                                   SPLITPASS_MESSAGE_ROWS, c->got, &c->now->traffic);

    return rc ? rc : splitpass_run(c->pass, 1, 1, &rows, 1, NULL, c->got, NULL, compare, c);
}

static int measure_window(struct curves *c, uint32_t window, struct progress *progress)
{
    const struct stage_rows rows = {.n = EVAL_WINDOW, .n_logits = EVAL_WINDOW};
    const float *sent = c->g->rows + (size_t)window * EVAL_WINDOW * c->g->cols;
    int rc = splitpass_run(c->pass, 1, 1, &rows, 1, NULL, sent, NULL, keep_reference, c);

    progress_step(progress);
    for (unsigned kind = 0; kind < CODEC_PROFILE_CURVES; kind++)
        for (unsigned i = 0; i < POINTS && rc == 0; i++) {
            c->now = &c->points[kind][i];
            rc = measure_point(c, sent);
            progress_step(progress);
        }
    return rc;
}

static void hand_out(struct curves *c, struct codec_profile *profile)
{
    for (unsigned kind = 0; kind < CODEC_PROFILE_CURVES; kind++)
        for (unsigned i = 0; i < POINTS; i++) {
            struct point *p = &c->points[kind][i];
            const struct codec_stats *stats = &p->traffic.codec;

            profile->curves[kind].points[i] = (struct codec_profile_point){
                .parameter = kinds[kind].parameters[i],
                .kl_mean = (float)divergence_summary(&p->divergence).kl_mean,
                .bytes_per_token = (float)((double)stats->bytes / (double)stats->rows),
            };
            profile->curves[kind].n = POINTS;
        }
}

int calibrate_curves(struct splitpass *pass, const struct gathered *g, uint32_t n_windows,
                     struct codec_profile *p)
{
    const uint32_t windows = g->n / EVAL_WINDOW;
    struct curves c = {
        .pass = pass,
        .g = g,
        .got = malloc((size_t)EVAL_WINDOW * g->cols * sizeof(float)),
        .ref = malloc((size_t)EVAL_WINDOW * pass->n_vocab * sizeof(float)),
    };
    struct progress progress;

    if (n_windows > windows)
        n_windows = windows;
    int rc = c.got && c.ref ? open_points(&c, p, n_windows) : -ENOMEM;
    progress_start(&progress, "quality over bytes",
                   (uint64_t)n_windows * (CODEC_PROFILE_CURVES * POINTS + 1));
    for (uint32_t i = 0; i < n_windows && rc == 0; i++)
        rc = measure_window(&c, (uint32_t)((uint64_t)windows * i / n_windows), &progress);
    progress_clear(&progress);
    if (rc == 0)
        hand_out(&c, p);
    else
        log_error("quality over bytes cannot be measured: %s", strerror(-rc));

    close_points(&c);
    free(c.got);
    free(c.ref);
    return rc ? EXIT_FAILED : EXIT_OK;
}
