/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An answer's text as its tokens come, up to the first stop string: what of it may be sent already
 * is neither half a character nor what could still become a stop string.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_TEXT_H
#define ISTHMUS_CONTROL_GATEWAY_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text_stop {
    const char *bytes;
    size_t n; /* > 0 */
};

struct text {
    const struct text_stop *stops; /* borrowed */
    size_t n_stops;
    char *bytes;
    size_t n, cap;
    size_t n_ready; /* may be sent; never less than before */
    bool stopped;   /* at a stop string, which is cut off: what comes later is left out */
};

/* 0 or -ENOMEM. */
int text_push(struct text *t, const char *piece, size_t n);
/* Nothing more comes: all is ready. */
void text_end(struct text *t);
void text_free(struct text *t);

#endif
