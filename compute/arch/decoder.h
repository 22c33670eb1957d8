/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder: runs rows through the layers of a stage on the thread team. It owns the scratch, and
 * nothing else.
 */
#ifndef ISTHMUS_COMPUTE_DECODER_H
#define ISTHMUS_COMPUTE_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "compute/arch/weights.h"
#include "compute/kv.h"
#include "compute/team.h"

struct decoder;

struct decoder_row {
    int seq;
    uint32_t pos; /* attends to positions 0..pos of its sequence */
};

/* All pointers must outlive the decoder. 0 or -ENOMEM. */
int decoder_open(const struct hparams *hp, const struct weights *w, struct kv *kv,
                 struct team *team, uint32_t max_rows, uint32_t n_ctx, int exact,
                 struct decoder **out);
void decoder_close(struct decoder *d);
size_t decoder_bytes(const struct decoder *d);

/* Called by the leader between kernels; see stage_set_poll. */
void decoder_set_poll(struct decoder *d, void (*poll)(void *arg), void *arg);

/* Where the rows are put before a run, f32[max_rows][d_model]; and where they stand after it: all of
 * them or, where the layers end with the model's last, the wanted ones, one after the other. */
float *decoder_x(struct decoder *d);

/* Run rows [0, n_rows) through all layers; then, if logits is not NULL, those of rows
 * wanted[0, n_wanted) (ascending): f32[n_wanted][n_vocab]. */
void decoder_run(struct decoder *d, const struct decoder_row *rows, uint32_t n_rows,
                 const uint32_t *wanted, uint32_t n_wanted, float *logits);

/* Logits of the first n rows of decoder_x, which have been through the last layer. */
void decoder_head(struct decoder *d, uint32_t n, float *logits);

#endif
