/* SPDX-License-Identifier: Apache-2.0 */
#include "control/splitpass.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "dataplane/wire.h"

#define MTU_BYTES 1500u

static int open_range(const struct model *m, uint32_t first, uint32_t end, uint32_t ctx, bool exact,
                      struct team *team, struct stage **out)
{
    const struct stage_params p = {
        .first_layer = first,
        .end_layer = end,
        .max_rows = SPLITPASS_CHUNK,
        .n_ctx = ctx,
        .exact = exact,
    };
    char err[GGUF_ERR] = "";
    int rc = stage_open(m->gguf, &p, team, out, err);

    if (rc < 0)
        log_error("%s", err);
    return rc == 0 ? EXIT_OK : rc == -ENOMEM || rc == -EIO ? EXIT_FAILED : EXIT_USAGE;
}

int splitpass_open(const struct model *m, uint32_t split, uint32_t ctx, bool exact,
                   struct team *team, struct splitpass *s)
{
    *s = (struct splitpass){.split = split};
    int rc = EXIT_OK;
    if (split)
        rc = open_range(m, 0, split, ctx, exact, team, &s->front);
    if (rc == EXIT_OK)
        rc = open_range(m, split, 0, ctx, exact, team, &s->back);
    if (rc != EXIT_OK)
        return rc;

    const struct stage_info *info = stage_info(s->back);
    s->d_model = info->d_model;
    s->n_vocab = info->n_vocab;
    s->n_ctx = info->n_ctx;
    s->logits = malloc((size_t)SPLITPASS_CHUNK * s->n_vocab * sizeof *s->logits);
    if (!s->logits) {
        log_error("out of memory for logits");
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

void splitpass_close(struct splitpass *s)
{
    stage_close(s->front);
    stage_close(s->back);
    free(s->logits);
    *s = (struct splitpass){0};
}

static uint32_t chunk_at(uint32_t pos, uint32_t n)
{
    return n - pos < SPLITPASS_CHUNK ? n - pos : SPLITPASS_CHUNK;
}

int splitpass_front(struct splitpass *s, const int32_t *ids, uint32_t n, float *rows)
{
    const int seq = stage_seq_open(s->front, n);
    int rc = seq < 0 ? seq : 0;

    for (uint32_t pos = 0; pos < n && rc == 0; pos += SPLITPASS_CHUNK) {
        const struct stage_rows r = {.seq = seq, .pos = pos, .n = chunk_at(pos, n)};
        rc = stage_run(s->front, &r, 1, ids + pos, NULL, rows + (size_t)pos * s->d_model, NULL);
    }
    stage_seq_close(s->front, seq);
    return rc;
}

int splitpass_carry(struct codec *c, const float *rows, uint32_t n, uint32_t d_model, float *out,
                    struct splitpass_traffic *traffic)
{
    uint8_t payload[MTU_BYTES];

    for (uint32_t pos = 0; pos < n; pos += SPLITPASS_CHUNK) {
        const uint32_t count = chunk_at(pos, n);
        const float *from = rows + (size_t)pos * d_model;
        float *to = out + (size_t)pos * d_model;
        struct codec_cursor at = {0, 0};

        while (at.row < count) {
            const int len = codec_encode(c, from, d_model, count, pos, &at, payload,
                                         wire_payload_max(MTU_BYTES), &traffic->codec);
            if (len < 0)
                return len;
            const int rc = codec_decode(c, payload, (size_t)len, pos, to, d_model, count, NULL);
            if (rc < 0)
                return rc;
            traffic->packets++;
        }
    }
    return 0;
}

int splitpass_back(struct splitpass *s, const int32_t *ids, const float *rows, uint32_t n,
                   uint32_t first_wanted, splitpass_fn fn, void *arg)
{
    const int seq = stage_seq_open(s->back, n);
    int rc = seq < 0 ? seq : 0;

    for (uint32_t pos = 0; pos < n && rc == 0; pos += SPLITPASS_CHUNK) {
        const uint32_t count = chunk_at(pos, n), end = pos + count;
        const uint32_t wanted = first_wanted < pos   ? count
                                : first_wanted < end ? end - first_wanted
                                                     : 0;
        const struct stage_rows r = {.seq = seq, .pos = pos, .n = count, .n_logits = wanted};
        rc = stage_run(s->back, &r, 1, s->front ? NULL : ids + pos,
                       s->front ? rows + (size_t)pos * s->d_model : NULL, NULL, s->logits);
        if (rc == 0 && wanted)
            fn(arg, end - wanted, wanted, s->logits);
    }
    stage_seq_close(s->back, seq);
    return rc;
}
