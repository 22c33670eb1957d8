/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pipeline/fake_stage.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fake_seq {
    bool open;
    enum kv_format kv;
    uint32_t n, max;
    uint32_t shared; /* of another's */
    uint64_t *state; /* [max]: hash of all rows so far, by position */
};

struct fake {
    struct stage stage; /* first */
    struct stage_info info;
    struct fake_params p;
    struct fake_counts counts;
    struct fake_seq *seqs;
    bool cloud;
    float *row;  /* [d_model] scratch */
    void (*poll)(void *arg);
    void *poll_arg;
};

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t z = (a ^ b * 0x9e3779b97f4a7c15u) + 0x7f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static const struct stage_info *fake_info(const struct stage *s)
{
    return &((const struct fake *)s)->info;
}

/* Of coarser formats, a fraction. */
static size_t fake_seq_bytes(const struct stage *s, enum kv_format kv, uint32_t max_tokens)
{
    (void)s;
    return (size_t)max_tokens * FAKE_TOKEN_BYTES / (1 + (size_t)kv);
}

/* As if nothing were shared. */
static size_t fake_seq_own_bytes(const struct stage *s, int seq)
{
    const struct fake_seq *q = &((const struct fake *)s)->seqs[seq];

    return fake_seq_bytes(s, q->kv, q->max);
}

static int fake_seq_open(struct stage *s, enum kv_format kv, uint32_t max_tokens)
{
    struct fake *f = (struct fake *)s;
    size_t reserved = 0;

    if (max_tokens > f->info.n_ctx)
        return -ERANGE;
    if (!stage_has_kv(&f->info, kv))
        return -ENOTSUP;
    for (uint32_t i = 0; i < f->info.max_seqs; i++)
        reserved += f->seqs[i].open ? fake_seq_own_bytes(s, (int)i) : 0;
    if (f->p.kv_budget_bytes && reserved + fake_seq_bytes(s, kv, max_tokens) > f->p.kv_budget_bytes)
        return -ENOSPC;
    for (uint32_t i = 0; i < f->info.max_seqs; i++) {
        struct fake_seq *q = &f->seqs[i];

        if (q->open)
            continue;
        *q = (struct fake_seq){true, kv, 0, max_tokens, 0, calloc(max_tokens, sizeof q->state[0])};
        f->counts.open_seqs++;
        f->info.kv_reserved_bytes = reserved + fake_seq_bytes(s, kv, max_tokens);
        return (int)i;
    }
    return -ENOSPC;
}

static int fake_seq_fork(struct stage *s, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    struct fake *f = (struct fake *)s;

    if (seq < 0 || (uint32_t)seq >= f->info.max_seqs || !f->seqs[seq].open ||
        n_tokens > f->seqs[seq].n || n_tokens > max_tokens)
        return -EINVAL;
    int id = fake_seq_open(s, f->seqs[seq].kv, max_tokens);

    if (id >= 0) {
        memcpy(f->seqs[id].state, f->seqs[seq].state, n_tokens * sizeof f->seqs[id].state[0]);
        f->seqs[id].n = f->seqs[id].shared = n_tokens;
    }
    return id;
}

static int fake_seq_truncate(struct stage *s, int seq, uint32_t n_tokens)
{
    struct fake *f = (struct fake *)s;

    if (seq < 0 || (uint32_t)seq >= f->info.max_seqs || !f->seqs[seq].open ||
        n_tokens > f->seqs[seq].n)
        return -EINVAL;
    if (f->p.stingy && n_tokens < f->seqs[seq].shared)
        return -ENOSPC;
    f->counts.truncated += f->seqs[seq].n - n_tokens;
    f->seqs[seq].n = n_tokens;
    return 0;
}

static void fake_seq_close(struct stage *s, int seq)
{
    struct fake *f = (struct fake *)s;

    if (!f->seqs[seq].open)
        abort();
    free(f->seqs[seq].state);
    f->info.kv_reserved_bytes -= fake_seq_own_bytes(s, seq);
    f->seqs[seq] = (struct fake_seq){0};
    f->counts.open_seqs--;
}

static uint64_t hash_row(const float *row, uint32_t d)
{
    uint64_t h = 1;

    for (uint32_t i = 0; i < d; i++) {
        uint32_t bits;

        memcpy(&bits, &row[i], sizeof bits);
        h = mix(h, bits);
    }
    return h;
}

