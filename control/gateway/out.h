/* SPDX-License-Identifier: Apache-2.0 */
/* A growing piece of text, mostly JSON: written by hand where it is written once a token. */
#ifndef ISTHMUS_CONTROL_GATEWAY_OUT_H
#define ISTHMUS_CONTROL_GATEWAY_OUT_H

#include <stdbool.h>
#include <stddef.h>

struct out {
    char *bytes;
    size_t n, cap;
    bool failed; /* out of memory: something is missing */
};

void out_free(struct out *o);
void out_bytes(struct out *o, const char *bytes, size_t n);
void out_text(struct out *o, const char *text);
void out_format(struct out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void out_number(struct out *o, unsigned long long v);

/* A JSON string of text[0,n), quotes included; bytes that are no UTF-8 become U+FFFD. */
void out_string(struct out *o, const char *text, size_t n);

/* A JSON number of six digits; what is not finite becomes `instead`. */
void out_real(struct out *o, double v, double instead);

#endif
