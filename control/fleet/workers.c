/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/workers.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/port.h"
#include "dataplane/port/uri.h"

#define LINE_MAX_BYTES 4096u

struct line {
    const char *where;
    const char *at, *end;
    char *err;
};

struct word {
    const char *text;
    size_t n;
};

__attribute__((format(printf, 2, 3))) static int bad(const struct line *l, const char *format, ...)
{
    char what[WORKERS_ERR - 210];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(l->err, WORKERS_ERR, "%.200s: %s", l->where, what);
    return -EINVAL;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next one; empty at the end or a comment. */
static struct word next_word(struct line *l)
{
    while (l->at < l->end && is_blank(*l->at))
        l->at++;
    if (l->at < l->end && *l->at == '#')
        l->at = l->end;
    struct word w = {.text = l->at};
    while (l->at < l->end && !is_blank(*l->at))
        l->at++;
    w.n = (size_t)(l->at - w.text);
    return w;
}

/* For messages: words may hold anything. */
static const char *show(struct word w, char out[48])
{
    size_t i;
    for (i = 0; i < w.n && i < 40; i++)
        out[i] = isprint((unsigned char)w.text[i]) ? w.text[i] : '?';
    strcpy(out + i, w.n > 40 ? "..." : "");
    return out;
}

bool worker_name_ok(const char *text, size_t n)
{
    if (n == 0 || n >= WORKER_NAME)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isascii(text[i]) || !(isalnum((unsigned char)text[i]) || strchr("._-:", text[i])) ||
            !text[i])
            return false;
    return true;
}

/* What follows KEY= in the word. */
static bool value_of(struct word w, const char *key, struct word *value)
{
    const size_t n = strlen(key);
    if (w.n < n || memcmp(w.text, key, n) != 0)
        return false;
    *value = (struct word){w.text + n, w.n - n};
    return true;
}

static int read_model(const struct line *l, struct word v, struct worker *out)
{
    if (v.n == 0 || v.n >= sizeof out->model)
        return bad(l, "model=: 1 to %zu hex digits", sizeof out->model - 1);
    for (size_t i = 0; i < v.n; i++) {
        if (!isxdigit((unsigned char)v.text[i]))
            return bad(l, "model=: 1 to %zu hex digits", sizeof out->model - 1);
        out->model[i] = (char)tolower((unsigned char)v.text[i]);
    }
    out->model[v.n] = '\0';
    return 0;
}

/* A number of base 10 or 16, at least 1, at most max. */
static int read_number(const struct line *l, const char *key, struct word v, int base, uint32_t max,
                       uint32_t *out)
{
    char text[16], *end = text;
    unsigned long n = 0;
    if (v.n > 0 && v.n < sizeof text && isxdigit((unsigned char)v.text[0])) {
        memcpy(text, v.text, v.n);
        text[v.n] = '\0';
        n = strtoul(text, &end, base);
    }
    if (end == text || *end || n == 0 || n > max)
        return bad(l, "%s a number from 1 to %u, in base %d", key, max, base);
    *out = (uint32_t)n;
    return 0;
}

static int read_word(const struct line *l, struct word w, struct worker *out)
{
    char shown[48];
    struct word v;
    if (w.n == 5 && memcmp(w.text, "drain", 5) == 0) {
        out->draining = true;
        return 0;
    }
    if (value_of(w, "model=", &v))
        return read_model(l, v, out);
    if (value_of(w, "split=", &v))
        return read_number(l, "split=", v, 10, 65535, &out->split);
    if (value_of(w, "codec=", &v))
        return read_number(l, "codec=", v, 16, UINT32_MAX, &out->codec_id);
    if (value_of(w, "numerics=", &v))
        return read_number(l, "numerics=", v, 16, UINT32_MAX, &out->numerics_id);
    if (out->has_peer || fingerprint_parse(w.text, w.n, &out->peer) < 0)
        return bad(l,
                   "%s is nothing that a worker has: a fingerprint (sha256: and 64 hex digits), "
                   "model=HEX, split=N, codec=HEX, numerics=HEX, drain",
                   show(w, shown));
    out->has_peer = true;
    return 0;
}

