/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What precision costs a model, measured: mean KL divergence of the next-token distribution from
 * the file's own weights, a f16 cache and uncompressed rows. tools/quality-table makes the file by
 * `isthmus eval`; nothing in it is computed from something else. Costs are taken to add up, of
 * which docs/planner.md has the check.
 */
#ifndef ISTHMUS_CONTROL_PLAN_QUALITY_H
#define ISTHMUS_CONTROL_PLAN_QUALITY_H

#include "compute/kernels/attend.h"
#include "control/plan/model.h"

#define PLAN_QUALITY_VERSION 1
#define PLAN_CODEC_MAX       96u
#define PLAN_PATH_MAX        256u
#define PLAN_CODECS_MAX      64u
#define PLAN_POINTS_MAX      64u /* splits of a codec or scheme */

enum plan_stage { PLAN_FRONT, PLAN_BACK, PLAN_STAGE_KINDS };

struct plan_codec_point {
    uint32_t split;
    double kl;
    double decode_bytes, prefill_bytes; /* of a row's tile: alone in its message, and of 64 */
};

struct plan_codec {
    char text[PLAN_CODEC_MAX];   /* as --codec takes it */
    char profile[PLAN_PATH_MAX]; /* what --profile names; "": none. For its split only */
    uint32_t n;
    struct plan_codec_point points[PLAN_POINTS_MAX]; /* splits rising */
};

struct plan_scheme_point {
    uint32_t split;
    double kl;
};

struct plan_quality {
    char model[PLAN_FINGERPRINT];
    char text[PLAN_CODEC_MAX]; /* that it was measured on, and how much of it */
    char calibration[PLAN_CODEC_MAX]; /* of the halves of its schemes; "": not said */
    uint32_t n_codecs;
    struct plan_codec codecs[PLAN_CODECS_MAX]; /* the first is f32, which costs nothing */
    bool kv_known[KV_FORMATS];
    double kv_kl[KV_FORMATS];
    struct {
        uint32_t n;
        struct plan_scheme_point points[PLAN_POINTS_MAX];
    } schemes[PLAN_STAGE_KINDS][PLAN_SCHEMES];
};

/* What is known of any model: rows of d_model values as f32, a f16 cache, weights as they are. */
void plan_quality_none(uint32_t d_model, struct plan_quality *q);

/* err: PLAN_ERR bytes, a line that names `name`. 0, -EBADMSG, -EINVAL (of another model). */
int plan_quality_parse(const char *text, size_t len, const char *name, const struct plan_model *m,
                       struct plan_quality *q, char *err);

/* Of a stage cut at `split`; between two splits that were measured, the greater of both. 0, or
 * -ENOENT: nothing was measured on both sides. */
int plan_quality_scheme(const struct plan_quality *q, enum plan_stage stage, enum plan_scheme s,
                        uint32_t split, double *kl);
/* The same of a codec; its point is exact where it has a profile. */
int plan_quality_codec(const struct plan_codec *c, uint32_t split, struct plan_codec_point *p);
/* -ENOENT: not measured. */
int plan_quality_kv(const struct plan_quality *q, enum kv_format kv, double *kl);

#endif
