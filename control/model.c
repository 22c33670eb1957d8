/* SPDX-License-Identifier: Apache-2.0 */
#include "control/model.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compute/kernels/kernels.h"
#include "control/account.h"
#include "control/child.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/memory.h"
#include "control/meminfo.h"
#include "control/profile.h"
#include "control/progress.h"

static bool lock_wanted; /* --mlock of the options that opened the team */

#define LINGERING 4u /* sessions that have ended whose cache is kept while there is room */
#define SMALLEST  2u /* tokens of a session: one there, one to come */

static int exit_code(int rc)
{
    return rc == -ENOMEM || rc == -EIO ? EXIT_FAILED : EXIT_USAGE;
}

/* --- opening ------------------------------------------------------------------------------------
 */

#define EDGE_FILE  "edge.gguf"
#define CLOUD_FILE "cloud.gguf"

/* The halves' directory -> the half that is wanted of it. */
static int name_half(enum model_kind kind, struct model *m)
{
    if (kind == MODEL_WHOLE) {
        log_error("%s: a directory: a GGUF model file is needed, of a whole model", m->path);
        return EXIT_USAGE;
    }
    const char *name = kind == MODEL_CLOUD ? CLOUD_FILE : EDGE_FILE;
    if (asprintf(&m->named, "%s/%s", m->path, name) < 0) {
        m->named = NULL;
        log_error("out of memory");
        return EXIT_FAILED;
    }
    m->path = m->named;
    return EXIT_OK;
}

/* Whether the file has the name of a half, as `isthmus quantize` gives it. */
static bool is_half_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strcmp(name, EDGE_FILE) == 0 || strcmp(name, CLOUD_FILE) == 0;
}

static const char *missing_mend(const struct model *m)
{
    if (is_half_name(m->path))
        return ": `isthmus quantize -m MODEL --split N --front SCHEME -o DIR` writes the halves (a "
               "plan's edge.ini and cloud.ini name the whole command)";
    const char *dot = strrchr(m->path, '.');
    if (dot && strcmp(dot, ".gguf") == 0)
        return ": `tools/fetch-model smollm2` fetches a small model and prints its path";
    return ": `tools/fetch-model smollm2` fetches a small model and prints its path; a directory "
           "of "
           "halves is written by `isthmus quantize`";
}

static int check_path(enum model_kind kind, struct model *m)
{
    struct stat st;
    int rc = EXIT_OK;
    if (stat(m->path, &st) == 0 && S_ISDIR(st.st_mode))
        rc = name_half(kind, m);
    if (rc != EXIT_OK)
        return rc;
    if (stat(m->path, &st) < 0) {
        log_error("%s: %s%s", m->path, strerror(errno), errno == ENOENT ? missing_mend(m) : "");
        return EXIT_USAGE;
    }
    if (!S_ISREG(st.st_mode)) {
        log_error("%s: not a regular file: a GGUF model file is needed", m->path);
        return EXIT_USAGE;
    }
    return EXIT_OK;
}

/* Whether the file is what its command can do with. */
static int check_kind(enum model_kind kind, const struct model *m)
{
    const enum stage_half half = m->half.half;
    if (half == STAGE_WHOLE && !m->named)
        return EXIT_OK;
    if (half == STAGE_WHOLE) {
        log_error("%s: a whole model, not the half that its name says", m->path);
        return EXIT_USAGE;
    }
    const unsigned first = half == STAGE_EDGE ? 0 : m->half.split,
                   last = (half == STAGE_EDGE ? m->half.split : m->half.n_layers) - 1;
    const char *needs = NULL;
    if (kind == MODEL_WHOLE)
        needs = "this command needs the whole model";
    else if (kind == MODEL_PAIR && (half != STAGE_EDGE || !m->named))
        needs = "both halves are needed here: name their directory";
    else if (kind == MODEL_EDGE && half != STAGE_EDGE)
        needs = "an edge needs the other half, " EDGE_FILE;
    else if (kind == MODEL_CLOUD && half != STAGE_CLOUD)
        needs = "a cloud needs the other half, " CLOUD_FILE;
    if (!needs)
        return EXIT_OK;
    log_error("%s: this is the %s half of a model, layers %u to %u of %u: %s", m->path,
              stage_half_name(half), first, last, m->half.n_layers, needs);
    return EXIT_USAGE;
}

