/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stage: layers [first, end) of a model, with the embedding when first == 0 and the head when
 * end == n_layers, unless it is asked for elsewhere, holding only its own tensors, and the KV cache
 * of its sequences.
 *
 * The operations stand behind a table so that the pipeline can run on a fake stage in tests, and
 * later on other devices.
 */
#ifndef ISTHMUS_COMPUTE_STAGE_H
#define ISTHMUS_COMPUTE_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/kernels/attend.h"
#include "compute/loading.h"

struct gguf;
struct team;

struct stage_info {
    uint32_t first_layer, end_layer; /* held here */
    uint32_t n_layers;               /* of the model */
    uint32_t d_model, n_vocab;
    uint32_t n_ctx;    /* longest sequence, tokens */
    uint32_t max_rows; /* rows one stage_run takes at most */
    uint32_t max_seqs;
    bool has_head;
    uint32_t numerics_id;    /* what decides rounding; equal ids give equal bits */
    uint8_t fingerprint[16]; /* of the model, stage_file_identity() */
    bool is_half;            /* from a file of its own: */
    uint8_t parent[16];      /* the fingerprint of the model that was made from */
    size_t weights_bytes, kv_bytes, scratch_bytes; /* resident, by account */
    enum kv_format kv_format;                      /* of sequences, unless told otherwise */
    uint32_t kv_formats;      /* bits, 1 << enum kv_format: those that they may have */
    size_t kv_budget_bytes;   /* the cache never takes more */
    size_t kv_reserved_bytes; /* kv_bytes, and what the open sequences may still take */
    size_t kv_shared_bytes;   /* of kv_bytes: in pages of more than one sequence */
};

/* n rows of one sequence at positions pos .. pos+n-1. Of a stage that ends with the model's last
 * layer something is wanted of the last of them: of n_logits the logits (if it has the head), or of
 * n_hidden the hidden states behind that layer; not both. pos must be the sequence's present length:
 * rows are appended. A sequence appears once in a batch. */
struct stage_rows {
    int seq;
    uint32_t pos, n, n_logits, n_hidden;
};

/* A numerics id has the format of a sequence's cache in it; the rest is the stage's. */
#define STAGE_NUMERICS_KV 0x00ff0000u
static inline enum kv_format stage_numerics_kv(uint32_t numerics_id)
{
    return (enum kv_format)(numerics_id >> 16 & 0xff);
}

static inline uint32_t stage_numerics_with(uint32_t numerics_id, enum kv_format f)
{
    return (numerics_id & ~STAGE_NUMERICS_KV) | (uint32_t)f << 16;
}

struct stage; /* first member: const struct stage_ops *ops */

struct stage_ops {
    const struct stage_info *(*info)(const struct stage *s);
    size_t (*seq_bytes)(const struct stage *s, enum kv_format f, uint32_t max_tokens);
    size_t (*seq_own_bytes)(const struct stage *s, int seq);
    int (*seq_open)(struct stage *s, enum kv_format f, uint32_t max_tokens);
    int (*seq_fork)(struct stage *s, int seq, uint32_t n_tokens, uint32_t max_tokens);
    int (*seq_truncate)(struct stage *s, int seq, uint32_t n_tokens);
    void (*seq_close)(struct stage *s, int seq);
    int (*run)(struct stage *s, const struct stage_rows *batch, size_t n_batch, const int32_t *ids,
               const float *in, float *out, float *logits);
    int (*head)(struct stage *s, uint32_t n, const float *in, float *logits);
    void (*set_poll)(struct stage *s, void (*poll)(void *arg), void *arg);
    void (*close)(struct stage *s);
};

struct stage {
    const struct stage_ops *ops;
};

/* Who has the output norm and the head. */
enum stage_head {
    STAGE_HEAD_OWN,     /* the stage with the last layer */
    STAGE_HEAD_WITH,    /* this one, whatever its layers */
    STAGE_HEAD_WITHOUT, /* another, though the last layer is here */
};

struct stage_params {
    uint32_t first_layer;
    uint32_t end_layer;       /* 0: to the end */
    enum stage_head head;
    uint32_t max_rows;        /* 0: 128 */
    uint32_t max_seqs;        /* 0: 1 */
    uint32_t n_ctx;           /* 0: the model's, at most 8192 */
    size_t kv_budget_bytes;   /* hard budget of the cache; 0: max_seqs * n_ctx tokens. Pages are
                               * allocated as sequences grow */
    enum kv_format kv_format; /* how keys and values are cached, unless a sequence says otherwise */
    bool exact;               /* f32 activations instead of int8: slow, for eval */
    struct loading loading;   /* who hears of it; zeros: nobody */
};

/* Load layers of the model, each member of the team the rows it will multiply. The stage keeps no
 * reference to g; embedding rows are read from the file by its own descriptor. err: gguf.h's
 * GGUF_ERR bytes, one line. 0, -ENOTSUP (architecture, tensor type, scheme: err names it and those
 * supported), -EBADMSG (missing or misshapen tensors), -ERANGE (layers or a head that are not the
 * model's, or not in this half), -ENOMEM, -EIO. */
