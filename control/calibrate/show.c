/* SPDX-License-Identifier: Apache-2.0 */
#include "control/calibrate/show.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "codec/codec.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/profile.h"

static const struct {
    enum codec_mode mode;
    const char *parameter;
} kinds[CODEC_PROFILE_CURVES] = {
    [CODEC_PROFILE_TSQ] = {CODEC_TSQ, "delta"},
    [CODEC_PROFILE_RANS] = {CODEC_RANS, "step"},
    [CODEC_PROFILE_XFORM] = {CODEC_XFORM, "step"},
};

static json_t *curve_json(const struct codec_profile_curve *c, const char *parameter)
{
    json_t *points = json_array();

    for (uint32_t i = 0; i < c->n; i++) {
        const struct codec_profile_point *p = &c->points[i];
        json_t *point = json_object();

        json_object_set_new(point, parameter, json_real((double)p->parameter));
        json_object_set_new(point, "kl_mean", json_real((double)p->kl_mean));
        json_object_set_new(point, "bytes_per_token", json_real((double)p->bytes_per_token));
        json_array_append_new(points, point);
    }
    return points;
}

json_t *calibrate_show_json(const struct codec_profile *p)
{
    char model[33], hash[33];
    json_t *curves = json_object();

    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        json_object_set_new(curves, codec_mode_name(kinds[i].mode),
                            curve_json(&p->curves[i], kinds[i].parameter));
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:o, s:o}", "hash", profile_hex(p->hash, hash),
                     "model", profile_hex(p->fingerprint, model), "split", (int)p->split, "cols",
                     (int)p->cols, "blocks", (int)p->n_blocks, "classes", (int)p->n_classes,
                     "ref_norm", json_real((double)p->ref_norm), "curves", curves);
}

static int show_json(const struct codec_profile *p)
{
    json_t *o = calibrate_show_json(p);
    if (!o) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    /* Six digits: .08f is .08, not .07999999821186066. */
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(o);
    return EXIT_OK;
}

static void show_text(const struct codec_profile *p)
{
    char hex[33];

    printf("profile     %s\n", profile_hex(p->hash, hex));
    printf("model       %s\n", profile_hex(p->fingerprint, hex));
    printf("split       %u layers at the edge\n", p->split);
    printf("rows        %u columns in %u block%s, %u classes, median norm %.4g\n", p->cols,
           p->n_blocks, p->n_blocks == 1 ? "" : "s", p->n_classes, (double)p->ref_norm);
    for (unsigned i = 0; i < CODEC_PROFILE_CURVES; i++)
        for (uint32_t k = 0; k < p->curves[i].n; k++) {
            const struct codec_profile_point *at = &p->curves[i].points[k];
            if (k == 0)
                printf("\n%-6s%10s%12s%16s\n", codec_mode_name(kinds[i].mode), kinds[i].parameter,
                       "mean KL", "bytes/token");
            printf("%16.4g%12.5f%16.1f\n", (double)at->parameter, (double)at->kl_mean,
                   (double)at->bytes_per_token);
        }
}

int calibrate_show(const struct codec_profile *p, bool json)
{
    int rc = EXIT_OK;

    if (json)
        rc = show_json(p);
    else
        show_text(p);
    if (fflush(stdout) || ferror(stdout)) {
        log_error("stdout: %s", strerror(errno));
        rc = EXIT_FAILED;
    }
    return rc;
}
