/* SPDX-License-Identifier: Apache-2.0 */
#include "control/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- what is there --------------------------------------------------------------------------- */

/* The number after `key` in a file of lines "key number"; with key NULL the file's first word.
 * False: no file, no such line, or no number ("max"). */
static bool read_number(const char *dir, const char *name, const char *key, uint64_t *v)
{
    const size_t len = key ? strlen(key) : 0;
    char path[PATH_MAX], line[256], *end;
    bool found = false;

    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= PATH_MAX)
        return false;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        if (key && (strncmp(line, key, len) != 0 || !strchr(" :", line[len])))
            continue;
        const char *at = line + len + (line[len] == ':');
        *v = strtoull(at, &end, 10);
        found = end != at;
        if (!found)
            break;
    }
    fclose(f);
    return found;
}

/* Names of one version of the memory controller. */
struct controller {
    const char *mount, *limit, *usage, *inactive, *active;
};
static const struct controller v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                     "memory.usage_in_bytes", "total_inactive_file",
                                     "total_active_file"};
static const struct controller v2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                     "inactive_file", "active_file"};

/* What the limit of one cgroup leaves; UINT64_MAX: it has none. */
static uint64_t left_in(const char *dir, const struct controller *c)
{
    uint64_t limit, usage, inactive = 0, active = 0;

    if (!read_number(dir, c->limit, NULL, &limit) || !read_number(dir, c->usage, NULL, &usage))
        return UINT64_MAX;
    read_number(dir, "memory.stat", c->inactive, &inactive);
    read_number(dir, "memory.stat", c->active, &active);
    const uint64_t cache = inactive + active < usage ? inactive + active : usage;
    return limit > usage - cache ? limit - (usage - cache) : 0;
}

/* The least that a cgroup and all above it leave. In a container the path may be the host's and not
 * be there, while its limit stands at the top. */
static uint64_t left_up(const char *root, const struct controller *c, char *path)
{
    uint64_t least = UINT64_MAX;

    for (;;) {
        char dir[PATH_MAX];
        if (snprintf(dir, sizeof dir, "%s%s%s", root, c->mount, path) < PATH_MAX) {
            const uint64_t left = left_in(dir, c);
            least = left < least ? left : least;
        }
        char *last = strrchr(path, '/');
        if (!last)
            return least;
        *last = '\0';
    }
}

static uint64_t left_by_cgroups(const char *root)
{
    uint64_t least = UINT64_MAX;
    char path[PATH_MAX], *line = NULL;
    size_t room = 0;

    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= PATH_MAX)
        return least;
    FILE *f = fopen(path, "re");
    if (!f)
        return least;
    while (getline(&line, &room, f) > 0) { /* "0::/path" or "4:memory:/path" */
        char *names = strchr(line, ':'), *at = names ? strchr(names + 1, ':') : NULL;
        if (!at)
            continue;
        at[strcspn(at, "\n")] = '\0';
        *at++ = '\0';
        const struct controller *c = names[1] == '\0' ? &v2 : &v1;
        if (c == &v1 && !strstr(names + 1, "memory"))
            continue;
        const uint64_t left = left_up(root, c, at);
        least = left < least ? left : least;
    }
    free(line);
    fclose(f);
    return least;
}

uint64_t memory_there_under(const char *root)
{
    uint64_t kb, there = left_by_cgroups(root);

    if (read_number(root, "proc/meminfo", "MemAvailable", &kb) && kb * 1024 < there)
        there = kb * 1024;
    return there == UINT64_MAX ? 0 : there;
}

uint64_t memory_there(void)
{
    return memory_there_under("");
}

/* --- what fits ------------------------------------------------------------------------------- */

#define CTX_STEP 64u

struct need {
    size_t weights_bytes, kv_bytes; /* of the longest sequence, or the budget if that is less */
};

static int need_of(const struct gguf *g, const struct stage_params *p, struct need *n)
{
    char err[GGUF_ERR];
    const int rc = stage_footprint(g, p, 0, &n->weights_bytes, &n->kv_bytes, err);

    if (rc == 0 && p->kv_budget_bytes && p->kv_budget_bytes < n->kv_bytes)
        n->kv_bytes = p->kv_budget_bytes;
    return rc;
}

static bool fits(const struct need *n, uint64_t there)
{
    return n->weights_bytes + n->kv_bytes + MEMORY_REST_BYTES <= there;
}

/* The longest sequence for which there is room: 0 when not even a short one. */
static uint32_t ctx_that_fits(const struct gguf *g, const struct stage_params *p, uint64_t there)
{
    uint32_t low = 0, high = 1u << 20;
    struct need n;

    while (high - low > CTX_STEP) {
        struct stage_params q = *p;
        q.n_ctx = low + (high - low) / 2;
        if (need_of(g, &q, &n) == 0 && fits(&n, there))
            low = q.n_ctx;
        else
            high = q.n_ctx;
    }
    return low / CTX_STEP * CTX_STEP;
}

