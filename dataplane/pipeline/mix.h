/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of the rows that wait go into the next stage run: those of sessions that decode, and with
 * them a part of a prompt, and what that leaves to a replay.
 *
 * Decode goes first, but what waited for MIX_PATIENCE runs without a row goes before it. While
 * somebody decodes, the others add at most MIX_BULK_ROWS rows to a run, so that a prompt however
 * long makes each of the ids that come meanwhile later by no more than these rows take.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_MIX_H
#define ISTHMUS_DATAPLANE_PIPELINE_MIX_H

#include <stdbool.h>
#include <stdint.h>

#define MIX_PATIENCE  4u
#define MIX_BULK_ROWS 16u

enum mix_rank { MIX_DECODE, MIX_PREFILL, MIX_REPLAY, MIX_RANKS };

struct mix {
    uint32_t waited[MIX_RANKS]; /* runs in a row in which rows of this rank waited, and none went */
    /* of the run that is being put together */
    enum mix_rank order[MIX_RANKS]; /* in which the ranks should add their rows */
    uint32_t n_rows, n_bulk;        /* bulk: not of decode */
    uint32_t max_rows, max_bulk;
    bool waiting[MIX_RANKS], took[MIX_RANKS];
};

/* A run of at most max_rows rows. waiting: the ranks that have rows for it; decoding: some session
 * decodes, though its next row may not be here yet. */
void mix_begin(struct mix *m, const bool waiting[MIX_RANKS], bool decoding, uint32_t max_rows);

/* Rows that the rank may still add. */
uint32_t mix_room(const struct mix *m, enum mix_rank rank);

/* Whether so many rows that can't be taken apart may be added: more than MIX_BULK_ROWS may where
 * they are the first of their kind, or they never could. */
bool mix_fits(const struct mix *m, enum mix_rank rank, uint32_t n);

void mix_add(struct mix *m, enum mix_rank rank, uint32_t n);

/* All have had their turn. */
void mix_end(struct mix *m);

#endif