static int refuse_pair(const struct model *edge, const struct model *cloud)
{
    char a[33], b[33], of_a[33], of_b[33];
    log_error("%s and %s are not halves of one pair: %s (a half of %s) and %s (a half of %s): "
              "quantize again, and copy both",
              edge->path, cloud->path, profile_hex(edge->half.pair, a),
              profile_hex(edge->half.parent, of_a), profile_hex(cloud->half.pair, b),
              profile_hex(cloud->half.parent, of_b));
    return EXIT_USAGE;
}

/* The cloud half beside the edge's, for a command that runs both. */
static int open_back(const char *directory, struct model *m)
{
    struct model back;
    int rc = model_open_as(MODEL_CLOUD, directory, false, &back);
    if (rc != EXIT_OK)
        return rc;
    if (memcmp(back.half.pair, m->half.pair, sizeof back.half.pair))
        rc = refuse_pair(m, &back);
    else
        m->back = back.gguf;
    if (rc == EXIT_OK)
        back.gguf = NULL; /* taken */
    model_close(&back);
    return rc;
}

/* Of a half, whose file has only some of the layers. */
static int check_layers(const struct model *m)
{
    struct gguf_str arch = {.ptr = "", .len = 0};
    if (m->half.half == STAGE_WHOLE || m->half.n_layers == m->n_layers)
        return EXIT_OK;
    (void)gguf_str(m->gguf, "general.architecture", &arch); /* it has named the key that was read */
    log_error("%s: isthmus.layers is %u and %.*s.block_count %u: this half of a model is damaged",
              m->path, m->half.n_layers, (int)arch.len, arch.ptr, m->n_layers);
    return EXIT_USAGE;
}

int model_open_as(enum model_kind kind, const char *path, bool want_tokenizer, struct model *m)
{
    char err[GGUF_ERR] = "";
    *m = (struct model){.path = path};
    int rc = check_path(kind, m);
    if (rc != EXIT_OK)
        goto out;
    rc = gguf_open(m->path, &m->gguf, err);
    if (rc == -EBADMSG && is_half_name(m->path)) {
        log_error("%s: cut short or damaged: copy it again, or quantize again", err);
        rc = EXIT_USAGE;
        goto out;
    }
    if (rc < 0)
        goto fail;
    rc = stage_file_read(m->gguf, &m->half, err);
    if (rc < 0)
        goto fail;
    rc = check_kind(kind, m);
    if (rc != EXIT_OK)
        goto out;
    rc = stage_count_layers(m->gguf, err);
    if (rc < 0)
        goto fail;
    m->n_layers = (uint32_t)rc;
    rc = check_layers(m);
    if (rc != EXIT_OK)
        goto out;
    if (want_tokenizer) {
        rc = tok_open(m->gguf, &m->tok, err);
        if (rc < 0)
            goto fail;
    }
    rc = kind == MODEL_PAIR && m->named ? open_back(path, m) : EXIT_OK;
    goto out;

fail:
    log_error("%s", err[0] ? err : strerror(-rc));
    rc = exit_code(rc);
out:
    if (rc != EXIT_OK)
        model_close(m);
    return rc;
}

int model_open(const char *path, bool want_tokenizer, struct model *m)
{
    return model_open_as(MODEL_WHOLE, path, want_tokenizer, m);
}

void model_drop_file(struct model *m)
{
    malloc_trim(0); /* loading leaves holes: give them back, the edge counts its bytes */
    const uint64_t before = process_memory("RssAnon");
    gguf_close(m->gguf);
    gguf_close(m->back);
    m->gguf = m->back = NULL;
    malloc_trim(0);
    const uint64_t now = process_memory("RssAnon");
    account_less(before > now ? before - now : 0);
}

