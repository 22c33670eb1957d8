/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model in this process, whole or cut in parts with real tiles at a cut: the way of a prompt
 * without the network, for score and eval. With several cuts the parts are shared: the rows at
 * every cut come from one pass, and a pass from a cut on runs the parts behind it.
 */
#ifndef ISTHMUS_CONTROL_SPLITPASS_H
#define ISTHMUS_CONTROL_SPLITPASS_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/codec.h"
#include "codec/rate.h"
#include "compute/stage.h"
#include "control/model.h"

#define SPLITPASS_MESSAGE_ROWS 64u /* of a prefill message */
#define SPLITPASS_CUTS_MAX     16u

struct splitpass_params {
    const uint32_t *cuts; /* layers before each, ascending, all different */
    unsigned n_cuts;      /* 0: whole */
    uint32_t ctx;         /* 0: the default */
    uint32_t n_seqs;      /* sequences 0 .. n_seqs-1 there are */
    enum kv_format kv;
    bool exact; /* f32 arithmetic */
};

struct splitpass {
    unsigned n_parts; /* part p holds the layers between cut p-1 and cut p */
    struct stage *parts[SPLITPASS_CUTS_MAX + 1];
    int *seqs[SPLITPASS_CUTS_MAX + 1]; /* [n_seqs] of the part */
    uint32_t d_model, n_vocab, n_ctx;
    float *rows;   /* f32[rows of a run][d_model] between parts */
    float *logits; /* f32[rows of a run][n_vocab] */
};

/* EXIT_OK or an exit code, the error said; close either way. */
int splitpass_open(const struct model *m, const struct splitpass_params *p, struct team *team,
                   struct splitpass *s);
void splitpass_close(struct splitpass *s);

/* Logits f32[count][n_vocab] of positions first .. first+count-1 of `rows`, an entry of the batch.
 */
typedef void (*splitpass_fn)(void *arg, const struct stage_rows *rows, uint32_t first,
                             uint32_t count, const float *logits);

/*
 * Run rows of any number through the parts [first, last], in pieces that the stages take.
 *   batch  as stage_run's; a sequence longer than its rows' pos forgets what is past it
 *   ids    when first == 0, else NULL
 *   in     f32[rows][d_model] otherwise: rows at cut first-1
 *   keep   [cuts], NULL or where to put f32[rows][d_model] at each cut; NULL: none
 *   fn     gets the logits wanted, in order; may be NULL when the last part doesn't run
 * 0 or -errno.
 */
int splitpass_run(struct splitpass *s, unsigned first, unsigned last,
                  const struct stage_rows *batch, size_t n_batch, const int32_t *ids,
                  const float *in, float *const keep[], splitpass_fn fn, void *arg);

/* What compressed rows cost on the way. */
struct splitpass_traffic {
    struct codec_stats codec;
    uint64_t wire_bytes; /* of whole frames with rows; no acknowledgements */
    struct codec_rate_range parameter; /* the step or delta of messages under rate control */
};

/* rows -> tiles, in messages of message_rows packed as the pipeline packs them -> out
 * f32[n][d_model]. Row 0 is token first_token. traffic adds up. -EDOM: a row that the codec cannot
 * carry, traffic->codec says which; else 0 or -errno. */
int splitpass_carry(struct codec *c, const float *rows, uint32_t n, uint32_t first_token,
                    uint32_t d_model, uint32_t message_rows, float *out,
                    struct splitpass_traffic *traffic);

/* The same under rate control: each message with p's parameters but the one that `rate` says. */
int splitpass_carry_rated(struct codec *c, const struct codec_params *p, struct codec_rate *rate,
                          const float *rows, uint32_t n, uint32_t first_token, uint32_t d_model,
                          uint32_t message_rows, float *out, struct splitpass_traffic *traffic);

#endif
