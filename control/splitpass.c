/* SPDX-License-Identifier: Apache-2.0 */
#include "control/splitpass.h"

#include <errno.h>
#include <stdlib.h>

#include "control/cmd.h"
#include "control/log.h"
#include "dataplane/pipeline/proto.h"
#include "dataplane/wire.h"

#define MTU_BYTES 1500u
#define RUN_ROWS  64u /* of one stage_run: logits of more take memory and no less time */
#define RUN_SEQS  RUN_ROWS

/* --- open, close ----------------------------------------------------------------------------- */

static int open_part(const struct model *m, const struct splitpass_params *p, struct team *team,
                     unsigned part, struct splitpass *s)
{
    const struct stage_params sp = {
        .first_layer = part ? p->cuts[part - 1] : 0,
        .end_layer = part < p->n_cuts ? p->cuts[part] : 0,
        .max_rows = RUN_ROWS,
        .max_seqs = p->n_seqs,
        .n_ctx = p->ctx,
        .kv_format = p->kv,
        .exact = p->exact,
    };
    const struct need_process with = {
        .faces_users = m->tok != NULL, .threads = team_size(team), .logit_rows = RUN_ROWS};
    int rc = model_open_stage(m, &sp, &with, team, &s->parts[part]);
    if (rc != EXIT_OK)
        return rc;

    s->seqs[part] = malloc(p->n_seqs * sizeof *s->seqs[part]);
    for (uint32_t i = 0; i < p->n_seqs; i++) {
        const int seq = s->seqs[part]
                            ? stage_seq_open(s->parts[part], stage_info(s->parts[part])->n_ctx)
                            : -ENOMEM;
        if (seq < 0) {
            log_error("out of memory for %u sequences", p->n_seqs);
            return EXIT_FAILED;
        }
        s->seqs[part][i] = seq;
    }
    return EXIT_OK;
}

int splitpass_open(const struct model *m, const struct splitpass_params *p, struct team *team,
                   struct splitpass *s)
{
    *s = (struct splitpass){.n_parts = p->n_cuts + 1};
    for (unsigned part = 0; part < s->n_parts; part++) {
        const int rc = open_part(m, p, team, part, s);
        if (rc != EXIT_OK)
            return rc;
    }

