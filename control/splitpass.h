/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model in this process, whole or cut in two with real tiles between the halves: the way of a
 * prompt without the network, for score and eval.
 */
#ifndef ISTHMUS_CONTROL_SPLITPASS_H
#define ISTHMUS_CONTROL_SPLITPASS_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/codec.h"
#include "compute/stage.h"
#include "control/model.h"

#define SPLITPASS_CHUNK 64u /* rows of a prefill message, and of a run */

struct splitpass {
    uint32_t split;      /* layers in front; 0: whole */
    struct stage *front; /* NULL: whole */
    struct stage *back;
    uint32_t d_model, n_vocab, n_ctx;
    float *logits; /* f32[SPLITPASS_CHUNK][n_vocab] */
};

/* split 0: whole. ctx 0: the default. EXIT_OK or an exit code, the error said; close either way. */
int splitpass_open(const struct model *m, uint32_t split, uint32_t ctx, bool exact,
                   struct team *team, struct splitpass *s);
void splitpass_close(struct splitpass *s);

/* The front's rows f32[n][d_model] of a fresh sequence. 0 or -errno. */
int splitpass_front(struct splitpass *s, const int32_t *ids, uint32_t n, float *rows);

/* What compressed rows cost on the way. */
struct splitpass_traffic {
    struct codec_stats codec;
    uint64_t packets;
};

/* rows -> tiles, packed as prefill packs them -> out f32[n][d_model]. traffic adds up. -EDOM: a row
 * that the codec cannot carry, traffic->codec says which; else 0 or -errno. */
int splitpass_carry(struct codec *c, const float *rows, uint32_t n, uint32_t d_model, float *out,
                    struct splitpass_traffic *traffic);

/* Run a fresh sequence through the back, from the front's rows, or from ids when whole, and hand
 * on the logits of positions [first_wanted, n) in order, a piece at a time: f32[count][n_vocab].
 * 0 or -errno. */
typedef void (*splitpass_fn)(void *arg, uint32_t first, uint32_t count, const float *logits);
int splitpass_back(struct splitpass *s, const int32_t *ids, const float *rows, uint32_t n,
                   uint32_t first_wanted, splitpass_fn fn, void *arg);

#endif
