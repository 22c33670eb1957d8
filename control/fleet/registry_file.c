/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of workers. What tells that it has changed is looked at twice a second: it works on every
 * file system, and where a file is replaced by another, or by a symbolic link's change.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/fleet/registry_impl.h"
#include "control/log.h"

#define LOOK_MS 500u

struct file {
    struct stat seen; /* as it was read last */
    char said[WORKERS_ERR];
    char path[];
};

static bool changed(const struct stat *a, const struct stat *b)
{
    return a->st_ino != b->st_ino || a->st_dev != b->st_dev || a->st_size != b->st_size ||
           a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec ||
           a->st_ctim.tv_sec != b->st_ctim.tv_sec || a->st_ctim.tv_nsec != b->st_ctim.tv_nsec;
}

/* All of an open file of at most WORKERS_BYTES, or NULL and errno. */
static char *read_whole(int fd, size_t *len)
{
    char *text = malloc(WORKERS_BYTES + 1);
    ssize_t n = 1;
    *len = 0;
    while (text && n > 0 && *len <= WORKERS_BYTES) {
        n = read(fd, text + *len, WORKERS_BYTES + 1 - *len);
        if (n > 0)
            *len += (size_t)n;
    }
    if (text && n >= 0 && *len <= WORKERS_BYTES)
        return text;
    const int error = !text ? ENOMEM : n < 0 ? errno : EFBIG;
    free(text);
    errno = error;
    return NULL;
}

/* 0, or -errno with err. */
static int read_list(struct file *f, struct workers *w, char *err)
{
    struct stat now;
    size_t len = 0;
    const int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    char *text = NULL;
    if (fd >= 0 && fstat(fd, &now) == 0) {
        f->seen = now;
        text = read_whole(fd, &len);
    }
    int rc = text ? 0 : -errno;
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        snprintf(err, WORKERS_ERR, "%.300s: %s", f->path, strerror(-rc));
    else
        rc = workers_parse(text, len, f->path, w, err);
    free(text);
    return rc;
}

static int file_open(struct registry *r, const char *path, void **source, char *err)
{
    struct file *f = calloc(1, sizeof *f + strlen(path) + 1);
    struct workers w;
    if (!f)
        return -ENOMEM;
    strcpy(f->path, path);
    const int rc = read_list(f, &w, err);
    if (rc < 0) {
        free(f);
        return rc;
    }
    registry_deliver(r, &w);
    *source = f;
    return 0;
}

static uint32_t file_look(struct registry *r, void *source)
{
    struct file *f = source;
    struct workers w;
    struct stat now;
    char err[WORKERS_ERR];
    if (stat(f->path, &now) == 0 && !changed(&now, &f->seen))
        return LOOK_MS;
    if (read_list(f, &w, err) == 0) {
        const size_t n = w.n;
        *f->said = '\0';
        registry_answered(r);
        if (registry_deliver(r, &w))
            log_info("%s: %zu worker%s", f->path, n, n == 1 ? "" : "s");
    } else if (strcmp(err, f->said) != 0) {
        strcpy(f->said, err);
        log_error("%s: the list before it stays", err);
    }
    return LOOK_MS;
}

static void file_close(void *source)
{
    free(source);
}

const struct registry_kind registry_file = {"file:", file_open, file_look, file_close};