void model_close(struct model *m)
{
    tok_close(m->tok);
    gguf_close(m->gguf);
    gguf_close(m->back);
    const char *path = m->named ? NULL : m->path;
    free(m->named);
    *m = (struct model){.path = path};
}

struct team_params model_team_params(const struct model_options *o)
{
    return (struct team_params){
        .n_threads = o->threads,
        .first_core = o->first_core == INT32_MIN ? 0 : o->first_core,
        .cpus = o->cpus,
        .numa_node = o->numa_node,
        .near_numa_node = -1,
    };
}

static int refuse_team(const struct model_options *o, int rc, const char *err)
{
    if (rc != -EINVAL) {
        log_error("cannot start the compute threads: %s", err);
        return EXIT_FAILED;
    }
    char node[24] = "";
    if (o->numa_node >= 0)
        snprintf(node, sizeof node, "%s--numa %d", o->cpus ? " " : "", o->numa_node);
    log_error("%s%s%s: %s", o->cpus ? "--cpus " : "", o->cpus ? o->cpus : "", node, err);
    return EXIT_USAGE;
}

/* Memory beside the cores: where it is not to be had there it is taken elsewhere. */
static void place_memory(const struct team *team)
{
    const int rc = kernels_mem_place(team_nodes(team));
    if (rc < 0)
        log_warn("memory cannot be bound to the NUMA node of CPUs %s: %s", team_cpus(team),
                 strerror(-rc));
}

int model_team_near(const struct model_options *o, unsigned default_threads, int default_first_core,
                    int near_numa_node, struct team **team)
{
    struct team_params p = model_team_params(o);
    char err[TEAM_ERR];
    if (!o->threads && !o->cpus)
        p.n_threads = default_threads;
    if (o->first_core == INT32_MIN)
        p.first_core = o->cpus ? 0 : default_first_core; /* who names CPUs means all of them */
    p.near_numa_node = near_numa_node;
    const int rc = team_open_placed(&p, team, err);
    if (rc < 0)
        return refuse_team(o, rc, err);
    const unsigned used = team_size(*team);
    if (o->threads && used < o->threads)
        log_warn("--threads %u: only %u %s here, so %u are used", o->threads, used,
                 o->cpus ? "CPUs are given" : "cores are allowed", used);
    place_memory(*team);
    lock_wanted = o->mlock;
    return EXIT_OK;
}

int model_team(const struct model_options *o, unsigned default_threads, int default_first_core,
               struct team **team)
{
    return model_team_near(o, default_threads, default_first_core, -1, team);
}

int model_check_team(const struct model_options *o, unsigned default_threads, uint32_t *threads)
{
    struct team_params p = model_team_params(o);
    struct team_plan plan;
    char err[TEAM_ERR];
    if (!o->threads && !o->cpus)
        p.n_threads = default_threads;
    const int rc = team_plan(&p, &plan, err);
    *threads = plan.threads;
    return rc < 0 ? refuse_team(o, rc, err) : EXIT_OK;
}

int model_place_halves(const struct model_options *o, struct model_halves *h)
{
    struct team_params p = model_team_params(o);
    struct team_plan plan;
    char err[TEAM_ERR];
    p.n_threads = 0;
    const int rc = team_plan(&p, &plan, err);
    if (rc < 0)
        return refuse_team(o, rc, err);
    const unsigned all = plan.available;
    h->threads = o->threads ? o->threads : all / 2 ? all / 2 : 1;
    h->edge_core = o->first_core != INT32_MIN ? o->first_core : 0;
    h->cloud_core = h->edge_core + (int)h->threads;
    if (h->edge_core < 0)
        h->cloud_core = -1;
    else if ((unsigned)h->cloud_core + h->threads > all)
        h->cloud_core = h->edge_core; /* not enough for both: they take turns */
    return EXIT_OK;
}

