/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/secure/authorized.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_BYTES_MAX (1u << 20)

struct authorized {
    size_t n;
    struct authorized_peer *peers;
};

struct parser {
    const char *file;
    unsigned line;
    const char *at, *end; /* of the line */
    char *err;
};

__attribute__((format(printf, 2, 3))) static int bad(const struct parser *p, const char *format,
                                                     ...)
{
    char what[256];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(p->err, IDENTITY_ERR, "%.200s:%u: %s", p->file, p->line, what);
    return -EINVAL;
}

/* The next word of the line, its length; 0 at the end or a comment. */
static size_t word(struct parser *p, const char **text)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\r'))
        p->at++;
    if (p->at < p->end && *p->at == '#')
        p->at = p->end;
    *text = p->at;
    while (p->at < p->end && *p->at != ' ' && *p->at != '\t' && *p->at != '\r')
        p->at++;
    return (size_t)(p->at - *text);
}

/* For messages: words of a file may hold anything. */
static const char *show(const char *text, size_t n, char out[48])
{
    size_t i;

    for (i = 0; i < n && i < 40; i++)
        out[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
    strcpy(out + i, n > 40 ? "..." : "");
    return out;
}

static bool name_ok(const char *text, size_t n)
{
    if (n >= AUTHORIZED_NAME)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

static int limit(const struct parser *p, const char *text, size_t n, const char *key, uint32_t *out)
{
    size_t skip = strlen(key);
    uint64_t v = 0;

    for (size_t i = skip; i < n && v <= UINT32_MAX; i++) {
        if (text[i] < '0' || text[i] > '9')
            v = UINT64_MAX / 16;
        else
            v = 10 * v + (uint64_t)(text[i] - '0');
    }
    if (n == skip || !v || v > UINT32_MAX)
        return bad(p, "%.*s: must be a whole number from 1 on", (int)skip - 1, key);
    if (*out)
        return bad(p, "%.*s is given twice", (int)skip - 1, key);
    *out = (uint32_t)v;
    return 0;
}

/* Of `text`, n bytes: 64MB, 1.5GB, 2000000. False: no size. */
static bool read_size(const char *text, size_t n, uint64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1}, {"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
    double v = 0, place = 0, bytes = 0;
    size_t i = 0;

    for (; i < n && ((text[i] >= '0' && text[i] <= '9') || (text[i] == '.' && i && !place)); i++) {
        if (text[i] == '.') {
            place = 1;
            continue;
        }
        v = 10 * v + (text[i] - '0');
        place *= 10;
    }
    if (!i)
        return false;
    for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
        if (strlen(units[k].name) == n - i && !memcmp(units[k].name, text + i, n - i))
            bytes = (place > 0 ? v / place : v) * units[k].bytes;
    }
    if (!(bytes >= 1 && bytes <= 1e18))
        return false;
    *out = (uint64_t)bytes;
    return true;
}

static int size_limit(const struct parser *p, const char *text, size_t n, uint64_t *out)
{
    if (*out)
        return bad(p, "kv is given twice");
    return read_size(text + 3, n - 3, out)
               ? 0
               : bad(p, "kv: must be a size such as 64MB, 1.5GB or 2000000");
}

static bool ends(const char *text, size_t n, const char *with)
{
    return n >= strlen(with) && !memcmp(text + n - strlen(with), with, strlen(with));
}

static int rate_limit(const struct parser *p, const char *text, size_t n,
                      struct authorized_peer *peer)
{
    const char *v = text + 5;
    bool ok = false;

    n -= 5;
    if (peer->rate_bytes || peer->rate_rows)
        return bad(p, "rate is given twice");
    if (ends(v, n, "rows/s")) {
        uint64_t rows = 0;

        for (size_t i = 0; i < n - 6 && rows <= UINT32_MAX; i++)
            rows =
                v[i] >= '0' && v[i] <= '9' ? 10 * rows + (uint64_t)(v[i] - '0') : UINT64_MAX / 16;
        ok = rows && rows <= UINT32_MAX;
        peer->rate_rows = ok ? rows : 0;
    } else if (ends(v, n, "/s")) {
        ok = read_size(v, n - 2, &peer->rate_bytes);
    }
    return ok ? 0 : bad(p, "rate: must be bytes or rows a second, such as 2MB/s or 100rows/s");
}

static bool begins(const char *text, size_t n, const char *with)
{
    return n >= strlen(with) && !memcmp(text, with, strlen(with));
}

static int parse_limits(struct parser *p, struct authorized_peer *peer)
{
    const char *text;
    char shown[48];
    size_t n;
    int rc = 0;

    while (!rc && (n = word(p, &text)) > 0) {
        if (begins(text, n, "sessions="))
            rc = limit(p, text, n, "sessions=", &peer->sessions_max);
        else if (begins(text, n, "tokens="))
            rc = limit(p, text, n, "tokens=", &peer->tokens_max);
        else if (begins(text, n, "kv="))
            rc = size_limit(p, text, n, &peer->kv_max_bytes);
        else if (begins(text, n, "rate="))
            rc = rate_limit(p, text, n, peer);
        else
            rc = bad(p,
                     "%s is no limit that there is: sessions=N, tokens=N, kv=SIZE, rate=SIZE/s, "
                     "rate=Nrows/s",
                     show(text, n, shown));
    }
    return rc;
}

/* 1: a peer, 0: none on this line. */
static int parse_line(struct parser *p, const struct authorized *a, struct authorized_peer *peer)
{
    const char *text;
    char shown[48];
    size_t n = word(p, &text);
    int rc;

    if (!n)
        return 0;
    *peer = (struct authorized_peer){0};
    if (!name_ok(text, n))
        return bad(p, "%s is no name: 1 to 63 of letters, digits, '.', '_', '-'",
                   show(text, n, shown));
    memcpy(peer->name, text, n);
    n = word(p, &text);
    if (!n)
        return bad(p, "%s has no fingerprint: NAME sha256:HEX, as `isthmus keygen` prints it",
                   peer->name);
    if (fingerprint_parse(text, n, &peer->fingerprint))
        return bad(p, "%s is no fingerprint: sha256: and 64 hex digits", show(text, n, shown));
    rc = parse_limits(p, peer);
    if (rc)
        return rc;
    for (size_t i = 0; i < a->n; i++) {
        if (!strcmp(a->peers[i].name, peer->name))
            return bad(p, "the name %s is there twice", peer->name);
        if (fingerprint_equal(&a->peers[i].fingerprint, &peer->fingerprint))
            return bad(p, "%s has the fingerprint of %s", peer->name, a->peers[i].name);
    }
    return 1;
}

static int add(struct authorized *a, const struct authorized_peer *peer)
{
    struct authorized_peer *more = realloc(a->peers, (a->n + 1) * sizeof *more);

    if (!more)
        return -ENOMEM;
    a->peers = more;
    a->peers[a->n++] = *peer;
    return 0;
}

int authorized_parse(const char *text, size_t len, const char *file, struct authorized **out,
                     char *err)
{
    struct parser p = {.file = file, .err = err};
    struct authorized *a = calloc(1, sizeof *a);
    struct authorized_peer peer;
    const char *end = text + len;
    int rc = a ? 0 : -ENOMEM;

    while (!rc && text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));

        p.line++;
        p.at = text;
        p.end = newline ? newline : end;
        text = newline ? newline + 1 : end;
        rc = parse_line(&p, a, &peer);
        if (rc > 0)
            rc = a->n < AUTHORIZED_PEERS ? add(a, &peer)
                                         : bad(&p, "more than %u peers", AUTHORIZED_PEERS);
    }
    if (!rc && !a->n) {
        snprintf(err, IDENTITY_ERR, "%.200s: admits nobody: give it a line NAME FINGERPRINT", file);
        rc = -EINVAL;
    }
    if (rc == -ENOMEM)
        snprintf(err, IDENTITY_ERR, "%.200s: out of memory", file);
    if (rc) {
        authorized_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

int authorized_read(const char *path, struct authorized **out, char *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    char *text = NULL;
    struct stat st;
    ssize_t n = 0;
    int rc;

    if (fd < 0 || fstat(fd, &st)) {
        rc = -errno;
        snprintf(err, IDENTITY_ERR, "%.200s: %s", path, strerror(-rc));
        goto out;
    }
    rc = -EINVAL;
    if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX) {
        snprintf(err, IDENTITY_ERR, "%.200s: not a regular file of at most 1 MiB", path);
        goto out;
    }
    if (st.st_mode & S_IWOTH) {
        snprintf(err, IDENTITY_ERR, "%.200s: anybody may write it: chmod o-w", path);
        goto out;
    }
    text = malloc((size_t)st.st_size + 1);
    n = text ? read(fd, text, (size_t)st.st_size) : -1;
    if (n < 0) {
        rc = text ? -errno : -ENOMEM;
        snprintf(err, IDENTITY_ERR, "%.200s: %s", path, strerror(-rc));
        goto out;
    }
    rc = authorized_parse(text, (size_t)n, path, out, err);
out:
    free(text);
    if (fd >= 0)
        close(fd);
    return rc;
}

int authorized_one(const struct fingerprint *f, struct authorized **out)
{
    struct authorized_peer peer = {.name = "peer", .fingerprint = *f};
    struct authorized *a = calloc(1, sizeof *a);

    if (!a || add(a, &peer)) {
        authorized_close(a);
        return -ENOMEM;
    }
    *out = a;
    return 0;
}

void authorized_close(struct authorized *a)
{
    if (!a)
        return;
    free(a->peers);
    free(a);
}

size_t authorized_count(const struct authorized *a)
{
    return a->n;
}

const struct authorized_peer *authorized_find(const struct authorized *a,
                                              const struct fingerprint *f)
{
    for (size_t i = 0; i < a->n; i++) {
        if (fingerprint_equal(&a->peers[i].fingerprint, f))
            return &a->peers[i];
    }
    return NULL;
}
