/* SPDX-License-Identifier: Apache-2.0 */
#include "control/split_plan.h"

#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/profile.h"
#include "control/quality_arg.h"

static int check_model(const char *path, const struct codec_profile *p, const struct model *m)
{
    uint8_t fingerprint[16];
    char of[33], is[33];

    if (m->half.half != STAGE_WHOLE)
        memcpy(fingerprint, m->half.parent, sizeof fingerprint); /* what was calibrated */
    else if (gguf_fingerprint(m->gguf, fingerprint) < 0) {
        log_error("%s: cannot be read", m->path);
        return EXIT_FAILED;
    }
    if (memcmp(p->fingerprint, fingerprint, sizeof fingerprint) == 0)
        return EXIT_OK;
    log_error("profile %s is for split %u of another model (fingerprint %s), not %s (%s): "
              "`isthmus calibrate -m %s --split %u ...` makes one for it",
              path, p->split, profile_hex(p->fingerprint, of), m->path,
              profile_hex(fingerprint, is), m->path, p->split);
    return EXIT_USAGE;
}

int split_profile_read(const char *path, const struct model *m, struct codec_profile **out)
{
    int rc = profile_read(path, out);
    if (rc == EXIT_OK)
        rc = check_model(path, *out, m);
    if (rc != EXIT_OK) {
        codec_profile_free(*out);
        *out = NULL;
    }
    return rc;
}

bool split_profile_is_for(enum codec_mode mode)
{
    return mode == CODEC_RANS || mode == CODEC_XFORM;
}

void split_profile_join(const struct codec_profile *profile, struct codec_params *p)
{
    static bool said;

    if (split_profile_is_for(p->mode))
        p->profile = profile;
    if (p->mode != CODEC_XFORM || profile)
        return;
    *p = codec_params_default(CODEC_TSQ);
    if (said)
        return;
    said = true;
    log_warn("--codec xform needs a profile, which `isthmus calibrate` makes and --profile FILE "
             "names: tsq is used instead");
}

/* --- one split ------------------------------------------------------------------------------- */

static int check_split(const char *path, const struct codec_profile *p, const struct model *m,
                       uint32_t split)
{
    if (p->split == split)
        return EXIT_OK;
    log_error("profile %s is for split %u, not %u: give --split %u, or make one by `isthmus "
              "calibrate -m %s --split %u ...`",
              path, p->split, split, p->split, m->path, split);
    return EXIT_USAGE;
}

static int plan_profile(const struct split_options *o, const struct model *m,
                        struct split_plan *plan)
{
    const bool curve = o->target.kind && o->codec.mode == CODEC_TSQ;

    if (o->codec_given && !split_profile_is_for(o->codec.mode) && !curve) {
        log_error("--profile %s: --codec %s uses none: leave it out, or take rans or xform",
                  o->profile, codec_mode_name(o->codec.mode));
        return EXIT_USAGE;
    }
    const int rc = split_profile_read(o->profile, m, &plan->profile);
    if (rc == EXIT_OK && !o->codec_given)
        plan->codec = codec_params_default(CODEC_XFORM);
    return rc;
}

int split_of_half(const struct model *m, int32_t *split)
{
    if (m->half.half == STAGE_WHOLE)
        return EXIT_OK;
    if (*split >= 0 && (uint32_t)*split != m->half.split) {
        log_error("--split %d: %s is the %s half of a model cut after %u layers: leave the option "
                  "out, or make halves for that split by `isthmus quantize`",
                  *split, m->path, stage_half_name(m->half.half), m->half.split);
        return EXIT_USAGE;
    }
    *split = (int32_t)m->half.split;
    return EXIT_OK;
}

int split_plan(const struct split_options *o, const struct model *m, struct split_plan *plan)
{
    struct split_options where = *o;
    int rc;

    *plan = (struct split_plan){.codec = o->codec, .target = o->target};
    rc = split_of_half(m, &where.split);
    if (rc == EXIT_OK && o->profile)
        rc = plan_profile(o, m, plan);
    if (rc != EXIT_OK)
        return rc;
    if (plan->profile && where.split < 0)
        where.split = (int32_t)plan->profile->split;
    const int split = split_resolve(&where, m->n_layers, m->path);
    rc = split < 0 ? EXIT_USAGE : EXIT_OK;
    if (rc == EXIT_OK && plan->profile)
        rc = check_split(o->profile, plan->profile, m, (uint32_t)split);
    if (rc == EXIT_OK)
        rc = quality_apply(plan->target, plan->profile, (uint32_t)split, &plan->codec);
    if (rc != EXIT_OK) {
        split_plan_free(plan);
        return rc;
    }
    plan->split = (uint32_t)split;
    split_profile_join(plan->profile, &plan->codec);
    return EXIT_OK;
}

void split_plan_free(struct split_plan *plan)
{
    codec_profile_free(plan->profile);
    *plan = (struct split_plan){0};
}
