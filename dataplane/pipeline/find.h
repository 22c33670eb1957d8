/* SPDX-License-Identifier: Apache-2.0 */
/* Which of n places has a number: found without looking at all of them. Several may have the same. */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_FIND_H
#define ISTHMUS_DATAPLANE_PIPELINE_FIND_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#define FIND_NONE UINT32_MAX

struct find {
    uint32_t *heads; /* [1 << bits] */
    uint32_t *next;  /* [n_places] */
    uint32_t bits;
};

static inline void find_close(struct find *f)
{
    free(f->heads);
    free(f->next);
    *f = (struct find){.heads = NULL};
}

/* 0 or -ENOMEM; find_close is due in either case. */
static inline int find_open(struct find *f, uint32_t n_places)
{
    uint32_t bits = 1;

    while (bits < 31 && 1u << bits < n_places)
        bits++;
    *f = (struct find){.heads = malloc(((size_t)1 << bits) * sizeof *f->heads),
                       .next = malloc(((size_t)n_places + 1) * sizeof *f->next),
                       .bits = bits};
    if (!f->heads || !f->next)
        return -ENOMEM;
    for (uint32_t i = 0; i < 1u << bits; i++)
        f->heads[i] = FIND_NONE;
    return 0;
}

static inline uint32_t *find_head(const struct find *f, uint32_t number)
{
    return &f->heads[number * 2654435769u >> (32 - f->bits)];
}

/* Candidates: for (i = find_first(f, number); i != FIND_NONE; i = f->next[i]) */
static inline uint32_t find_first(const struct find *f, uint32_t number)
{
    return *find_head(f, number);
}

static inline void find_put(struct find *f, uint32_t number, uint32_t place)
{
    uint32_t *head = find_head(f, number);

    f->next[place] = *head;
    *head = place;
}

/* That was put, by the same number. */
static inline void find_drop(struct find *f, uint32_t number, uint32_t place)
{
    uint32_t *at = find_head(f, number);

    while (*at != FIND_NONE && *at != place)
        at = &f->next[*at];
    if (*at == place)
        *at = f->next[place];
}

#endif
