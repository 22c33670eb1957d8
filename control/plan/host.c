/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/host.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/plan/json.h"

#define HOST_KIND "isthmus-host-profile"
#define LINK_KIND "isthmus-link-profile"
#define S_MAX     3600.0
#define RATE_MAX  1e18

/* --- reading --------------------------------------------------------------------------------- */

static void get_times(struct plan_reading *r, const json_t *list, const char *key, uint32_t n,
                      double *s)
{
    if (json_array_size(list) != n) {
        plan_json_wrong(r, "%s: %u times are needed, one for each of rows", key, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        s[i] = plan_json_number(r, json_array_get(list, i), key, 0, S_MAX);
}

static void get_rows(struct plan_reading *r, const json_t *o, struct plan_host *h)
{
    const json_t *rows = json_object_get(o, "rows");
    const size_t n = json_array_size(rows);

    if (n < 2 || n > PLAN_ROWS_MAX) {
        plan_json_wrong(r, "rows: 2 to %u row counts are needed", PLAN_ROWS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const double x = plan_json_number(r, json_array_get(rows, i), "rows", 1, 4096);
        h->rows[i] = (uint32_t)x;
        if ((double)h->rows[i] != x || (i ? h->rows[i] <= h->rows[i - 1] : h->rows[i] != 1))
            plan_json_wrong(r, "rows: whole numbers that rise from 1 on are needed");
    }
    h->n_rows = (uint32_t)n;
}

static void get_stages(struct plan_reading *r, const json_t *o, struct plan_host *h)
{
    const json_t *stages = json_object_get(o, "stages");
    const size_t n = json_array_size(stages);

    if (n < 1 || n > PLAN_STAGES_MAX) {
        plan_json_wrong(r, "stages: 1 to %u are needed", PLAN_STAGES_MAX);
        return;
    }
    for (size_t i = 0; i < n && r->rc == 0; i++) {
        const json_t *stage = json_array_get(stages, i);
        h->stages[i].layers = (uint32_t)plan_json_count(r, stage, "layers", 1, PLAN_LAYERS_MAX);
        get_times(r, json_object_get(stage, "s"), "s", h->n_rows, h->stages[i].s);
        get_times(r, json_object_get(stage, "rested_s"), "rested_s", h->n_rows,
                  h->stages[i].rested_s);
        if (i && h->stages[i].layers <= h->stages[i - 1].layers)
            plan_json_wrong(r, "stages: their layers must rise");
        for (uint32_t k = 0; k < h->n_rows; k++)
            if (h->stages[i].s[k] <= 0 || h->stages[i].rested_s[k] <= 0)
                plan_json_wrong(r, "stages: a time of zero");
    }
    h->n_stages = (uint32_t)n;
}

static void get_attend(struct plan_reading *r, const json_t *o, struct plan_host *h)
{
    const json_t *all = json_object_get(o, "attend");

    h->attend_rows = (uint32_t)plan_json_count(r, o, "attend_rows", 2, 4096);
    if (!json_is_object(all)) {
        plan_json_wrong(r, "attend: is missing");
        return;
    }
    for (unsigned f = 0; f < KV_FORMATS; f++) {
        const char *name = kv_format_name((enum kv_format)f);
        const json_t *of = json_object_get(all, name);
        if (!of)
            continue;
        h->attend[f].one_s = plan_json_real(r, of, "one_s", 0, S_MAX);
        h->attend[f].many_s = plan_json_real(r, of, "many_s", 0, S_MAX);
    }
}

static int type_of(const char *name)
{
    for (uint32_t t = 0; t < 64; t++) {
        const struct qtype_info *info = qtype_info(t);
        if (info && strcmp(info->name, name) == 0)
            return (int)t;
    }
    return -1;
}

static void get_types(struct plan_reading *r, json_t *o, struct plan_host *h)
{
    json_t *types = json_object_get(o, "types"), *times;
    const char *name;

    if (!json_is_object(types) || json_object_size(types) > PLAN_TYPES_MAX) {
        plan_json_wrong(r, "types: at most %u are needed", PLAN_TYPES_MAX);
        return;
    }
    json_object_foreach(types, name, times)
    {
        const int type = type_of(name);
        if (type < 0) {
            plan_json_wrong(r, "types: %.20s is none", name);
            return;
        }
        h->types[h->n_types].type = (enum qtype)type;
        get_times(r, times, "types", h->n_rows, h->types[h->n_types].s);
        h->n_types++;
    }
}

static void get_schemes(struct plan_reading *r, json_t *o, struct plan_host *h)
{
    json_t *schemes = json_object_get(o, "schemes"), *times;
    enum plan_scheme s;
    const char *name;

    if (!json_is_object(schemes)) {
        plan_json_wrong(r, "schemes: is missing");
        return;
    }
    json_object_foreach(schemes, name, times)
    {
        if (plan_scheme_parse(name, &s) < 0 || plan_scheme_is_standard(s)) {
            plan_json_wrong(r, "schemes: %.20s is none", name);
            return;
        }
        get_times(r, times, "schemes", h->n_rows, h->scheme_s[s]);
        if (h->scheme_s[s][0] <= 0)
            plan_json_wrong(r, "schemes: a time of zero");
    }
}

int plan_host_parse(const char *text, size_t len, const char *name, struct plan_host *h, char *err)
{
    struct plan_reading r = {.name = name, .err = err};
    json_t *o = plan_json_load(&r, text, len, HOST_KIND, PLAN_HOST_VERSION);

    memset(h, 0, sizeof(*h));
    if (r.rc == 0) {
        plan_json_text(&r, o, "host", h->host, sizeof h->host);
        plan_json_text(&r, o, "cpu", h->cpu, sizeof h->cpu);
        plan_json_text(&r, o, "isa", h->isa, sizeof h->isa);
        plan_json_text(&r, o, "version", h->version, sizeof h->version);
        plan_json_text(&r, o, "commit", h->commit, sizeof h->commit);
        plan_json_text(&r, o, "model", h->model, sizeof h->model);
        h->threads = (uint32_t)plan_json_count(&r, o, "threads", 1, 4096);
        h->memory_bytes = plan_json_count(&r, o, "memory_bytes", 0, UINT64_C(1) << 50);
        h->dram_bytes_per_s = plan_json_real(&r, o, "dram_bytes_per_s", 0, RATE_MAX);
        h->int8_ops_per_s = plan_json_real(&r, o, "int8_ops_per_s", 0, RATE_MAX);
        h->wake_s = plan_json_real(&r, o, "wake_s", 0, 1);
        h->beside = plan_json_real(&r, o, "beside", 1, 100);
        h->evicted = plan_json_real(&r, o, "evicted", 1, 100);
        get_rows(&r, o, h);
    }
    if (r.rc == 0) {
        get_stages(&r, o, h);
        get_times(&r, json_object_get(o, "head_s"), "head_s", h->n_rows, h->head_s);
        get_attend(&r, o, h);
        get_types(&r, o, h);
        get_schemes(&r, o, h);
    }
    json_decref(o);
    return r.rc;
}

int plan_link_parse(const char *text, size_t len, const char *name, struct plan_link *l, char *err)
{
    struct plan_reading r = {.name = name, .err = err};
    json_t *o = plan_json_load(&r, text, len, LINK_KIND, PLAN_LINK_VERSION);

    memset(l, 0, sizeof(*l));
    if (r.rc == 0) {
        plan_json_text(&r, o, "host", l->host, sizeof l->host);
        plan_json_text(&r, o, "peer", l->peer, sizeof l->peer);
        plan_json_text(&r, o, "version", l->version, sizeof l->version);
        plan_json_text(&r, o, "commit", l->commit, sizeof l->commit);
        l->up_bits_per_s = plan_json_real(&r, o, "up_bits_per_s", 1, RATE_MAX);
        l->down_bits_per_s = plan_json_real(&r, o, "down_bits_per_s", 1, RATE_MAX);
        l->rtt_s = plan_json_real(&r, o, "rtt_s", 0, S_MAX);
        l->loss = plan_json_real(&r, o, "loss", 0, .99);
        l->mtu_bytes = (uint32_t)plan_json_count(&r, o, "mtu_bytes", 200, 65535);
    }
    json_decref(o);
    return r.rc;
}

/* --- writing --------------------------------------------------------------------------------- */

static json_t *times(const double *s, uint32_t n)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(s[i]));
    return list;
}

static char *dump(json_t *o)
{
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;

    json_decref(o);
    return text;
}

char *plan_host_format(const struct plan_host *h)
{
    json_t *rows = json_array(), *stages = json_array(), *attend = json_object(),
           *types = json_object(), *schemes = json_object();

    for (uint32_t i = 0; i < h->n_rows; i++)
        json_array_append_new(rows, json_integer(h->rows[i]));
    for (uint32_t i = 0; i < h->n_stages; i++)
        json_array_append_new(stages,
                              json_pack("{s:i, s:o, s:o}", "layers", (int)h->stages[i].layers, "s",
                                        times(h->stages[i].s, h->n_rows), "rested_s",
                                        times(h->stages[i].rested_s, h->n_rows)));
    for (unsigned f = 0; f < KV_FORMATS; f++)
        if (h->attend[f].one_s > 0 || h->attend[f].many_s > 0)
            json_object_set_new(attend, kv_format_name((enum kv_format)f),
                                json_pack("{s:f, s:f}", "one_s", h->attend[f].one_s, "many_s",
                                          h->attend[f].many_s));
    for (uint32_t i = 0; i < h->n_types; i++)
        json_object_set_new(types, qtype_info(h->types[i].type)->name,
                            times(h->types[i].s, h->n_rows));
    for (unsigned s = 0; s < PLAN_SCHEMES; s++)
        if (h->scheme_s[s][0] > 0)
            json_object_set_new(schemes, plan_scheme_name((enum plan_scheme)s),
                                times(h->scheme_s[s], h->n_rows));
    return dump(json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:f, s:f, s:f, s:f, "
                          "s:f, s:o, s:o, s:o, "
                          "s:i, s:o, s:o, s:o}",
                          "kind", HOST_KIND, "format", PLAN_HOST_VERSION, "host", h->host, "cpu",
                          h->cpu, "isa", h->isa, "version", h->version, "commit", h->commit,
                          "model", h->model, "threads", (int)h->threads, "memory_bytes",
                          (json_int_t)h->memory_bytes, "dram_bytes_per_s", h->dram_bytes_per_s,
                          "int8_ops_per_s", h->int8_ops_per_s, "wake_s", h->wake_s, "beside",
                          h->beside, "evicted", h->evicted, "rows", rows, "stages", stages,
                          "head_s", times(h->head_s, h->n_rows), "attend_rows", (int)h->attend_rows,
                          "attend", attend, "types", types, "schemes", schemes));
}

