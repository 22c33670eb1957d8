/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan/memory.h"

#include "compute/kv.h"
#include "dataplane/pipeline/proto.h"

/* Pages of the cache from here on lie on huge pages (compute/kv.c). */
#define KV_HUGE_FROM (PLAN_HUGE_BYTES / 8)

/*
 * Measured, of an edge and a cloud that answered over an encrypted link (tests/bench/planned.py
 * prints what a process has beside the other terms): pages of code and data of the program and its
 * libraries, 15.3 to 16.2 MB, and what they allocate.
 */
#define EDGE_PROGRAM_BYTES  UINT64_C(20000000)
#define CLOUD_PROGRAM_BYTES UINT64_C(20300000)
/* Threads, connections and answers of one that serves HTTP. */
#define SERVICE_BYTES UINT64_C(3000000)
/* The thread's stack and what the C library keeps for it. */
#define THREAD_BYTES UINT64_C(120000)

const char *plan_memory_term_name(enum plan_memory_term t)
{
    static const char *const names[PLAN_MEMORY_TERMS] = {
        [PLAN_PROGRAM] = "program", [PLAN_TOKENIZER] = "tokenizer", [PLAN_PANELS] = "weights",
        [PLAN_HEAD] = "head",       [PLAN_KV] = "keys and values",  [PLAN_SCRATCH] = "scratch",
        [PLAN_LOGITS] = "logits",   [PLAN_CODEC] = "codec",         [PLAN_HISTORY] = "history",
        [PLAN_PACKETS] = "packets",
    };
    return t < PLAN_MEMORY_TERMS ? names[t] : "?";
}