int stage_open(const struct gguf *g, const struct stage_params *p, struct team *team,
               struct stage **out, char *err);

/* What stage_open would keep resident, from the metadata alone: weights and KV for `tokens` tokens
 * (0: n_ctx) of one sequence. 0 or as stage_open. */
int stage_footprint(const struct gguf *g, const struct stage_params *p, uint32_t tokens,
                    size_t *weights_bytes, size_t *kv_bytes, char *err);

/* Number of layers in the model file (any supported architecture); -errno. */
int stage_count_layers(const struct gguf *g, char *err);

static inline const struct stage_info *stage_info(const struct stage *s)
{
    return s->ops->info(s);
}

/* Whether its sequences may have this format: q4 values need heads of a multiple of 32 dims. */
static inline bool stage_has_kv(const struct stage_info *info, enum kv_format f)
{
    return f < KV_FORMATS && info->kv_formats >> f & 1;
}

/* What a sequence of a format that may grow to max_tokens and shares nothing takes of the KV
 * budget, which is one for all formats; or of kv_format. */
static inline size_t stage_seq_bytes_as(const struct stage *s, enum kv_format f,
                                        uint32_t max_tokens)
{
    return s->ops->seq_bytes(s, f, max_tokens);
}

static inline size_t stage_seq_bytes(const struct stage *s, uint32_t max_tokens)
{
    return stage_seq_bytes_as(s, stage_info(s)->kv_format, max_tokens);
}

/* What closing the sequence would give back of the KV budget: not what others share with it. */
static inline size_t stage_seq_own_bytes(const struct stage *s, int seq)
{
    return s->ops->seq_own_bytes(s, seq);
}

/* A new empty sequence of a format that may grow to max_tokens: its id >= 0; -ENOSPC when the KV
 * budget or max_seqs says no (admission: budget for max_tokens is reserved now), -ERANGE past
 * n_ctx, -ENOTSUP for a format that it hasn't. Or one of kv_format. */
static inline int stage_seq_open_as(struct stage *s, enum kv_format f, uint32_t max_tokens)
{
    return s->ops->seq_open(s, f, max_tokens);
}

static inline int stage_seq_open(struct stage *s, uint32_t max_tokens)
{
    return stage_seq_open_as(s, stage_info(s)->kv_format, max_tokens);
}

/* A new sequence, of seq's format, that may grow to max_tokens and begins with the first n_tokens
 * of seq, as if their rows had been run in it. Whole pages (KV_PAGE tokens) of them are shared and
 * take no budget of their own. Its id, or as stage_seq_open, or -EINVAL: seq is not open, has fewer
 * tokens, or n_tokens > max_tokens. */
static inline int stage_seq_fork(struct stage *s, int seq, uint32_t n_tokens, uint32_t max_tokens)
{
    return s->ops->seq_fork(s, seq, n_tokens, max_tokens);
}

/* Forget all but the first n_tokens. 0 or -EINVAL; or, when that means pages of its own in the
 * place of such that it shares with another sequence and the budget has none left, -ENOSPC: nothing
 * changed. */
static inline int stage_seq_truncate(struct stage *s, int seq, uint32_t n_tokens)
{
    return s->ops->seq_truncate(s, seq, n_tokens);
}

static inline void stage_seq_close(struct stage *s, int seq)
{
    s->ops->seq_close(s, seq);
}

/*
 * Run the rows of the batch through the layers; rows are in batch order.
 *   ids     i32[rows]           when the stage has the embedding, else NULL
 *   in      f32[rows][d_model]  otherwise, else NULL
 *   out     f32[rows][d_model]  when the stage lacks the last layer, else
 *           f32[sum n_hidden][d_model], NULL when that sum is 0. It may be `in`
 *   logits  f32[sum n_logits][n_vocab], may be NULL when that sum is 0
 * What a row gives depends only on its sequence's format and rows so far: not on the batch, its
 * size, the threads or the chunking. 0, -EINVAL (positions, ids or counts out of range; nothing
 * changed), -EIO or -errno (embedding read).
 */
static inline int stage_run(struct stage *s, const struct stage_rows *batch, size_t n_batch,
                            const int32_t *ids, const float *in, float *out, float *logits)
{
    return s->ops->run(s, batch, n_batch, ids, in, out, logits);
}

/*
 * Logits f32[n][n_vocab] of n <= max_rows hidden states in[n][d_model] that a stage, this one or
 * another of the model, gave as wanted by n_hidden: those that it would have given by n_logits. 0,
 * -EINVAL (too many, or there is no head here).
 */
static inline int stage_head(struct stage *s, uint32_t n, const float *in, float *logits)
{
    return s->ops->head(s, n, in, logits);
}

/* poll(arg) is called by the leader thread between kernels, about every millisecond of a long
 * run, so that the link answers while the stage computes. It must not call the stage. */
static inline void stage_set_poll(struct stage *s, void (*poll)(void *arg), void *arg)
{
    s->ops->set_poll(s, poll, arg);
}

static inline void stage_close(struct stage *s)
{
    if (s)
        s->ops->close(s);
}

#endif