/* --mlock. A failure is said once, with the mend. */
static void lock_weights(void)
{
    static bool said;
    size_t bytes;
    const int rc = lock_wanted ? kernels_mem_lock(&bytes) : 0;
    if (rc < 0 && !said) {
        log_warn("--mlock: %.0f MB of weights are not all locked in memory: %s: raise the limit "
                 "(ulimit -l %zu, LimitMEMLOCK=) or give CAP_IPC_LOCK",
                 (double)bytes / 1e6, strerror(-rc), (bytes >> 10) + 1);
        said = true;
    }
}

/* Once a process, and not by the cloud half of `isthmus run`: its parent says it. */
static void say_huge_pages(void)
{
    static bool said;
    char mode[THP_MODE_BYTES];
    if (!said && !child_is() && !huge_pages(mode))
        log_info("weights are read slower without huge pages (%s): see isthmus doctor", mode);
    said = true;
}

static void show_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress *p = arg;
    if (p->total == 0)
        progress_start_bytes(p, "loading", total_bytes);
    progress_add(p, done_bytes - p->done);
}

static void say_note(void *arg, const char *line)
{
    static bool said;
    if (!said)
        log_info("%s", line);
    said = true;
}

/* The file that these layers are in. */
static const struct gguf *file_of(const struct model *m, const struct stage_params *p)
{
    return m->back && p->first_layer > 0 ? m->back : m->gguf;
}

int model_cache(const struct model *m, uint32_t sessions, bool linger, uint64_t budget_bytes,
                struct stage_params *p)
{
    char err[GGUF_ERR] = "";
    size_t weights, kv;
    p->max_seqs = sessions + (linger ? LINGERING : 0);
    p->kv_budget_bytes = budget_bytes;
    const int rc = stage_footprint(file_of(m, p), p, SMALLEST, &weights, &kv, err);
    if (rc < 0) {
        log_error("%s", err[0] ? err : strerror(-rc));
        return exit_code(rc);
    }
    if (!budget_bytes || kv <= budget_bytes)
        return EXIT_OK;
    log_error("--kv-budget of %llu bytes: even a session of %u tokens needs %zu here",
              (unsigned long long)budget_bytes, SMALLEST, kv);
    return EXIT_USAGE;
}

static int refuse_memory(int rc, const char *line)
{
    if (rc != -ENOMEM)
        return EXIT_OK; /* what else is wrong the stage will say */
    log_error("%s", line);
    return EXIT_USAGE;
}

int model_check_halves(const struct model *m, const struct stage_params *edge,
                       const struct need_process *edge_with, const struct stage_params *cloud,
                       const struct need_process *cloud_with)
{
    const struct need_half front = {m->gguf, edge, edge_with},
                           back = {file_of(m, cloud), cloud, cloud_with};
    char line[NEED_LINE];

    return refuse_memory(need_check_pair(&front, &back, line), line);
}

int model_open_stage(const struct model *m, const struct stage_params *params,
                     const struct need_process *with, struct team *team, struct stage **stage)
{
    struct progress progress = {0};
    struct stage_params p = *params;
    char err[GGUF_ERR] = "", line[NEED_LINE];
    uint64_t for_us;
    p.loading = (struct loading){.memory_bytes = memory_there(),
                                 .progress = show_progress,
                                 .note = say_note,
                                 .arg = &progress};
    int rc = refuse_memory(need_check(file_of(m, &p), &p, with, &for_us, line), line);
    if (rc != EXIT_OK)
        return rc;
    if (!p.kv_budget_bytes && for_us)
        p.kv_budget_bytes = need_cache(file_of(m, &p), &p, with, for_us);
    rc = stage_open(file_of(m, &p), &p, team, stage, err);
    progress_clear(&progress);
    if (rc == 0) {
        say_huge_pages();
        lock_weights();
        return EXIT_OK;
    }
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
