/* SPDX-License-Identifier: Apache-2.0 */
#include "control/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"

/* Eight blocks of 2048 columns, all classes and some more. */
#define FILE_BYTES_MAX (256ull << 20)

static int fail(const char *path, int rc, int exit_code)
{
    log_error("%s: %s", path, strerror(rc));
    return exit_code;
}

/* --- reading --------------------------------------------------------------------------------- */

static int read_all(int fd, uint8_t *to, size_t len)
{
    while (len) {
        const ssize_t n = read(fd, to, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        to += n;
        len -= (size_t)n;
    }
    return 0;
}

int profile_read(const char *path, struct codec_profile **out)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    char err[CODEC_PROFILE_ERR];
    uint8_t *bytes = NULL;
    struct stat st;
    int code = EXIT_USAGE;

    *out = NULL;
    if (fd < 0)
        return fail(path, errno, EXIT_USAGE);
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_BYTES_MAX) {
        log_error("%s: not a codec profile", path);
        goto out;
    }
    bytes = malloc((size_t)st.st_size + 1);
    int rc = bytes ? read_all(fd, bytes, (size_t)st.st_size) : -ENOMEM;
    if (rc) {
        code = fail(path, -rc, EXIT_FAILED);
        goto out;
    }
    rc = codec_profile_parse(bytes, (size_t)st.st_size, out, err);
    if (rc)
        log_error("%s: %s", path, err);
    code = rc == 0 ? EXIT_OK : rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
out:
    free(bytes);
    close(fd);
    return code;
}

/* --- writing --------------------------------------------------------------------------------- */

/* A new file beside path, which can take its place. Its name is malloc'd; -1: said. */
static int open_beside(const char *path, char **name)
{
    struct stat st;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        log_error("%s: not a file that could be replaced", path);
        return -1;
    }
    if (asprintf(name, "%s.XXXXXX", path) < 0) {
        *name = NULL;
        log_error("out of memory");
        return -1;
    }
    const int fd = mkostemp(*name, O_CLOEXEC);
    if (fd < 0) {
        log_error("%s: cannot be written: %s", path, strerror(errno));
        free(*name);
        *name = NULL;
    }
    return fd;
}

int profile_check_writable(const char *path)
{
    char *name;
    const int fd = open_beside(path, &name);

    if (fd < 0)
        return EXIT_USAGE;
    unlink(name);
    close(fd);
    free(name);
    return EXIT_OK;
}

static int write_all(int fd, const uint8_t *from, size_t len)
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
    return 0;
}

/* mkostemp's file is for its owner alone: give it what a plain open would have. */
static int open_to_others(int fd)
{
    const mode_t mask = umask(0);

    umask(mask);
    return fchmod(fd, 0666 & ~mask) ? -errno : 0;
}

static int sync_directory(const char *path)
{
    char *copy = strdup(path);
    const int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    const int rc = fd >= 0 && fsync(fd) == 0 ? 0 : -errno;

    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

int profile_write(const char *path, struct codec_profile *p)
{
    char err[CODEC_PROFILE_ERR], *name;
    uint8_t *bytes;
    size_t len;

    if (codec_profile_serialize(p, &bytes, &len, err)) {
        log_error("%s: %s", path, err);
        return EXIT_FAILED;
    }
    const int fd = open_beside(path, &name);
    if (fd < 0) {
        free(bytes);
        return EXIT_FAILED;
    }
    int rc = write_all(fd, bytes, len);
    if (rc == 0)
        rc = open_to_others(fd);
    if (rc == 0 && fsync(fd))
        rc = -errno;
    if (close(fd) && rc == 0)
        rc = -errno;
    if (rc == 0 && rename(name, path))
        rc = -errno;
    if (rc)
        unlink(name);
    else
        (void)sync_directory(path); /* the file is whole whatever comes of this */
    free(name);
    free(bytes);
    return rc ? fail(path, -rc, EXIT_FAILED) : EXIT_OK;
}

char *profile_hex(const uint8_t bytes[16], char buf[33])
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(buf + 2 * i, 3, "%02x", bytes[i]);
    return buf;
}
