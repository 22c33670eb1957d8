/* SPDX-License-Identifier: Apache-2.0 */
#include "control/memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/account.h"

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

uint64_t memory_for_us(void)
{
    static uint64_t ours;
    const uint64_t there = memory_there();

    if (!ours)
        ours = process_memory("RssAnon");
    return there ? there + ours : 0;
}