static uint64_t up_to(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* --- terms ----------------------------------------------------------------------------------- */

uint64_t plan_kv_bytes(const struct plan_model *m, uint32_t layers, enum kv_format kv,
                       uint32_t tokens)
{
    const struct kv_shape shape = {
        .n_layers = layers, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim};
    return layers ? kv_bytes_for(&shape, kv, tokens) : 0;
}

/* Large pages are resident by whole huge ones; each format has its own. */
static uint64_t cache_unit_bytes(const struct plan_model *m, const struct plan_process *p)
{
    return plan_kv_bytes(m, p->kv_layers, p->kv, 1) >= KV_HUGE_FROM ? PLAN_HUGE_BYTES : 1;
}

/* With the head, the sampler's table; and hidden states that come back to it from a cloud. */
static uint64_t logits_bytes(const struct plan_model *m, const struct plan_process *p)
{
    const bool come_back = p->faces_users && p->layers < m->n_layers;
    const uint64_t row = m->n_vocab + (come_back ? m->d_model : 0);

    return p->logit_rows ? p->logit_rows * row * sizeof(float) + m->n_vocab * UINT64_C(8) : 0;
}

/* compute/kernels/acts.c: integers of values, scales and sums by block of 32. */
static uint64_t acts_int8(uint64_t n)
{
    return 3 * n + 36 * (n / 32);
}

static uint64_t acts_int16(uint64_t n)
{
    return 2 * n + 8 * (n / 32);
}

/* compute/arch/attention.c. */
static uint64_t attention_scratch(const struct plan_model *m, uint32_t layers, uint64_t rows,
                                  uint32_t context, uint32_t threads)
{
    const uint64_t state = (m->head_dim + 16) * sizeof(float);
    const uint64_t group = m->n_heads / m->n_kv_heads, unit = group > 24 ? group : 24;
    const uint64_t spans = context / 256 + 1, split = (rows < 8 ? rows : 8) * spans;
    uint64_t bytes = rows * 2 * m->rope_dims * sizeof(float);

    bytes += rows * m->n_heads * (attend_query_bytes(KV_F16, m->head_dim) + sizeof(float));
    bytes += threads * unit * (2 * state + 1);
    bytes += split * m->n_heads * state;
    bytes += (rows > split ? rows : split) * 16;
    if (m->qkv_bias)
        bytes += (uint64_t)layers * m->n_kv_heads * 2 * m->head_dim * sizeof(float);
    return bytes;
}

uint64_t plan_scratch_bytes(const struct plan_model *m, uint32_t layers, uint32_t max_rows,
                            uint32_t context, uint32_t threads)
{
    const uint64_t rows = max_rows, d = m->d_model, ff = m->n_ff;
    const uint64_t q = (uint64_t)m->n_heads * m->head_dim,
                   k = (uint64_t)m->n_kv_heads * m->head_dim;
    const uint64_t widest = larger(larger(m->d_model, m->n_ff), (uint32_t)q);
    /* compute/arch/decoder.c: FEED_ROWS. */
    const uint64_t feed_most = UINT64_C(96) * threads;
    const uint64_t feed_rows = rows < feed_most ? rows : feed_most;
    const uint64_t f32 = (rows * (2 * d + q + 2 * k) + feed_rows * 2 * ff) * sizeof(float);

    return f32 + acts_int8(rows * widest) + acts_int16(rows * d) +
           attention_scratch(m, layers, rows, context, threads);
}

/* compute/vocab.c: a type, an offset and the bytes of each token; three ids of each merge; tables
 * of indices, at most three quarters full. */
static uint64_t tokenizer_bytes(const struct plan_model *m)
{
    uint64_t slots = 16;

    while (slots * 3 / 4 < m->n_merges)
        slots *= 2;
    return m->n_vocab * UINT64_C(5) + m->text_bytes / 2 + m->n_merges * UINT64_C(12) + slots * 4;
}

/* A profile's basis and means, and their working areas. */
static uint64_t codec_bytes(const struct plan_model *m, bool profile)
{
    const uint64_t d = m->d_model;

    return d * 64 + (profile ? d * d * 4 + d * 512 : 0);
}

static uint64_t panel_bytes(const struct plan_model *m, uint32_t first, uint32_t end,
                            enum plan_scheme s)
{
    return m->rope_bytes + m->sums[end][s] - m->sums[first][s];
}

/* Rows are of different lengths, and grow from the mean's: a tenth more. */
uint64_t plan_history_bytes(double row_bytes, uint32_t context, uint32_t sessions)
{
    return (uint64_t)(1.9 * row_bytes * context * sessions);
}

/* --- a process, and the two of a split ---------------------------------------------------------
 */

void plan_memory_process(const struct plan_model *m, const struct plan_process *p,
                         struct plan_memory *out)
{
    const uint64_t weights = up_to(p->weight_bytes + p->head_bytes, PLAN_HUGE_BYTES);

    *out = (struct plan_memory){.kv_unit_bytes = cache_unit_bytes(m, p)};
    out->term[PLAN_PROGRAM] = (p->faces_users ? EDGE_PROGRAM_BYTES : CLOUD_PROGRAM_BYTES) +
                              (p->serves ? SERVICE_BYTES : 0) + (p->threads - 1) * THREAD_BYTES;
    out->term[PLAN_TOKENIZER] = p->faces_users ? tokenizer_bytes(m) : 0;
    out->term[PLAN_PANELS] = weights - p->head_bytes; /* they lie together */
    out->term[PLAN_HEAD] = p->head_bytes;
    out->term[PLAN_KV] =
        up_to(p->kv_bytes, out->kv_unit_bytes) + p->other_formats * PLAN_HUGE_BYTES;
    out->term[PLAN_SCRATCH] = plan_scratch_bytes(m, p->layers, p->rows, p->context, p->threads) +
                              (uint64_t)p->rows * m->d_model * sizeof(float);
    out->term[PLAN_LOGITS] = logits_bytes(m, p);
    out->term[PLAN_CODEC] = codec_bytes(m, p->profile);
    out->term[PLAN_HISTORY] = p->history_bytes;
    out->term[PLAN_PACKETS] = p->packet_bytes;
    for (unsigned i = 0; i < PLAN_MEMORY_TERMS; i++)
        out->bytes += out->term[i];
}

void plan_memory_edge(const struct plan_model *m, const struct plan_memory_case *c,
                      struct plan_memory *out)
{
    const uint32_t kv_layers = c->home == PLAN_KV_EDGE ? m->n_layers : c->split;
    const struct plan_process p = {
        .faces_users = true,
        .serves = c->serves,
        .layers = c->split,
        .weight_bytes = panel_bytes(m, 0, c->split, c->front),
        .kv_layers = kv_layers,
        .kv = c->kv,
        .kv_bytes = c->sessions * plan_kv_bytes(m, kv_layers, c->kv, c->context),
        .rows = c->edge_chunk + c->sessions,
        .context = c->context,
        .threads = c->edge_threads,
        .profile = c->profile,
        .history_bytes = plan_history_bytes(c->row_bytes, c->context, c->sessions),
        .packet_bytes = c->packet_bytes,
    };

    plan_memory_process(m, &p, out);
}

void plan_memory_cloud(const struct plan_model *m, const struct plan_memory_case *c,
                       struct plan_memory *out)
{
    const uint32_t layers = m->n_layers - c->split,
                   kv_layers = c->home == PLAN_KV_EDGE ? 0 : layers,
                   rows = c->cloud_chunk + c->sessions;
    const struct plan_process p = {
        .layers = layers,
        .weight_bytes = panel_bytes(m, c->split, m->n_layers, c->back),
        .head_bytes = plan_matrix_bytes(&m->head, PLAN_KEEP) + m->d_model * sizeof(float),
        .kv_layers = kv_layers,
        .kv = c->kv,
        .other_formats = c->cloud_held ? PLAN_KV_LEAST : 0,
        .kv_bytes = c->sessions * plan_kv_bytes(m, kv_layers, c->kv, c->context),
        .rows = rows,
        .context = c->context,
        .threads = c->cloud_threads,
        .logit_rows = c->cloud_held ? proto_wanted_rows(c->sessions, rows) : c->sessions,
        .profile = c->profile,
        .packet_bytes = c->packet_bytes,
    };

    plan_memory_process(m, &p, out);
}
