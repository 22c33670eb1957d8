/* SPDX-License-Identifier: Apache-2.0 */
#include "control/eval/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"

void eval_text_set_chunks(struct argp_state *state, struct eval_text_options *o, char *arg)
{
    char *dash = strchr(arg, '-');

    if (dash)
        *dash = '\0';
    o->first_chunk = opt_u32(state, "--chunks", arg, 0, 1u << 20);
    o->last_chunk = dash ? opt_u32(state, "--chunks", dash + 1, 0, 1u << 20) : o->first_chunk;
    if (o->first_chunk > o->last_chunk)
        argp_error(state, "--chunks %u-%u: the first comes after the last", o->first_chunk,
                   o->last_chunk);
    o->chunks = true;
}

/* --- reading --------------------------------------------------------------------------------- */

int eval_tokenize(const struct model *m, const char *text, size_t len, int32_t **ids, uint32_t *n)
{
    const bool bos = tok_add_bos(m->tok) && tok_bos(m->tok) >= 0;

    *n = 0;
    /* No text has more tokens than bytes. */
    *ids = malloc((len + 1) * sizeof **ids);
    if (!*ids)
        return -ENOMEM;
    if (bos)
        (*ids)[0] = tok_bos(m->tok);
    const int64_t got = tok_encode(m->tok, text, len, false, *ids + bos, len);
    if (got < 0)
        return (int)got;
    if ((uint64_t)got > len || got >= INT32_MAX)
        return -EOVERFLOW;
    *n = (uint32_t)got + bos;
    return 0;
}

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room = 0, n = 0;

    *len = 0;
    if (!f)
        goto fail;
    do {
        *len += n;
        if (room - *len < 65536) {
            char *more = realloc(text, room = room * 2 + 65536);
            if (!more)
                goto fail;
            text = more;
        }
        n = fread(text + *len, 1, room - *len, f);
    } while (n);
    if (ferror(f))
        goto fail;
    fclose(f);
    return text;

fail:
    log_error("%s: %s", path, strerror(errno));
    free(text);
    if (f)
        fclose(f);
    return NULL;
}

/* Leave in t what the options ask for. */
static int select_tokens(const struct eval_text_options *o, struct eval_text *t)
{
    const uint32_t windows = t->n / EVAL_WINDOW;

    if (t->n == 0) {
        log_error("%s: no text", o->path);
        return EXIT_USAGE;
    }
    if (o->tokens) {
        if (o->tokens > t->n) {
            log_error("--tokens %u: %s has %u", o->tokens, o->path, t->n);
            return EXIT_USAGE;
        }
        t->n = o->tokens;
        return EXIT_OK;
    }
    if (windows < o->windows_min) {
        log_error("%s: %u tokens are %u windows of %u; at least %u are needed: give a longer text",
                  o->path, t->n, windows, EVAL_WINDOW, o->windows_min);
        return EXIT_USAGE;
    }
    if (windows == 0) {
        log_error(
            "%s: %u tokens are less than a window of %u: give a longer text, or --tokens %u%s",
            o->path, t->n, EVAL_WINDOW, t->n, o->chunks ? " instead of --chunks" : "");
        return EXIT_USAGE;
    }
    if (o->chunks && o->last_chunk >= windows) {
        log_error("--chunks %u-%u: %s has the windows 0-%u", o->first_chunk, o->last_chunk, o->path,
                  windows - 1);
        return EXIT_USAGE;
    }
    t->n = windows * EVAL_WINDOW;
    if (o->chunks) {
        t->n = (o->last_chunk - o->first_chunk + 1) * EVAL_WINDOW;
        memmove(t->ids, t->ids + (size_t)o->first_chunk * EVAL_WINDOW, t->n * sizeof *t->ids);
    }
    return EXIT_OK;
}

int eval_text_read(const struct model *m, const struct eval_text_options *o, struct eval_text *t)
{
    size_t len;
    char *text = read_file(o->path, &len);

    *t = (struct eval_text){0};
    if (!text)
        return EXIT_USAGE;
    const int rc = eval_tokenize(m, text, len, &t->ids, &t->n);
    free(text);
    if (rc < 0) {
        log_error("%s: cannot tokenize it: %s", o->path, strerror(-rc));
        return EXIT_FAILED;
    }
    const int code = select_tokens(o, t);
    if (code == EXIT_OK && tok_add_bos(m->tok) && tok_bos(m->tok) >= 0)
        for (uint32_t at = 0; at < t->n; at += EVAL_WINDOW)
            t->ids[at] = tok_bos(m->tok);
    return code;
}

void eval_text_free(struct eval_text *t)
{
    free(t->ids);
    t->ids = NULL;
}

/* --- running --------------------------------------------------------------------------------- */

struct window {
    const struct eval *eval;
    const int32_t *ids;
    uint32_t n;
    float *ref; /* f32[EVAL_WINDOW][n_vocab] logits */
    struct eval_trial *trial;
};

static void keep_reference(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                           const float *logits)
{
    struct window *w = arg;
    const size_t n_vocab = w->eval->pass.n_vocab;

    memcpy(w->ref + first * n_vocab, logits, count * n_vocab * sizeof *logits);
}

static void compare(void *arg, const struct stage_rows *rows, uint32_t first, uint32_t count,
                    const float *logits)
{
    const struct window *w = arg;
    const size_t n_vocab = w->eval->pass.n_vocab;

    for (uint32_t pos = first; pos < first + count; pos++)
        divergence_add(&w->trial->divergence, w->ref + pos * n_vocab,
                       logits + (pos - first) * n_vocab, pos + 1 < w->n ? w->ids[pos + 1] : -1,
                       pos >= w->n / 2);
}

static int run_window(struct eval *e, struct window *w)
{
    const struct stage_rows rows = {.n = w->n, .n_logits = w->n};
    int rc = eval_reference(e, &rows, 1, 0, w->ids, keep_reference, w);

    for (unsigned i = 0; i < e->n_trials && rc == EXIT_OK; i++) {
        w->trial = &e->trials[i];
        rc = eval_compressed(e, w->trial, &w->trial->text, &rows, 1, 0, compare, w);
    }
    return rc;
}

int eval_text_run(struct eval *e, const struct eval_text *t)
{
    struct window w = {.eval = e};
    int rc = EXIT_OK;

    w.ref = malloc((size_t)EVAL_WINDOW * e->pass.n_vocab * sizeof *w.ref);
    if (!w.ref) {
        log_error("out of memory for logits");
        return EXIT_FAILED;
    }
    for (uint32_t at = 0; at < t->n && rc == EXIT_OK; at += EVAL_WINDOW) {
        w.ids = t->ids + at;
        w.n = t->n - at < EVAL_WINDOW ? t->n - at : EVAL_WINDOW;
        rc = run_window(e, &w);
    }
    free(w.ref);
    return rc;
}
