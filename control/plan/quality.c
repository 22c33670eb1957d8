/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/quality.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/plan/json.h"

#define KIND      "isthmus-quality-table"
#define KL_MAX    100.0
#define BYTES_MAX 1e6
#define LIST_MAX  4096u

/* Of a tile of whole rows without a codec. */
#define TILE_HEAD_BYTES 16.0

void plan_quality_none(uint32_t d_model, struct plan_quality *q)
{
    memset(q, 0, sizeof(*q));
    q->n_codecs = 1;
    snprintf(q->codecs[0].text, sizeof q->codecs[0].text, "f32");
    q->codecs[0].n = 2; /* at any split */
    for (unsigned i = 0; i < 2; i++)
        q->codecs[0].points[i] = (struct plan_codec_point){
            .split = i ? PLAN_LAYERS_MAX : 1,
            .decode_bytes = 4.0 * d_model + TILE_HEAD_BYTES,
            .prefill_bytes = 4.0 * d_model + TILE_HEAD_BYTES,
        };
    q->kv_known[KV_F16] = true;
}

/* --- reading --------------------------------------------------------------------------------- */

/* Whether `split` goes behind n others of which the last is given. */
static bool rises(struct plan_reading *r, uint32_t n, uint32_t last, uint32_t split)
{
    if (n == PLAN_POINTS_MAX)
        plan_json_wrong(r, "more than %u splits of one codec or scheme", PLAN_POINTS_MAX);
    else if (n && split <= last)
        plan_json_wrong(r, "splits of one codec or scheme must rise");
    return r->rc == 0;
}

static struct plan_codec *codec_of(struct plan_reading *r, struct plan_quality *q, const char *text,
                                   const char *profile)
{
    for (uint32_t i = 1; i < q->n_codecs; i++)
        if (strcmp(q->codecs[i].text, text) == 0 && strcmp(q->codecs[i].profile, profile) == 0)
            return &q->codecs[i];
    if (q->n_codecs == PLAN_CODECS_MAX) {
        plan_json_wrong(r, "more than %u codecs", PLAN_CODECS_MAX);
        return NULL;
    }
    struct plan_codec *c = &q->codecs[q->n_codecs++];
    snprintf(c->text, sizeof c->text, "%s", text);
    snprintf(c->profile, sizeof c->profile, "%s", profile);
    return c;
}

static void read_codec(struct plan_reading *r, const json_t *o, const struct plan_model *m,
                       struct plan_quality *q)
{
    char text[PLAN_CODEC_MAX] = "", profile[PLAN_PATH_MAX] = "";
    struct plan_codec_point p = {0};

    plan_json_text(r, o, "codec", text, sizeof text);
    if (json_object_get(o, "profile") && !json_is_null(json_object_get(o, "profile")))
        plan_json_text(r, o, "profile", profile, sizeof profile);
    p.split = (uint32_t)plan_json_count(r, o, "split", 1, m->n_layers - 1);
    p.kl = plan_json_real(r, o, "kl", 0, KL_MAX);
    p.decode_bytes = plan_json_real(r, o, "decode_bytes", 1, BYTES_MAX);
    p.prefill_bytes = plan_json_real(r, o, "prefill_bytes", 1, BYTES_MAX);
    struct plan_codec *c = r->rc ? NULL : codec_of(r, q, text, profile);
    if (c && rises(r, c->n, c->n ? c->points[c->n - 1].split : 0, p.split))
        c->points[c->n++] = p;
}

static void read_kv(struct plan_reading *r, const json_t *o, struct plan_quality *q)
{
    char name[16] = "";
    unsigned f = 0;

    plan_json_text(r, o, "kv", name, sizeof name);
    while (f < KV_FORMATS && strcmp(name, kv_format_name((enum kv_format)f)) != 0)
        f++;
    const double kl = plan_json_real(r, o, "kl", 0, KL_MAX);
    if (r->rc)
        return;
    if (f == KV_FORMATS || q->kv_known[f]) {
        plan_json_wrong(r, "kv: \"%s\" is no format, or stands there twice", name);
        return;
    }
    q->kv_known[f] = true;
    q->kv_kl[f] = kl;
}

static void read_scheme(struct plan_reading *r, const json_t *o, const struct plan_model *m,
                        struct plan_quality *q)
{
    char stage[8] = "", name[8] = "";
    enum plan_scheme s;
    struct plan_scheme_point p;