    const struct stage_info *info = stage_info(s->parts[0]);
    s->d_model = info->d_model;
    s->n_vocab = info->n_vocab;
    s->n_ctx = info->n_ctx;
    s->rows = malloc((size_t)RUN_ROWS * s->d_model * sizeof *s->rows);
    s->logits = malloc((size_t)RUN_ROWS * s->n_vocab * sizeof *s->logits);
    if (!s->rows || !s->logits) {
        log_error("out of memory for logits");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

void splitpass_close(struct splitpass *s)
{
    for (unsigned part = 0; part < s->n_parts; part++) {
        stage_close(s->parts[part]);
        free(s->seqs[part]);
    }
    free(s->rows);
    free(s->logits);
    *s = (struct splitpass){0};
}

/* --- run ------------------------------------------------------------------------------------- */

/* What one stage_run takes of a batch. */
struct piece {
    struct stage_rows rows[RUN_SEQS]; /* sequences as the batch numbers them */
    const struct stage_rows *whose[RUN_SEQS];
    uint32_t n, n_rows;
};

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* The rows from row *done of entry *at on. */
static void cut_piece(const struct stage_rows *batch, size_t n_batch, size_t *at, uint32_t *done,
                      struct piece *p)
{
    p->n = p->n_rows = 0;
    while (*at < n_batch && p->n_rows < RUN_ROWS) {
        const struct stage_rows *b = &batch[*at];
        const uint32_t n = smaller(b->n - *done, RUN_ROWS - p->n_rows);
        const uint32_t unwanted = b->n - b->n_logits, end = *done + n;

        p->whose[p->n] = b;
        p->rows[p->n++] = (struct stage_rows){
            .seq = b->seq,
            .pos = b->pos + *done,
            .n = n,
            .n_logits = end > unwanted ? smaller(n, end - unwanted) : 0,
        };
        p->n_rows += n;
        *done = end;
        if (end == b->n) {
            *done = 0;
            (*at)++;
        }
    }
}

static int run_part(struct splitpass *s, unsigned part, const struct piece *p, const int32_t *ids,
                    const float *in, float *out)
{
    const bool head = part + 1 == s->n_parts;
    struct stage_rows rows[RUN_SEQS];

    for (uint32_t i = 0; i < p->n; i++) {
        rows[i] = p->rows[i];
        rows[i].seq = s->seqs[part][p->rows[i].seq];
        if (!head)
            rows[i].n_logits = 0;
        const int rc = stage_seq_truncate(s->parts[part], rows[i].seq, rows[i].pos);
        if (rc < 0)
            return rc;
    }
    return stage_run(s->parts[part], rows, p->n, part ? NULL : ids, part ? in : NULL,
                     head ? NULL : out, head ? s->logits : NULL);
}

static void hand_on(struct splitpass *s, const struct piece *p, splitpass_fn fn, void *arg)
{
    const float *logits = s->logits;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct stage_rows *r = &p->rows[i];
        if (r->n_logits)
            fn(arg, p->whose[i], r->pos + r->n - r->n_logits, r->n_logits, logits);
        logits += (size_t)r->n_logits * s->n_vocab;
    }
}

int splitpass_run(struct splitpass *s, unsigned first, unsigned last,
                  const struct stage_rows *batch, size_t n_batch, const int32_t *ids,
                  const float *in, float *const keep[], splitpass_fn fn, void *arg)
{
    struct piece p;
    size_t entry = 0;
    uint32_t done = 0;

    for (size_t row = 0; entry < n_batch; row += p.n_rows) {
        const float *from = in ? in + row * s->d_model : NULL;

        cut_piece(batch, n_batch, &entry, &done, &p);
        for (unsigned part = first; part <= last; part++) {
            float *to = keep && part + 1 < s->n_parts && keep[part] ? keep[part] + row * s->d_model
                                                                    : s->rows;
            const int rc = run_part(s, part, &p, ids ? ids + row : NULL, from, to);
            if (rc < 0)
                return rc;
            from = to;
        }
        if (last + 1 == s->n_parts)
            hand_on(s, &p, fn, arg);
    }
    return 0;
}

/* --- carry ----------------------------------------------------------------------------------- */

int splitpass_carry(struct codec *c, const float *rows, uint32_t n, uint32_t first_token,
                    uint32_t d_model, uint32_t message_rows, float *out,
                    struct splitpass_traffic *traffic)
{
    const size_t capacity = proto_tile_capacity(wire_payload_max(MTU_BYTES));
    uint8_t tile[MTU_BYTES];

    for (uint32_t pos = 0; pos < n; pos += message_rows) {
        const uint32_t count = smaller(n - pos, message_rows), token = first_token + pos;
        const float *from = rows + (size_t)pos * d_model;
        float *to = out + (size_t)pos * d_model;
        struct codec_cursor at = {0, 0};

        while (at.row < count) {
            const int len =
                codec_encode(c, from, d_model, count, token, &at, tile, capacity, &traffic->codec);
            if (len < 0)
                return len;
            const int rc =
                codec_decode_later(c, tile, (size_t)len, token, to, d_model, count, NULL);
            if (rc < 0)
                return rc;
            traffic->wire_bytes += WIRE_OVERHEAD + (size_t)len;
        }
        traffic->wire_bytes += LINK_REPLY_PREFIX_BYTES + PROTO_ROWS_BYTES;
        const int rc = codec_decode_finish(c);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int splitpass_carry_rated(struct codec *c, const struct codec_params *p, struct codec_rate *rate,
                          const float *rows, uint32_t n, uint32_t first_token, uint32_t d_model,
                          uint32_t message_rows, float *out, struct splitpass_traffic *traffic)
{
    struct codec_params now = *p;
    int rc = 0;

    for (uint32_t pos = 0; pos < n && rc == 0; pos += message_rows) {
        const uint32_t count = smaller(n - pos, message_rows);
        const size_t at = (size_t)pos * d_model;
        const uint64_t before = traffic->codec.bytes;

        codec_rate_apply(rate, &now);
        rc = codec_retune(c, &now);
        if (rc == 0)
            rc = splitpass_carry(c, rows + at, count, first_token + pos, d_model, message_rows,
                                 out + at, traffic);
        codec_rate_note(rate, &traffic->parameter);
        codec_rate_feed(rate, traffic->codec.bytes - before, count);
    }
    return rc;
}