int worker_parse(const char *text, size_t len, const char *where, struct worker *out, char *err)
{
    struct line l = {.where = where, .at = text, .end = text + len, .err = err};
    char shown[48], uri_err[PORT_ERR];
    struct port_uri uri;
    *out = (struct worker){.split = 0};
    if (len > LINE_MAX_BYTES)
        return bad(&l, "longer than %u bytes", LINE_MAX_BYTES);
    const struct word name = next_word(&l);
    if (name.n == 0)
        return 0;
    if (!worker_name_ok(name.text, name.n))
        return bad(&l, "%s is no name: 1 to %u of letters, digits, '.', '_', '-', ':'",
                   show(name, shown), WORKER_NAME - 1);
    memcpy(out->name, name.text, name.n);
    const struct word port = next_word(&l);
    if (port.n == 0)
        return bad(&l, "%s has no port: NAME udp:HOST:PORT", out->name);
    if (port.n >= WORKER_PORT || memchr(port.text, '\0', port.n))
        return bad(&l, "%s is no port: longer than %u bytes, or none of text", show(port, shown),
                   WORKER_PORT - 1);
    memcpy(out->port, port.text, port.n);
    if (port_uri_parse(out->port, &uri, uri_err) < 0) {
        for (char *c = uri_err; *c; c++)
            *c = isprint((unsigned char)*c) ? *c : '?';
        return bad(&l, "%.250s", uri_err);
    }
    if (uri.kind == URI_UDP && !uri.name[0])
        return bad(&l, "%s: %s is where a cloud listens; say at which address it is found",
                   out->name, show(port, shown));
    for (struct word w = next_word(&l); w.n > 0; w = next_word(&l)) {
        const int rc = read_word(&l, w, out);
        if (rc < 0)
            return rc;
    }
    return 1;
}

const char *worker_format(const struct worker *w, char text[WORKER_LINE])
{
    char print[FINGERPRINT_TEXT];
    int n = snprintf(text, WORKER_LINE, "%s %s", w->name, w->port);
    if (w->has_peer)
        n +=
            snprintf(text + n, WORKER_LINE - (size_t)n, " %s", fingerprint_format(&w->peer, print));
    if (w->model[0])
        n += snprintf(text + n, WORKER_LINE - (size_t)n, " model=%s", w->model);
    if (w->split)
        n += snprintf(text + n, WORKER_LINE - (size_t)n, " split=%u", w->split);
    if (w->codec_id)
        n += snprintf(text + n, WORKER_LINE - (size_t)n, " codec=%x", w->codec_id);
    if (w->numerics_id)
        n += snprintf(text + n, WORKER_LINE - (size_t)n, " numerics=%x", w->numerics_id);
    if (w->draining)
        snprintf(text + n, WORKER_LINE - (size_t)n, " drain");
    return text;
}

bool worker_same(const struct worker *a, const struct worker *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->port, b->port) == 0 &&
           a->has_peer == b->has_peer && (!a->has_peer || fingerprint_equal(&a->peer, &b->peer)) &&
           strcmp(a->model, b->model) == 0 && a->split == b->split && a->codec_id == b->codec_id &&
           a->numerics_id == b->numerics_id;
}

/* --- lists
 * ----------------------------------------------------------------------------------------
 */

struct worker *workers_add(struct workers *w)
{
    if (w->n == WORKERS_MAX)
        return NULL;
    if ((w->n & (w->n - 1)) == 0) { /* room for a power of two */
        struct worker *list = reallocarray(w->list, w->n ? 2 * w->n : 1, sizeof *list);
        if (!list)
            return NULL;
        w->list = list;
    }
    w->list[w->n] = (struct worker){.split = 0};
    return &w->list[w->n++];
}

void workers_free(struct workers *w)
{
    free(w->list);
    *w = (struct workers){.n = 0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct worker *)a)->name, ((const struct worker *)b)->name);
}

void workers_sort(struct workers *w)
{
    if (w->n)
        qsort(w->list, w->n, sizeof *w->list, by_name);
}

const struct worker *workers_find(const struct workers *w, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        if (strcmp(w->list[i].name, name) == 0)
            return &w->list[i];
    return NULL;
}

int workers_parse(const char *text, size_t len, const char *file, struct workers *out, char *err)
{
    *out = (struct workers){.n = 0};
    const char *at = text, *end = text + len;
    int rc = 0;
    for (unsigned number = 1; rc == 0 && at < end; number++) {
        char where[224];
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end)
            line_end = end;
        struct line l = {.where = where, .err = err};
        struct worker one;
        snprintf(where, sizeof where, "%.180s:%u", file, number);
        rc = worker_parse(at, (size_t)(line_end - at), where, &one, err);
        if (rc == 1 && workers_find(out, one.name))
            rc = bad(&l, "the name %s is there twice", one.name);
        if (rc == 1) {
            struct worker *w = workers_add(out);
            rc = w                       ? 0
                 : out->n == WORKERS_MAX ? bad(&l, "more than %u workers", WORKERS_MAX)
                                         : -ENOMEM;
            if (w)
                *w = one;
        }
        at = line_end + (line_end < end);
    }
    workers_sort(out);
    if (rc == -ENOMEM)
        snprintf(err, WORKERS_ERR, "%.200s: out of memory", file);
    if (rc < 0)
        workers_free(out);
    return rc;
}