char *plan_link_format(const struct plan_link *l)
{
    return dump(json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:i}", "kind",
                          LINK_KIND, "format", PLAN_LINK_VERSION, "host", l->host, "peer", l->peer,
                          "version", l->version, "commit", l->commit, "up_bits_per_s",
                          l->up_bits_per_s, "down_bits_per_s", l->down_bits_per_s, "rtt_s",
                          l->rtt_s, "loss", l->loss, "mtu_bytes", (int)l->mtu_bytes));
}

void plan_trim_steps(double *s, uint32_t n)
{
    for (uint32_t i = n; i-- > 1;)
        if (s[i - 1] > s[i])
            s[i - 1] = s[i];
}

/* --- whose it is ----------------------------------------------------------------------------- */

struct mark {
    const char *what, *is, *should;
};

static int check_marks(const struct mark *marks, unsigned n, const char *name, char *err)
{
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(marks[i].is, marks[i].should) == 0)
            continue;
        snprintf(
            err, PLAN_ERR,
            "%.60s: is not of this machine: its %s is \"%.60s\", here it is \"%.60s\": make it "
            "anew, or leave out --here",
            name, marks[i].what, marks[i].is, marks[i].should);
        return -EINVAL;
    }
    return 0;
}

int plan_host_check(const struct plan_host *h, const char *name, const struct plan_model *m,
                    const struct plan_host *here, char *err)
{
    if (strcmp(h->model, m->fingerprint) != 0) {
        snprintf(
            err, PLAN_ERR,
            "%.100s: is of another model (fingerprint %s), this one's is %s: make it anew with "
            "`isthmus profile -m`",
            name, h->model, m->fingerprint);
        return -EINVAL;
    }
    if (h->stages[h->n_stages - 1].layers != m->n_layers) {
        snprintf(err, PLAN_ERR, "%.100s: its last stage has %u layers, the model %u", name,
                 h->stages[h->n_stages - 1].layers, m->n_layers);
        return -EINVAL;
    }
    if (!here)
        return 0;
    const struct mark marks[] = {
        {"host", h->host, here->host},
        {"processor", h->cpu, here->cpu},
        {"instruction set", h->isa, here->isa},
        {"version", h->version, here->version},
    };
    return check_marks(marks, sizeof marks / sizeof *marks, name, err);
}

int plan_link_check(const struct plan_link *l, const char *name, const struct plan_host *here,
                    char *err)
{
    const struct mark marks[] = {
        {"host", l->host, here->host},
        {"version", l->version, here->version},
    };

    return check_marks(marks, sizeof marks / sizeof *marks, name, err);
}
