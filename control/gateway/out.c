/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/out.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/utf8.h"

void out_free(struct out *o)
{
    free(o->bytes);
    *o = (struct out){.failed = o->failed};
}

static bool grow(struct out *o, size_t n)
{
    if (o->failed)
        return false;
    if (n <= o->cap - o->n)
        return true;
    const size_t cap = (o->n + n) * 3 / 2 + 256;
    char *bytes = realloc(o->bytes, cap);
    if (!bytes) {
        o->failed = true;
        return false;
    }
    o->bytes = bytes;
    o->cap = cap;
    return true;
}

void out_bytes(struct out *o, const char *bytes, size_t n)
{
    if (!grow(o, n) || n == 0)
        return;
    memcpy(o->bytes + o->n, bytes, n);
    o->n += n;
}

void out_text(struct out *o, const char *text)
{
    out_bytes(o, text, strlen(text));
}

void out_format(struct out *o, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text)
        o->failed = true; /* what may be long is written by the others */
    else
        out_bytes(o, text, (size_t)n);
}

void out_number(struct out *o, unsigned long long v)
{
    char digits[20], *at = digits + sizeof digits;
    do
        *--at = (char)('0' + v % 10);
    while (v /= 10);
    out_bytes(o, at, (size_t)(digits + sizeof digits - at));
}

/* Of one byte: its letter behind a backslash, 'u' for those written as \u00XX, 0: as it is. */
static char escape(unsigned char c)
{
    switch (c) {
    case '"':
    case '\\':
        return (char)c;
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return c < 0x20 || c == 0x7f ? 'u' : 0;
    }
}

static void string_of_utf8(struct out *o, const char *text, size_t n)
{
    size_t from = 0;
    out_bytes(o, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const char e = escape((unsigned char)text[i]);
        if (!e)
            continue;
        out_bytes(o, text + from, i - from);
        from = i + 1;
        if (e == 'u')
            out_format(o, "\\u%04x", (unsigned char)text[i]);
        else
            out_bytes(o, (char[]){'\\', e}, 2);
    }
    out_bytes(o, text + from, n - from);
    out_bytes(o, "\"", 1);
}

void out_string(struct out *o, const char *text, size_t n)
{
    size_t i = 0;
    if (n == 0) {
        out_text(o, "\"\"");
        return;
    }
    while (i < n && (unsigned char)text[i] < 0x80)
        i++;
    if (i == n) {
        string_of_utf8(o, text, n);
        return;
    }
    size_t clean_n;
    char *clean = utf8_clean(text, n, &clean_n);
    if (clean)
        string_of_utf8(o, clean, clean_n);
    else
        o->failed = true;
    free(clean);
}

void out_real(struct out *o, double v, double instead)
{
    out_format(o, "%.6g", isfinite(v) ? v : instead);
}
