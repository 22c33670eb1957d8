/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/placement.h"

#include <stdio.h>
#include <string.h>

#include "compute/stage.h"

uint64_t fleet_hash(uint64_t a, uint64_t b)
{
    uint64_t z = a + UINT64_C(0x9e3779b97f4a7c15) * (b + 1);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

enum misfit { FITS, MODEL, SPLIT, CODEC, NUMERICS };

/* The format of the cache is a session's own, so not a reason. */
static enum misfit misfit(const struct worker *w, const struct fleet_need *need)
{
    if (w->model[0] && need->model[0] && strcmp(w->model, need->model) != 0)
        return MODEL;
    if (w->split && need->split && w->split != need->split)
        return SPLIT;
    if (w->codec_id && need->codec_id && w->codec_id != need->codec_id)
        return CODEC;
    if (w->numerics_id && need->numerics_id &&
        (w->numerics_id ^ need->numerics_id) & ~STAGE_NUMERICS_KV)
        return NUMERICS;
    return FITS;
}

bool fleet_fits(const struct worker *w, const struct fleet_need *need)
{
    return misfit(w, need) == FITS;
}

void fleet_misfit(const struct worker *w, const struct fleet_need *need, char *text, size_t room)
{
    switch (misfit(w, need)) {
    case FITS:
        break;
    case MODEL:
        snprintf(text, room, "model %s, not %s", w->model, need->model);
        break;
    case SPLIT:
        snprintf(text, room, "split %u, not %u", w->split, need->split);
        break;
    case CODEC:
        snprintf(text, room, "codec %x, not %x", w->codec_id, need->codec_id);
        break;
    case NUMERICS:
        snprintf(text, room, "numerics %x, not %x", w->numerics_id, need->numerics_id);
        break;
    }
}

const char *fleet_state_name(enum fleet_state s)
{
    static const char *const names[] = {[FLEET_KNOWN] = "known",
                                        [FLEET_JOINED] = "joined",
                                        [FLEET_DRAINING] = "draining",
                                        [FLEET_UNFIT] = "unfit",
                                        [FLEET_AWAY] = "away"};
    return names[s];
}

/* --- of a session
 * ---------------------------------------------------------------------------------
 */

static bool has_room(const struct fleet_view *v, uint64_t need_tokens)
{
    return !v->full && (!v->has_status || (v->free_sessions > 0 && v->free_tokens >= need_tokens));
}

/* In nanoseconds times a factor of load; at most 2^63, as times are cut. */
static uint64_t cost(const struct fleet_view *v)
{
    const uint64_t rtt_ns = v->rtt_ns < FLEET_RTT_MAX_NS ? v->rtt_ns : FLEET_RTT_MAX_NS;
    const uint64_t token_ns = (rtt_ns + FLEET_TOKEN_NS) * (v->sessions + UINT64_C(1));
    if (!v->has_status || !v->free_sessions)
        return token_ns;
    return token_ns + token_ns * FLEET_SCARCE / v->free_sessions;
}

/* The i-th that has room. */
static uint32_t nth(const struct fleet_view *views, uint64_t need_tokens, uint32_t i)
{
    uint32_t at = 0;
    for (;; at++)
        if (has_room(&views[at], need_tokens) && i-- == 0)
            return at;
}

int fleet_choose(const struct fleet_view *views, uint32_t n, uint64_t need_tokens, uint64_t seed,
                 uint64_t counter)
{
    uint32_t usable = 0, known = 0; /* known: the one that has most of its beginning */
    bool has_known = false;
    for (uint32_t i = 0; i < n; i++) {
        if (!has_room(&views[i], need_tokens))
            continue;
        usable++;
        if (views[i].shared_tokens >= FLEET_SHARED &&
            (!has_known || views[i].shared_tokens > views[known].shared_tokens)) {
            known = i;
            has_known = true;
        }
    }
    if (usable == 0)
        return -1;
    const uint64_t draw = fleet_hash(seed, counter);
    const uint32_t first = (uint32_t)((draw >> 32) * usable >> 32);
    uint32_t a = nth(views, need_tokens, first), b = a;
    if (usable > 1) {
        uint32_t second = (uint32_t)((draw & UINT32_MAX) * (usable - 1) >> 32);
        second += second >= first;
        b = nth(views, need_tokens, second);
    }
    const uint32_t better = cost(&views[b]) < cost(&views[a]) ? b : a;
    if (has_known && views[known].sessions <= views[better].sessions + FLEET_LEAN)
        return (int)known;
    return (int)better;
}

/* --- of workers
 * -----------------------------------------------------------------------------------
 */

static uint64_t name_hash(const char *name)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return h;
}

size_t fleet_select(const struct workers *w, const struct fleet_need *need, uint64_t seed,
                    size_t max, uint32_t *chosen)
{
    size_t n = 0;
    for (uint32_t i = 0; i < w->n && max > 0; i++) {
        if (w->list[i].draining || !fleet_fits(&w->list[i], need))
            continue;
        const uint64_t weight = fleet_hash(seed, name_hash(w->list[i].name));
        size_t least = 0;
        for (size_t k = 1; n == max && k < n; k++)
            if (fleet_hash(seed, name_hash(w->list[chosen[k]].name)) <
                fleet_hash(seed, name_hash(w->list[chosen[least]].name)))
                least = k;
        if (n < max)
            chosen[n++] = i;
        else if (weight > fleet_hash(seed, name_hash(w->list[chosen[least]].name))) {
            memmove(chosen + least, chosen + least + 1, (n - least - 1) * sizeof *chosen);
            chosen[n - 1] = i; /* i is beyond all others: ascending */
        }
    }
    return n;
}