    plan_json_text(r, o, "stage", stage, sizeof stage);
    plan_json_text(r, o, "scheme", name, sizeof name);
    p.split = (uint32_t)plan_json_count(r, o, "split", 1, m->n_layers - 1);
    p.kl = plan_json_real(r, o, "kl", 0, KL_MAX);
    const bool front = strcmp(stage, "front") == 0;
    if (r->rc)
        return;
    if ((!front && strcmp(stage, "back") != 0) || plan_scheme_parse(name, &s) < 0 ||
        s == PLAN_KEEP) {
        plan_json_wrong(r, "schemes: \"%s\" of stage \"%s\" is none", name, stage);
        return;
    }
    uint32_t *n = &q->schemes[front ? PLAN_FRONT : PLAN_BACK][s].n;
    struct plan_scheme_point *points = q->schemes[front ? PLAN_FRONT : PLAN_BACK][s].points;
    if (rises(r, *n, *n ? points[*n - 1].split : 0, p.split))
        points[(*n)++] = p;
}

static const json_t *list(struct plan_reading *r, const json_t *o, const char *key)
{
    const json_t *l = json_object_get(o, key);

    if (!json_is_array(l) || json_array_size(l) > LIST_MAX)
        plan_json_wrong(r, "%s: a list of at most %u is needed", key, LIST_MAX);
    return r->rc ? NULL : l;
}

int plan_quality_parse(const char *text, size_t len, const char *name, const struct plan_model *m,
                       struct plan_quality *q, char *err)
{
    struct plan_reading r = {.name = name, .err = err};
    json_t *o = plan_json_load(&r, text, len, KIND, PLAN_QUALITY_VERSION);
    const json_t *l;

    plan_quality_none(m->d_model, q);
    if (r.rc == 0) {
        plan_json_text(&r, o, "model", q->model, sizeof q->model);
        plan_json_text(&r, o, "text", q->text, sizeof q->text);
    }
    if (r.rc == 0 && json_is_string(json_object_get(o, "schemes_calibration")))
        plan_json_text(&r, o, "schemes_calibration", q->calibration, sizeof q->calibration);
    if (r.rc == 0 && strcmp(q->model, m->fingerprint) != 0) {
        snprintf(
            err, PLAN_ERR,
            "%.100s: is of another model (fingerprint %s), this one's is %s: tools/quality-table "
            "makes one for it",
            name, q->model, m->fingerprint);
        r.rc = -EINVAL;
    }
    l = r.rc ? NULL : list(&r, o, "codecs");
    for (size_t i = 0; l && i < json_array_size(l) && r.rc == 0; i++)
        read_codec(&r, json_array_get(l, i), m, q);
    l = r.rc ? NULL : list(&r, o, "kv");
    for (size_t i = 0; l && i < json_array_size(l) && r.rc == 0; i++)
        read_kv(&r, json_array_get(l, i), q);
    l = r.rc ? NULL : list(&r, o, "schemes");
    for (size_t i = 0; l && i < json_array_size(l) && r.rc == 0; i++)
        read_scheme(&r, json_array_get(l, i), m, q);
    json_decref(o);
    return r.rc;
}

/* --- asking ---------------------------------------------------------------------------------- */

static double larger(double a, double b)
{
    return a > b ? a : b;
}

int plan_quality_scheme(const struct plan_quality *q, enum plan_stage stage, enum plan_scheme s,
                        uint32_t split, double *kl)
{
    const struct plan_scheme_point *p = q->schemes[stage][s].points;
    const uint32_t n = q->schemes[stage][s].n;
    uint32_t i = 0;

    *kl = 0;
    if (s == PLAN_KEEP)
        return 0;
    while (i < n && p[i].split < split)
        i++;
    if (i == n || (p[i].split != split && i == 0))
        return -ENOENT;
    *kl = p[i].split == split ? p[i].kl : larger(p[i - 1].kl, p[i].kl);
    return 0;
}

int plan_quality_codec(const struct plan_codec *c, uint32_t split, struct plan_codec_point *at)
{
    const struct plan_codec_point *p = c->points;
    uint32_t i = 0;

    while (i < c->n && p[i].split < split)
        i++;
    if (i == c->n || (p[i].split != split && (i == 0 || c->profile[0])))
        return -ENOENT;
    *at = p[i];
    at->split = split;
    if (p[i].split == split)
        return 0;
    at->kl = larger(p[i - 1].kl, p[i].kl);
    at->decode_bytes = larger(p[i - 1].decode_bytes, p[i].decode_bytes);
    at->prefill_bytes = larger(p[i - 1].prefill_bytes, p[i].prefill_bytes);
    return 0;
}

int plan_quality_kv(const struct plan_quality *q, enum kv_format kv, double *kl)
{
    *kl = q->kv_kl[kv];
    return q->kv_known[kv] ? 0 : -ENOENT;
}
