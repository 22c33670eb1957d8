/* SPDX-License-Identifier: Apache-2.0 */
#include "control/model.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control/cmd.h"
#include "control/log.h"

#define LINGERING 4u /* sessions that have ended whose cache is kept while there is room */
#define SMALLEST  2u /* tokens of a session: one there, one to come */

static int exit_code(int rc)
{
    return rc == -ENOMEM || rc == -EIO ? EXIT_FAILED : EXIT_USAGE;
}

int model_open(const char *path, bool want_tokenizer, struct model *m)
{
    *m = (struct model){.path = path};
    struct stat st;
    if (stat(path, &st) < 0) {
        log_error("%s: %s%s", path, strerror(errno),
                  errno == ENOENT
                      ? ": `tools/fetch-model smollm2` fetches a small model and prints "
                        "its path"
                      : "");
        return EXIT_USAGE;
    }
    if (!S_ISREG(st.st_mode)) {
        log_error("%s: not a regular file: a GGUF model file is needed", path);
        return EXIT_USAGE;
    }

    char err[GGUF_ERR] = "";
    int rc = gguf_open(path, &m->gguf, err);
    if (rc < 0)
        goto fail;
    rc = stage_count_layers(m->gguf, err);
    if (rc < 0)
        goto fail;
    m->n_layers = (uint32_t)rc;
    if (want_tokenizer) {
        rc = tok_open(m->gguf, &m->tok, err);
        if (rc < 0)
            goto fail;
    }
    return EXIT_OK;

fail:
    log_error("%s", err[0] ? err : strerror(-rc));
    model_close(m);
    return exit_code(rc);
}

void model_drop_file(struct model *m)
{
    gguf_close(m->gguf);
    m->gguf = NULL;
    malloc_trim(0); /* loading leaves holes: give them back, the edge counts its bytes */
}

void model_close(struct model *m)
{
    tok_close(m->tok);
    gguf_close(m->gguf);
    m->tok = NULL;
    m->gguf = NULL;
}

int model_team(const struct model_options *o, unsigned default_threads, int default_first_core,
               struct team **team)
{
    const unsigned want = o->threads ? o->threads : default_threads;
    unsigned used;
    const int rc = team_open(want, o->first_core == INT32_MIN ? default_first_core : o->first_core,
                             team, &used);
    if (rc < 0) {
        log_error("cannot start %u compute threads: %s", want, strerror(-rc));
        return EXIT_FAILED;
    }
    if (o->threads && used < o->threads)
        log_warn("--threads %u: only %u cores are allowed here, so %u are used", o->threads, used,
                 used);
    return EXIT_OK;
}

int model_cache(const struct model *m, uint32_t sessions, bool linger, uint64_t budget_bytes,
                struct stage_params *p)
{
    char err[GGUF_ERR] = "";
    size_t weights, kv;
    p->max_seqs = sessions + (linger ? LINGERING : 0);
    p->kv_budget_bytes = budget_bytes;
    if (!budget_bytes)
        return EXIT_OK;
    const int rc = stage_footprint(m->gguf, p, SMALLEST, &weights, &kv, err);
    if (rc < 0) {
        log_error("%s", err[0] ? err : strerror(-rc));
        return exit_code(rc);
    }
    if (kv <= budget_bytes)
        return EXIT_OK;
    log_error("--kv-budget of %llu bytes: even a session of %u tokens needs %zu here",
              (unsigned long long)budget_bytes, SMALLEST, kv);
    return EXIT_USAGE;
}

int model_open_stage(const struct model *m, const struct stage_params *p, struct team *team,
                     struct stage **stage)
{
    char err[GGUF_ERR] = "";
    const int rc = stage_open(m->gguf, p, team, stage, err);
    if (rc == 0)
        return EXIT_OK;
    log_error("%s", err[0] ? err : strerror(-rc));
    return exit_code(rc);
}

int32_t *model_encode_prompt(const struct model *m, const char *text, size_t len, uint32_t *n)
{
    const uint32_t bos = tok_add_bos(m->tok) && tok_bos(m->tok) >= 0;
    /* No text has more tokens than bytes. */
    int32_t *ids = malloc((len + bos + 1) * sizeof *ids);
    if (!ids) {
        log_error("out of memory for a prompt of %zu bytes", len);
        return NULL;
    }
    if (bos)
        ids[0] = tok_bos(m->tok);
    const int64_t got = tok_encode(m->tok, text, len, true, ids + bos, len + 1);
    if (got < 0 || (uint64_t)got > len) {
        log_error("cannot tokenize the prompt: %s", strerror(got < 0 ? (int)-got : EOVERFLOW));
        free(ids);
        return NULL;
    }
    *n = (uint32_t)got + bos;
    return ids;
}
