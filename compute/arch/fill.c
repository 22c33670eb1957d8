/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/fill.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BUFFERS_BYTES   ((size_t)4 << 20) /* of all members */
#define PIECE_MAX_BYTES ((size_t)256 << 10)
#define PIECE_MIN_BYTES ((size_t)32 << 10)
#define DEPTH           4u /* pieces of a member on their way */

struct member {
    int rc;
    size_t job; /* that failed */
    enum gguf_reading how;
    char err[GGUF_ERR];
};

struct fill {
    const struct gguf *g;
    const struct fill_job *jobs;
    size_t n_jobs;
    size_t piece_bytes;  /* wanted; 16 rows are read together in any case */
    size_t buffer_bytes; /* of one piece, at most */
    enum gguf_reading how;
    const struct loading *loading;
    uint64_t total_bytes;
    _Atomic uint64_t done_bytes;
    atomic_bool failed; /* somewhere: no need to go on */
    struct member *members;
};

/* --- who reads what -------------------------------------------------------------------------- */

/* Rows [row, row + n) of a job; a vector is one row. */
struct piece {
    size_t job;
    uint32_t row, n;
    uint64_t from;
    size_t bytes;
};

/* Where a member is in its share of all jobs, which it goes through in the file's order. */
struct cursor {
    size_t job;
    uint32_t rows; /* of this job, behind us */
};

/* A sparse part has no rows of a matrix: each entry counts as one. */
static bool is_sparse(const struct fill_job *j)
{
    return j->mat && mat_in_scheme(j->mat) && j->part >= SCHEME_SP_ROWS;
}

static size_t row_values(const struct fill_job *j)
{
    return is_sparse(j) ? 1 : (size_t)j->t->ne[0];
}

static size_t row_bytes(const struct fill_job *j)
{
    const struct qtype_info *q = qtype_info(j->t->type);

    return row_values(j) / q->block_values * q->block_bytes;
}

static void share(const struct fill_job *j, unsigned part, unsigned parts, uint32_t *first,
                  uint32_t *end)
{
    if (is_sparse(j)) {
        *first = 0;
        *end = part == 0 ? (uint32_t)j->t->ne[0] : 0;
    } else if (j->mat) {
        mat_share(j->mat, part, parts, first, end);
    } else {
        *first = 0;
        *end = part == 0;
    }
}

/* The next piece of the share and the cursor behind it; false: there is none. */
static bool next_piece(const struct fill *f, unsigned part, unsigned parts, struct cursor *c,
                       struct piece *p)
{
    for (; c->job < f->n_jobs; *c = (struct cursor){.job = c->job + 1}) {
        const struct fill_job *j = &f->jobs[c->job];
        size_t bytes = row_bytes(j);
        uint32_t first, end;

        share(j, part, parts, &first, &end);
        first += c->rows;
        if (first >= end)
            continue;
        size_t n = f->piece_bytes / bytes / PANEL_ROWS * PANEL_ROWS;
        if (n == 0)
            n = PANEL_ROWS;
        if (!j->mat || n > end - first)
            n = end - first;
        *p = (struct piece){c->job, first, (uint32_t)n, first * (uint64_t)bytes, n * bytes};
        c->rows += (uint32_t)n;
        return true;
    }
    return false;
}

/* --- one member ------------------------------------------------------------------------------ */

static int take(const struct fill *f, const struct piece *p, const void *src, char *err)
{
    const struct fill_job *j = &f->jobs[p->job];
    const struct gguf_tensor *t = j->t;

    if (!qtype_finite(t->type, src, p->n * row_values(j)))
        return j->mat ? gguf_fail(gguf_path(f->g), err, -EBADMSG,
                                  "tensor %s: an infinite or NaN weight in rows %u to %u", t->name,
                                  p->row, p->row + p->n - 1)
                      : gguf_fail(gguf_path(f->g), err, -EBADMSG,
                                  "tensor %s: an infinite or NaN value", t->name);
    if (j->mat && mat_in_scheme(j->mat))
        mat_pack_part(j->mat, j->part, p->row, src, p->n);
    else if (j->mat)
        mat_pack(j->mat, p->row, src, p->n);
    else
        qtype_dequantize(t->type, src, j->vector, (size_t)t->ne[0]);
    return 0;
}

