/* SPDX-License-Identifier: Apache-2.0 */
#include "models.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void made_model(uint32_t n_layers, struct plan_model *m)
{
    const struct plan_matrix mats[PLAN_MATRICES] = {
        {4096, 4096, QTYPE_Q4_1},  {1024, 4096, QTYPE_Q4_1},  {1024, 4096, QTYPE_Q4_1},
        {4096, 4096, QTYPE_Q4_1},  {11008, 4096, QTYPE_Q4_1}, {11008, 4096, QTYPE_Q4_1},
        {4096, 11008, QTYPE_Q4_1},
    };

    *m = (struct plan_model){
        .fingerprint = "00112233445566778899aabbccddeeff",
        .n_layers = n_layers,
        .d_model = 4096,
        .n_ff = 11008,
        .n_heads = 32,
        .n_kv_heads = 8,
        .head_dim = 128,
        .rope_dims = 128,
        .n_vocab = 32000,
        .n_ctx = 8192,
        .head = {32000, 4096, QTYPE_Q6_K},
        .n_merges = 30000,
        .text_bytes = 400000,
        .layers = calloc(n_layers, sizeof(*m->layers)),
    };
    for (uint32_t l = 0; l < n_layers; l++) {
        m->layers[l].n_mats = PLAN_MATRICES;
        m->layers[l].vector_bytes = 2 * 4096 * 4;
        memcpy(m->layers[l].mats, mats, sizeof mats);
    }
    if (plan_model_sum(m) < 0)
        abort();
}

static double weight(uint32_t rows)
{
    return 1 + (rows - 1) / 16.0;
}

void made_host(const struct plan_model *m, double per_layer_s, struct plan_host *h)
{
    static const uint32_t rows[] = {1, 4, 16, 64, 128};
    static const enum qtype types[] = {QTYPE_Q4_1, QTYPE_Q8_0, QTYPE_Q6_K, QTYPE_Q5_0, QTYPE_Q4_0};
    static const enum plan_scheme schemes[] = {PLAN_SQ3, PLAN_G3};
    const double macs = plan_layer_macs(&m->layers[0]);

    *h = (struct plan_host){
        .host = "made up", .cpu = "none", .isa = "c", .version = "1", .commit = "1", .threads = 4};
    strcpy(h->model, m->fingerprint);
    h->memory_bytes = UINT64_C(64000000000);
    h->dram_bytes_per_s = 2e10;
    h->int8_ops_per_s = 1e12;
    h->wake_s = 5e-5;
    h->beside = h->evicted = 1;
    h->n_rows = sizeof rows / sizeof *rows;
    memcpy(h->rows, rows, sizeof rows);
    h->n_stages = 2;
    h->stages[0].layers = m->n_layers / 2;
    h->stages[1].layers = m->n_layers;
    h->attend_rows = 64;
    h->n_types = sizeof types / sizeof *types;
    for (uint32_t k = 0; k < h->n_rows; k++) {
        for (uint32_t i = 0; i < 2; i++) {
            h->stages[i].s[k] = h->stages[i].layers * per_layer_s * weight(rows[k]);
            h->stages[i].rested_s[k] = h->stages[i].s[k] + 1e-4;
        }
        h->head_s[k] = 5 * per_layer_s * weight(rows[k]);
        for (uint32_t i = 0; i < h->n_types; i++) {
            const struct qtype_info *q = qtype_info(types[i]);
            const double bytes = (double)q->block_bytes / q->block_values;
            h->types[i].type = types[i];
            h->types[i].s[k] = per_layer_s * .9 * weight(rows[k]) / macs / rows[k] * bytes / .625;
        }
        for (unsigned i = 0; i < sizeof schemes / sizeof *schemes; i++)
            h->scheme_s[schemes[i]][k] =
                per_layer_s * weight(rows[k]) / macs / rows[k] * (i ? .9 : .8);
    }
    for (unsigned f = 0; f < KV_FORMATS; f++) {
        h->attend[f].one_s = per_layer_s * 1e-4 * (1 + f * .1);
        h->attend[f].many_s = per_layer_s * 5e-5;
    }
}

void made_quality(const struct plan_model *m, struct plan_quality *q)
{
    static const enum plan_scheme schemes[] = {PLAN_Q8_0, PLAN_Q5_0, PLAN_Q4_0, PLAN_SQ3};
    static const double costs[] = {.0003, .004, .011, .05};

    plan_quality_none(m->d_model, q);
    for (unsigned i = 1; i < 4; i++) {
        struct plan_codec *c = &q->codecs[q->n_codecs++];
        snprintf(c->text, sizeof c->text, "codec%u", i);
        c->n = 3;
        for (unsigned k = 0; k < 3; k++)
            c->points[k] = (struct plan_codec_point){.split = 1 + k * (m->n_layers - 2) / 2,
                                                     .kl = .0008 * i * i * (1 + .3 * k),
                                                     .decode_bytes = 8200.0 / (2 * i) + 10 * k,
                                                     .prefill_bytes = 8192.0 / (2 * i) + 10 * k};
    }
    for (unsigned f = 1; f < KV_FORMATS; f++) {
        q->kv_known[f] = true;
        q->kv_kl[f] = .001 * f * f;
    }
    for (unsigned s = 0; s < sizeof schemes / sizeof *schemes; s++) {
        for (unsigned stage = 0; stage < PLAN_STAGE_KINDS; stage++) {
            q->schemes[stage][schemes[s]].n = 2;
            for (unsigned k = 0; k < 2; k++)
                q->schemes[stage][schemes[s]].points[k] = (struct plan_scheme_point){
                    .split = k ? m->n_layers - 1 : 1,
                    .kl = costs[s] * (stage == PLAN_FRONT ? k + .1 : 1.1 - k)};
        }
    }
}

void made_wish(const struct plan_model *m, struct plan_speed *edge, struct plan_speed *cloud,
               const struct plan_link *link, const struct plan_quality *q, struct plan_wish *w)
{
    *w = (struct plan_wish){
        .m = m,
        .edge = edge,
        .cloud = cloud,
        .link = link,
        .quality = q,
        .packet_bytes = PLAN_UDP_BYTES,
        .least = PLAN_TPOT,
        .prompt = 500,
        .n_contexts = 1,
        .contexts = {1024},
        .n_sessions = 1,
        .sessions = {1},
        .n_chunks = 3,
        .chunks = {32, 64, 128},
        .split_min = 1,
        .split_max = m->n_layers - 1,
        .home = {true, true},
    };
    for (unsigned i = 0; i < PLAN_METRICS; i++)
        w->limit[i] = i == PLAN_KL ? .05 : INFINITY;
    memset(w->front, true, sizeof w->front);
    memset(w->back, true, sizeof w->back);
    memset(w->kv, true, sizeof w->kv);
    memset(w->codec, true, sizeof w->codec);
}
