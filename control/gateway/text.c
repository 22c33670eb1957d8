/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/utf8.h"

void text_free(struct text *t)
{
    free(t->bytes);
    *t = (struct text){.stops = NULL};
}

/* Where the first stop string begins that ends after `from`; t->n: nowhere. */
static size_t find_stop(const struct text *t, size_t from)
{
    size_t first = t->n;
    for (size_t i = 0; i < t->n_stops; i++) {
        const struct text_stop *s = &t->stops[i];
        const size_t begin = from >= s->n ? from - s->n + 1 : 0;
        const char *at = memmem(t->bytes + begin, t->n - begin, s->bytes, s->n);
        if (at && (size_t)(at - t->bytes) < first)
            first = (size_t)(at - t->bytes);
    }
    return first;
}

/* The longest end of the text that a stop string begins with. */
static size_t held_bytes(const struct text *t)
{
    size_t held = 0;
    for (size_t i = 0; i < t->n_stops; i++) {
        const struct text_stop *s = &t->stops[i];
        size_t n = s->n - 1 < t->n ? s->n - 1 : t->n;
        while (n > held && memcmp(t->bytes + t->n - n, s->bytes, n) != 0)
            n--;
        held = n > held ? n : held;
    }
    return held;
}

int text_push(struct text *t, const char *piece, size_t n)
{
    if (t->stopped || n == 0)
        return 0;
    if (n > t->cap - t->n) {
        const size_t cap = (t->n + n) * 3 / 2 + 64;
        char *bytes = realloc(t->bytes, cap);
        if (!bytes)
            return -ENOMEM;
        t->bytes = bytes;
        t->cap = cap;
    }
    const size_t from = t->n;
    memcpy(t->bytes + from, piece, n);
    t->n += n;
    const size_t stop = find_stop(t, from);
    if (stop < t->n) {
        t->n = stop;
        t->stopped = true;
        text_end(t);
        return 0;
    }
    /* From n_ready on: what was sent ended with a whole character. */
    const size_t sure = t->n - held_bytes(t);
    if (sure > t->n_ready)
        t->n_ready += utf8_ready(t->bytes + t->n_ready, sure - t->n_ready);
    return 0;
}

void text_end(struct text *t)
{
    t->n_ready = t->n;
}