static int check_batch(const struct fake *f, const struct stage_rows *batch, size_t n_batch)
{
    uint32_t rows = 0;

    for (size_t b = 0; b < n_batch; b++) {
        const struct stage_rows *r = &batch[b];
        const struct fake_seq *q = &f->seqs[r->seq];

        if (r->seq < 0 || (uint32_t)r->seq >= f->info.max_seqs || !q->open || r->pos != q->n ||
            !r->n || r->pos + r->n > q->max || r->n_logits > r->n || r->n_hidden > r->n ||
            (r->n_hidden && (r->n_logits || !f->cloud)) ||
            (r->n_logits && !(f->cloud && f->info.has_head)))
            return -EINVAL;
        for (size_t other = 0; other < b; other++) {
            if (batch[other].seq == r->seq)
                return -EINVAL;
        }
        rows += r->n;
        if (f->p.fail_at && r->pos <= f->p.fail_at && f->p.fail_at < r->pos + r->n)
            return -EIO;
    }
    return rows <= f->info.max_rows ? 0 : -EINVAL;
}

static void pass_time(struct fake *f, uint64_t rows)
{
    uint64_t left = f->p.run_ns + rows * f->p.row_ns;

    do { /* the hook is called about every millisecond */
        uint64_t part = left < 1000000 ? left : 1000000;

        if (f->p.now_ns)
            *f->p.now_ns += part;
        left -= part;
        if (f->poll)
            f->poll(f->poll_arg);
    } while (left);
}

/* Behind the last layer; and the head, which looks at all of it. */
static void hidden_of(uint64_t h, float *row, uint32_t d)
{
    for (uint32_t k = 0; k < d; k++)
        row[k] = (float)(int32_t)(mix(h, k + 5000) & 0xffff) - 32768.0f;
}

static void logits_of(const float *row, uint32_t d, float *logits)
{
    const uint64_t h = hash_row(row, d);

    for (uint32_t k = 0; k < FAKE_VOCAB; k++)
        logits[k] = (float)(mix(h, k + 1000) & 0xffff) / 8192.0f;
}

static int fake_head(struct stage *s, uint32_t n, const float *in, float *logits)
{
    struct fake *f = (struct fake *)s;
    const uint32_t d = f->info.d_model;

    if (n > f->info.max_rows || !f->info.has_head)
        return -EINVAL;
    for (uint32_t i = 0; i < n; i++)
        logits_of(in + (size_t)i * d, d, logits + (size_t)i * FAKE_VOCAB);
    f->counts.heads++;
    if (n > f->counts.largest_head)
        f->counts.largest_head = n;
    return 0;
}

static int fake_run(struct stage *s, const struct stage_rows *batch, size_t n_batch,
                    const int32_t *ids, const float *in, float *out, float *logits)
{
    struct fake *f = (struct fake *)s;
    uint32_t d = f->info.d_model;
    size_t row = 0;
    int err = check_batch(f, batch, n_batch);

    if (err)
        return err;
    for (size_t b = 0; b < n_batch; b++) {
        struct fake_seq *q = &f->seqs[batch[b].seq];

        for (uint32_t i = 0; i < batch[b].n; i++, row++) {
            uint64_t h = q->n ? q->state[q->n - 1] : 7 + (uint64_t)q->kv;

            h = mix(h, f->cloud ? hash_row(in + row * d, d) : (uint64_t)ids[row] + 1);
            for (uint32_t k = 0; !f->cloud && k < d; k++)
                out[row * d + k] = (float)(int32_t)(mix(h, k) & 0xffff) - 32768.0f;
            if (!f->cloud && f->p.nan_at && q->n == f->p.nan_at)
                out[row * d + 3] = NAN;
            if (f->cloud && i >= batch[b].n - batch[b].n_hidden) {
                hidden_of(h, out, d);
                if (f->p.nan_at && q->n == f->p.nan_at)
                    out[d - 1] = NAN;
                out += d;
            }
            if (i >= batch[b].n - batch[b].n_logits) {
                hidden_of(h, f->row, d);
                logits_of(f->row, d, logits);
                logits += FAKE_VOCAB;
            }
            q->state[q->n++] = h;
        }
    }
    f->counts.runs++;
    f->counts.rows += row;
    if (n_batch > f->counts.largest_batch)
        f->counts.largest_batch = n_batch;
    pass_time(f, row);
    return 0;
}

static void fake_set_poll(struct stage *s, void (*poll)(void *arg), void *arg)
{
    ((struct fake *)s)->poll = poll;
    ((struct fake *)s)->poll_arg = arg;
}

static void fake_close(struct stage *s)
{
    struct fake *f = (struct fake *)s;

    for (uint32_t i = 0; i < f->info.max_seqs; i++)
        free(f->seqs[i].state);
    free(f->seqs);
    free(f->row);
    free(f);
}