uint32_t memory_split(const struct stage_params *p, uint32_t n_layers,
                      bool (*has_room)(const void *arg, const struct stage_params *p),
                      const void *arg)
{
    for (uint32_t layers = n_layers - 1; layers > 0; layers--) {
        struct stage_params q = *p;
        if (p->first_layer == 0)
            q.end_layer = layers;
        else
            q.first_layer = n_layers - layers;
        if (has_room(arg, &q))
            return p->first_layer == 0 ? layers : n_layers - layers;
    }
    return 0;
}

struct room {
    const struct gguf *g;
    uint64_t there;
};

static bool fits_there(const void *arg, const struct stage_params *p)
{
    const struct room *r = arg;
    struct need n;

    return need_of(r->g, p, &n) == 0 && fits(&n, r->there);
}

int memory_fits(const struct gguf *g, const struct stage_params *p, uint32_t n_layers,
                uint64_t there, char line[MEMORY_LINE])
{
    const uint32_t end = p->end_layer ? p->end_layer : n_layers;
    struct need n;
    int rc = need_of(g, p, &n);

    if (rc || fits(&n, there))
        return rc;
    const uint32_t ctx = ctx_that_fits(g, p, there),
                   split = memory_split(p, n_layers, fits_there, &(struct room){g, there});
    char instead[160] = "no part of it fits here";
    size_t at = 0;
    if (ctx)
        at = (size_t)snprintf(instead, sizeof instead, "--ctx %u would fit%s", ctx,
                              split ? "; or " : "");
    if (split)
        snprintf(instead + at, sizeof instead - at, "--split %u is the %s", split,
                 p->first_layer == 0 ? "most that fits here as an edge"
                                     : "least that leaves a cloud here few enough layers");
    snprintf(
        line, MEMORY_LINE,
        "%s: layers %u to %u need %.1f MB of memory (weights %.1f, keys and values %.1f, all else "
        "%.1f), and %.1f MB are there: %s",
        gguf_path(g), p->first_layer, end - 1,
        (double)(n.weights_bytes + n.kv_bytes + MEMORY_REST_BYTES) * 1e-6,
        (double)n.weights_bytes * 1e-6, (double)n.kv_bytes * 1e-6, (double)MEMORY_REST_BYTES * 1e-6,
        (double)there * 1e-6, instead);
    return -ENOMEM;
}

size_t memory_cache(const struct gguf *g, const struct stage_params *p, uint64_t there)
{
    struct need n;

    if (need_of(g, p, &n))
        return 0;
    const uint64_t all = (uint64_t)n.kv_bytes * (p->max_seqs ? p->max_seqs : 1);
    const uint64_t taken = n.weights_bytes + MEMORY_REST_BYTES;
    const uint64_t left = there > taken ? there - taken : 0;
    return left >= all ? 0 : left > n.kv_bytes ? left : n.kv_bytes;
}

static bool skip;

void memory_check_skip(void)
{
    skip = true;
}

int memory_check(const struct gguf *g, const struct stage_params *p, uint32_t n_layers,
                 uint64_t *there, char line[MEMORY_LINE])
{
    *there = memory_there();
    return skip || *there == 0 ? 0 : memory_fits(g, p, n_layers, *there, line);
}

int memory_check_pair(const struct gguf *edge, const struct stage_params *edge_params,
                      const struct gguf *cloud, const struct stage_params *cloud_params,
                      char line[MEMORY_LINE])
{
    const uint64_t there = memory_there();
    struct need front, back;
    int rc = need_of(edge, edge_params, &front);

    if (rc == 0)
        rc = need_of(cloud, cloud_params, &back);
    if (rc || skip || there == 0)
        return rc;
    const uint64_t weights = front.weights_bytes + back.weights_bytes,
                   kv = front.kv_bytes + back.kv_bytes, rest = 2 * MEMORY_REST_BYTES;
    if (weights + kv + rest <= there)
        return 0;
    snprintf(
        line, MEMORY_LINE,
        "%s and %s: both halves need %.1f MB of memory (weights %.1f, keys and values %.1f, all "
        "else %.1f), and %.1f MB are there: a smaller --ctx, or the halves on two hosts",
        gguf_path(edge), gguf_path(cloud), (double)(weights + kv + rest) * 1e-6,
        (double)weights * 1e-6, (double)kv * 1e-6, (double)rest * 1e-6, (double)there * 1e-6);
    return -ENOMEM;
}