static int fill_share(struct fill *f, unsigned part, unsigned parts, struct gguf_reader *r,
                      struct member *m)
{
    struct cursor asked = {0}, taken = {0};
    struct piece p;

    while (!atomic_load_explicit(&f->failed, memory_order_relaxed)) {
        for (struct cursor c = asked; next_piece(f, part, parts, &c, &p); asked = c)
            if (!gguf_reader_ask(r, f->jobs[p.job].t, p.from, p.bytes))
                break;
        if (!next_piece(f, part, parts, &taken, &p))
            return 0;
        m->job = p.job;

        const void *src;
        int rc = gguf_reader_next(r, &src, m->err);
        if (rc == 0)
            rc = take(f, &p, src, m->err);
        if (rc)
            return rc;
        gguf_reader_done(r);
        uint64_t done = atomic_fetch_add(&f->done_bytes, p.bytes) + p.bytes;
        if (part == 0 && f->loading->progress)
            f->loading->progress(f->loading->arg, done, f->total_bytes);
    }
    return 0;
}

static void fill_part(void *arg, unsigned part, unsigned parts)
{
    struct fill *f = arg;
    struct member *m = &f->members[part];
    struct gguf_reader *r;

    m->how = f->how;
    m->rc = gguf_reader_open(f->g, &m->how, DEPTH, f->buffer_bytes, &r);
    if (m->rc == 0)
        m->rc = fill_share(f, part, parts, r, m);
    else
        gguf_fail(gguf_path(f->g), m->err, m->rc, "no memory to read the tensors");
    if (m->rc)
        atomic_store(&f->failed, true);
    gguf_reader_close(r);
}

/* --- all of them ----------------------------------------------------------------------------- */

static size_t piece_bytes(unsigned parts)
{
    size_t bytes = BUFFERS_BYTES / DEPTH / parts;

    return bytes > PIECE_MAX_BYTES   ? PIECE_MAX_BYTES
           : bytes < PIECE_MIN_BYTES ? PIECE_MIN_BYTES
                                     : bytes;
}

/* Room for the largest piece. Of what is not used nothing is resident. */
static size_t buffer_bytes(const struct fill *f)
{
    size_t bytes = f->piece_bytes;

    for (size_t i = 0; i < f->n_jobs; i++) {
        size_t least = row_bytes(&f->jobs[i]) * (f->jobs[i].mat ? PANEL_ROWS : 1);

        if (bytes < least)
            bytes = least;
    }
    return bytes;
}

/* Of several failures the first in the file. */
static int verdict(const struct fill *f, unsigned parts, char *err)
{
    const struct member *first = NULL;

    for (unsigned i = 0; i < parts; i++)
        if (f->members[i].rc && (!first || f->members[i].job < first->job))
            first = &f->members[i];
    if (!first)
        return 0;
    memcpy(err, first->err, GGUF_ERR);
    return first->rc;
}

int weights_fill(const struct gguf *g, const struct fill_job *jobs, size_t n_jobs,
                 enum gguf_reading how, struct team *team, const struct loading *loading, char *err)
{
    unsigned parts = team_size(team);
    struct fill f = {
        .g = g,
        .jobs = jobs,
        .n_jobs = n_jobs,
        .piece_bytes = piece_bytes(parts),
        .how = how,
        .loading = loading,
        .members = calloc(parts, sizeof(*f.members)),
    };

    if (!f.members)
        return gguf_fail(gguf_path(g), err, -ENOMEM, "no memory to read the tensors");
    for (size_t i = 0; i < n_jobs; i++)
        f.total_bytes += jobs[i].t->bytes;
    f.buffer_bytes = buffer_bytes(&f);
    team_run(team, fill_part, &f);
    int rc = verdict(&f, parts, err);
    if (how != GGUF_READ_PLAIN && f.members[0].how == GGUF_READ_PLAIN && loading->note)
        loading->note(loading->arg, "io_uring is not to be had here: the model is read by pread");
    free(f.members);
    return rc;
}