static const struct stage_ops fake_ops = {
    .info = fake_info,
    .seq_bytes = fake_seq_bytes,
    .seq_own_bytes = fake_seq_own_bytes,
    .seq_open = fake_seq_open,
    .seq_fork = fake_seq_fork,
    .seq_truncate = fake_seq_truncate,
    .seq_close = fake_seq_close,
    .run = fake_run,
    .head = fake_head,
    .set_poll = fake_set_poll,
    .close = fake_close,
};

/* Every test that does not say runs in both settings: HEAD=edge in its environment. */
static enum stage_head head_of(bool cloud, enum stage_head asked)
{
    const char *head = getenv("HEAD");

    if (asked != STAGE_HEAD_OWN || !head || strcmp(head, "edge") != 0)
        return asked;
    return cloud ? STAGE_HEAD_WITHOUT : STAGE_HEAD_WITH;
}

struct stage *fake_open(bool cloud, const struct fake_params *p, struct stage_info **info)
{
    struct fake *f = calloc(1, sizeof *f);
    const enum stage_head head = head_of(cloud, p->head);

    f->stage.ops = &fake_ops;
    f->p = *p;
    f->cloud = cloud;
    f->info = (struct stage_info){
        .first_layer = cloud ? FAKE_SPLIT : 0,
        .end_layer = cloud ? FAKE_LAYERS : FAKE_SPLIT,
        .n_layers = FAKE_LAYERS,
        .d_model = p->d_model ? p->d_model : 64,
        .n_vocab = FAKE_VOCAB,
        .n_ctx = FAKE_CTX,
        .max_rows = p->max_rows ? p->max_rows : 128,
        .max_seqs = p->max_seqs ? p->max_seqs : 1,
        .kv_format = p->kv,
        .kv_formats = p->kv_formats ? p->kv_formats : (1u << KV_FORMATS) - 1,
        .kv_budget_bytes = p->kv_budget_bytes ? p->kv_budget_bytes : SIZE_MAX,
        .has_head = head == STAGE_HEAD_WITH || (cloud && head == STAGE_HEAD_OWN),
        .numerics_id = stage_numerics_with(0x600d, p->kv),
        .fingerprint = {0xf0, 1, 2, 3},
    };
    f->seqs = calloc(f->info.max_seqs, sizeof f->seqs[0]);
    f->row = malloc(f->info.d_model * sizeof f->row[0]);
    if (info)
        *info = &f->info;
    return &f->stage;
}

const struct fake_counts *fake_counts(const struct stage *s)
{
    return &((const struct fake *)s)->counts;
}

uint32_t fake_reference(const int32_t *prompt, uint32_t n_prompt, uint32_t n_predict,
                        const struct sampler_params *sampler, int32_t stop, uint32_t d_model,
                        int32_t *ids, struct sampler_top *top, uint32_t n_top)
{
    return fake_reference_as(KV_F16, prompt, n_prompt, n_predict, sampler, stop, d_model, ids, top,
                             n_top);
}

uint32_t fake_reference_as(enum kv_format kv, const int32_t *prompt, uint32_t n_prompt,
                           uint32_t n_predict, const struct sampler_params *sampler, int32_t stop,
                           uint32_t d_model, int32_t *ids, struct sampler_top *top, uint32_t n_top)
{
    struct fake_params p = {.d_model = d_model, .max_rows = FAKE_CTX, .head = STAGE_HEAD_WITH};
    struct stage *edge = fake_open(false, &p, NULL), *cloud = fake_open(true, &p, NULL);
    float *row = malloc(stage_info(edge)->d_model * sizeof *row);
    float logits[FAKE_VOCAB];
    struct sampler *s;
    uint32_t n = 0;

    if (sampler_open(FAKE_VOCAB, &s) || stage_seq_open_as(edge, kv, FAKE_CTX) ||
        stage_seq_open_as(cloud, kv, FAKE_CTX))
        abort();
    for (uint32_t pos = 0; n < n_predict; pos++) {
        int32_t id = pos < n_prompt ? prompt[pos] : ids[pos - n_prompt];
        struct stage_rows up = {.pos = pos, .n = 1}, down = {.pos = pos, .n = 1, .n_logits = 1};

        if (stage_run(edge, &up, 1, &id, NULL, row, NULL) ||
            stage_run(cloud, &down, 1, NULL, row, NULL, logits))
            abort();
        if (pos + 1 < n_prompt)
            continue;
        ids[n] = sampler_pick(s, sampler, logits, ids, n, pos + 1, NULL);
        if (top)
            sampler_top_logprobs(s, logits, top + n * n_top, n_top);
        if (ids[n++] == stop)
            break;
    }
    sampler_close(s);
    free(row);
    fake_seq_close(edge, 0);
    fake_seq_close(cloud, 0);
    stage_close(edge);
    stage_close(cloud);
    return n;
}
