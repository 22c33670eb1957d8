/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of the rows that wait go into the next stage run: those of sessions that decode, and with
 * them a part of a prompt, and what that leaves to a replay.
 *
 * Decode goes first, but what waited for MIX_PATIENCE runs without a row goes before it. While
 * somebody decodes, the others get time, not rows: as much as all who decode need for a row each, or
 * as the others would if they are more, and MIX_BULK_NS in any case. So a prompt however
 * long makes the ids that come meanwhile later by no more than that, for each of two things that can
 * happen to an id here: its row waits for a run of the others alone, or it shares its run with them.
 * The two don't happen to it at once.
 *
 * What a row takes is learned from the runs before; until it is, the others get MIX_BULK_ROWS.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_MIX_H
#define ISTHMUS_DATAPLANE_PIPELINE_MIX_H

#include <stdbool.h>
#include <stdint.h>

#define MIX_PATIENCE  4u
#define MIX_BULK_ROWS 16u
#define MIX_BULK_NS   8000000u
#define MIX_HALVES    12u
#define MIX_DEEP      1536u /* so many positions deep a row takes twice the time of the first */

enum mix_rank { MIX_DECODE, MIX_PREFILL, MIX_REPLAY, MIX_RANKS };

struct mix {
    uint32_t waited[MIX_RANKS]; /* runs in a row in which rows of this rank waited, and none went */
    double decode_row_ns, bulk_row_ns; /* that one takes, at position 0; 0: not known yet */
    bool bulk_alone;                   /* the latest run had rows, and none of decode */
    uint32_t max_bulk; /* rows that the others get beside decode at most; 0: as time has it */
    /* of the run that is being put together */
    enum mix_rank order[MIX_RANKS]; /* in which the ranks should add their rows */
    uint32_t n_rows, n_bulk;        /* bulk: not of decode */
    double bulk_work;               /* its rows, as if at position 0 */
    uint32_t n_decoding, n_others, max_rows;
    bool waiting[MIX_RANKS], took[MIX_RANKS];
};

/* A run of at most max_rows rows. waiting: the ranks that have rows for it; n_decoding: sessions
 * that decode, though the next row of some may not be here yet; n_others: those that will, when
 * their prompts are read. */
void mix_begin(struct mix *m, const bool waiting[MIX_RANKS], uint32_t n_decoding, uint32_t n_others,
               uint32_t max_rows);

/* Rows, the first of them at this position, that the rank may still add. */
uint32_t mix_room(const struct mix *m, enum mix_rank rank, uint32_t position);

void mix_add(struct mix *m, enum mix_rank rank, uint32_t position, uint32_t n);

/* How many sessions' rows of decode an edge puts into the run at most: from MIX_HALVES that decode
 * on half of them, so that one half is computed there while the cloud computes the other. All
 * together would come back together too, and the two would take turns for ever. Not while prompts
 * are read, which fill what they leave. */
uint32_t mix_sessions(const struct mix *m);

/* All have had their turn. */
void mix_end(struct mix *m);

/* The run took so long; 0: nobody knows. */
void mix_ran(struct mix *m, uint64_t ns);

#endif
