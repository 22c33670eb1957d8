/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of the rows that wait go into the next stage run: those of sessions that decode, and with
 * them a part of a prompt, and what that leaves to a replay.
 *
 * Decode goes first, but what waited for MIX_PATIENCE runs without a row goes before it. While
 * somebody decodes, the others get time, not rows: half of what a run of all that decode takes, and
 * MIX_BULK_NS in any case. Where more are read than decode, they get twice what a run of them will
 * take when they decode. So a prompt however long makes the ids that come meanwhile later by no more
 * than that, for each of two things that can happen to an id here: its row waits for a run of the
 * others alone, which takes its start besides, or it shares its run with them. The two don't happen
 * to it at once.
 *
 * Prompts are read one after the other, by turns the oldest and the one with the least left: the
 * first long one is through when all together would be half read, and a short one does not wait for
 * it. Where more are read than decode, all have their turn: those that are read together decode
 * together, in fewer runs.
 *
 * What a run takes is learned from the runs before, as a sum: so much to start, for each row of
 * decode, for each of the others, and for the positions before it. Until it is known, the others get
 * MIX_BULK_ROWS.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_MIX_H
#define ISTHMUS_DATAPLANE_PIPELINE_MIX_H

#include <stdbool.h>
#include <stdint.h>

#define MIX_PATIENCE  4u
#define MIX_BULK_ROWS 16u
#define MIX_BULK_NS   6000000u
#define MIX_HALVES    12u
#define MIX_DEEP      1024u /* positions before a row: one unit of MIX_BULK_DEPTH */

enum mix_rank { MIX_DECODE, MIX_PREFILL, MIX_REPLAY, MIX_RANKS };

/* What a run takes is the sum of these. */
enum mix_part { MIX_START, MIX_DECODE_ROW, MIX_BULK_ROW, MIX_BULK_DEPTH, MIX_PARTS };

struct mix {
    uint32_t waited[MIX_RANKS]; /* runs in a row in which rows of this rank waited, and none went */
    double ns[MIX_PARTS]; /* that one of them takes; 0: not known yet */
    bool bulk_alone;      /* the latest run had rows, and none of decode */
    bool oldest_first;    /* of the prompts; else the shortest */
    uint32_t max_bulk; /* rows that the others get beside decode at most; 0: as time has it */
    /* of the run that is being put together */
    enum mix_rank order[MIX_RANKS]; /* in which the ranks should add their rows */
    uint32_t n_rows, n_bulk;        /* bulk: not of decode */
    double bulk_depth;              /* positions before its rows, of all together, in MIX_DEEP */
    uint32_t n_decoding, n_others, max_rows;
    bool waiting[MIX_RANKS], took[MIX_RANKS];
};

/* A prompt that waits, or what is left of it. */
struct mix_prompt {
    uint32_t left;
    int64_t number; /* counted as they came */
    int64_t turn;   /* counted from the one whose turn it is */
};

/* A run of at most max_rows rows. waiting: the ranks that have rows for it; n_decoding: sessions
 * that decode, though the next row of some may not be here yet; n_others: those that will, when
 * their prompts are read. */
void mix_begin(struct mix *m, const bool waiting[MIX_RANKS], uint32_t n_decoding, uint32_t n_others,
               uint32_t max_rows);

/* Rows, the first of them at this position, that the rank may still add. */
uint32_t mix_room(const struct mix *m, enum mix_rank rank, uint32_t position);

void mix_add(struct mix *m, enum mix_rank rank, uint32_t position, uint32_t n);

/* More are read than decode. */
bool mix_crowded(uint32_t n_decoding, uint32_t n_others);

/* Whether prompt a has its turn before b in the run that is being put together: strict orders. */
bool mix_before(const struct mix *m, struct mix_prompt a, struct mix_prompt b);
bool mix_older(struct mix_prompt a, struct mix_prompt b);
bool mix_shorter(struct mix_prompt a, struct mix_prompt b); /* alike: the older */

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
