/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/threads.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "TID (name) S ..."; the name may hold anything. */
static bool parse_stat(char *line, struct thread_info *t)
{
    char *open = strchr(line, '('), *close = strrchr(line, ')');
    unsigned long user, system;
    if (!open || !close || close < open)
        return false;
    *close = '\0';
    snprintf(t->name, sizeof t->name, "%s", open + 1);
    if (sscanf(
            close + 1,
            " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u "
            "%*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*d %d",
            &t->state, &user, &system, &t->cpu) != 4)
        return false;
    t->cpu_ns = (user + system) * (UINT64_C(1000000000) / (uint64_t)sysconf(_SC_CLK_TCK));
    return true;
}

static bool read_file(int tid, const char *name, char *text, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", tid, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    const size_t n = fread(text, 1, room - 1, f);
    text[n] = '\0';
    fclose(f);
    return n > 0;
}

static bool read_thread(int tid, struct thread_info *t)
{
    char text[1024];
    uint64_t exact_ns;
    *t = (struct thread_info){.tid = tid};
    if (!read_file(tid, "stat", text, sizeof text) || !parse_stat(text, t))
        return false;
    /* In nanoseconds, where the kernel counts them; stat has ticks of 10 ms. */
    if (read_file(tid, "schedstat", text, sizeof text) && (exact_ns = strtoull(text, NULL, 10)) > 0)
        t->cpu_ns = exact_ns;
    return true;
}

static int by_tid(const void *a, const void *b)
{
    const struct thread_info *x = a, *y = b;
    return (x->tid > y->tid) - (x->tid < y->tid);
}

uint32_t threads_list(struct thread_info *list, uint32_t max)
{
    DIR *d = opendir("/proc/self/task");
    uint32_t n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct thread_info t;
        const int tid = atoi(e->d_name);
        if (tid <= 0 || !read_thread(tid, &t))
            continue;
        if (n < max)
            list[n] = t;
        n++;
    }
    if (d)
        closedir(d);
    qsort(list, n < max ? n : max, sizeof *list, by_tid);
    return n;
}
