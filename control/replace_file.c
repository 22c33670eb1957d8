/* SPDX-License-Identifier: Apache-2.0 */
#include "control/replace_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"

/* What is to take the place of path. */
struct fresh {
    char *path; /* links followed: what they point at is replaced, not they */
    const char *folder;
    char *copy; /* of path; folder may be in it */
    char *name; /* beside path */
    char by_fd[32];
    int fd;
    bool named; /* there is a file of that name */
};

/* 0 or -errno. */
static int resolve(struct fresh *f, const char *path)
{
    f->path = realpath(path, NULL);
    if (!f->path && errno == ENOENT)
        f->path = strdup(path);
    return f->path ? 0 : -errno;
}

static bool open_unnamed(struct fresh *f)
{
    f->fd = open(f->folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (f->fd < 0)
        return false;
    snprintf(f->by_fd, sizeof f->by_fd, "/proc/self/fd/%d", f->fd);
    if (access(f->by_fd, F_OK) == 0)
        return true;
    close(f->fd);
    return false;
}

/* A file without a name, which vanishes with the process; where the file system knows none, or
 * there is no /proc to name it by, one that has its name at once. 0 or -errno; close either way. */
static int fresh_open(struct fresh *f, const char *path)
{
    uint32_t random = 0;

    *f = (struct fresh){.fd = -1};
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return -errno;
    const int rc = resolve(f, path);
    if (rc)
        return rc;
    if (asprintf(&f->name, "%s.%08x", f->path, random) < 0) {
        f->name = NULL;
        return -ENOMEM;
    }
    f->copy = strdup(f->path);
    if (!f->copy)
        return -ENOMEM;
    f->folder = dirname(f->copy);
    if (open_unnamed(f))
        return 0;
    f->fd = open(f->name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    f->named = f->fd >= 0;
    return f->named ? 0 : -errno;
}

static void fresh_close(struct fresh *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->named)
        unlink(f->name);
    free(f->path);
    free(f->copy);
    free(f->name);
}

static int write_all(int fd, const char *from, size_t len)
{
    while (len) {
        const ssize_t n = write(fd, from, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        from += n;
        len -= (size_t)n;
    }
    return fsync(fd) ? -errno : 0;
}

static int take_name(struct fresh *f)
{
    if (!f->named && linkat(AT_FDCWD, f->by_fd, AT_FDCWD, f->name, AT_SYMLINK_FOLLOW))
        return -errno;
    f->named = true;
    return 0;
}

/* A link can't replace what is there, a rename can: for that moment the file has a name of its
 * own. */
static int take_place(struct fresh *f)
{
    const int rc = take_name(f);

    if (rc)
        return rc;
    if (rename(f->name, f->path))
        return -errno;
    f->named = false;
    return 0;
}

/* What forbids to replace a file, as a sticky folder does with another user's, Linux says before it
 * says that a file is no folder to remove. */
static int check_place(const char *path)
{
    return rmdir(path) == 0 || errno == ENOTDIR || errno == ENOENT ? 0 : -errno;
}

/* The file is whole whatever comes of this. */
static void sync_folder(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

static int check_kind(const char *path)
{
    struct stat st;

    if (stat(path, &st) || S_ISREG(st.st_mode))
        return EXIT_OK;
    log_error("%s: not a regular file: name one to write", path);
    return EXIT_USAGE;
}

static int cannot(const char *path, int rc, int code)
{
    log_error("%s: cannot be written: %s", path, strerror(-rc));
    return code;
}

int replace_file_check(const char *path)
{
    struct fresh f;
    int rc = check_kind(path);

    if (rc != EXIT_OK)
        return rc;
    rc = fresh_open(&f, path);
    if (rc == 0)
        rc = take_name(&f);
    if (rc == 0)
        rc = check_place(f.path);
    fresh_close(&f);
    return rc ? cannot(path, rc, rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE) : EXIT_OK;
}

int replace_file(const char *path, const void *bytes, size_t len)
{
    struct fresh f;
    int rc = check_kind(path);

    if (rc != EXIT_OK)
        return rc;
    rc = fresh_open(&f, path);
    if (rc == 0)
        rc = write_all(f.fd, bytes, len);
    if (rc == 0)
        rc = take_place(&f);
    if (rc == 0)
        sync_folder(f.folder);
    fresh_close(&f);
    return rc ? cannot(path, rc, EXIT_FAILED) : EXIT_OK;
}

/* --- bit by bit ------------------------------------------------------------------------------ */

struct replacement {
    struct fresh f;
    char *path; /* as it was given */
};

int replacement_open(const char *path, struct replacement **out)
{
    struct replacement *r = calloc(1, sizeof *r);
    int rc = check_kind(path);

    *out = r;
    if (!r)
        return cannot(path, -ENOMEM, EXIT_FAILED);
    r->f.fd = -1;
    if (rc != EXIT_OK)
        return rc;
    r->path = strdup(path);
    rc = r->path ? fresh_open(&r->f, path) : -ENOMEM;
    if (rc == 0)
        rc = check_place(r->f.path);
    return rc ? cannot(path, rc, rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE) : EXIT_OK;
}

int replacement_fd(const struct replacement *r)
{
    return r->f.fd;
}

int replacement_reserve(struct replacement *r, uint64_t bytes)
{
    struct statvfs fs;

    if (fallocate(r->f.fd, 0, 0, (off_t)bytes) == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
        return EXIT_OK;
    const int rc = -errno;
    if (rc == -ENOSPC && fstatvfs(r->f.fd, &fs) == 0) {
        log_error("%s: it takes %.1f MB and %.1f MB are free there", r->path, (double)bytes / 1e6,
                  (double)fs.f_bavail * (double)fs.f_frsize / 1e6);
        return EXIT_FAILED;
    }
    return cannot(r->path, rc, EXIT_FAILED);
}

int replacement_sync(struct replacement *r)
{
    return fsync(r->f.fd) ? cannot(r->path, -errno, EXIT_FAILED) : EXIT_OK;
}

int replacement_take(struct replacement *r)
{
    const int rc = take_place(&r->f);

    if (rc)
        return cannot(r->path, rc, EXIT_FAILED);
    sync_folder(r->f.folder);
    return EXIT_OK;
}

void replacement_close(struct replacement *r)
{
    if (!r)
        return;
    fresh_close(&r->f);
    free(r->path);
    free(r);
}
