/* SPDX-License-Identifier: Apache-2.0 */
#include "control/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/replace_file.h"

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
    /* A FIFO would be waited for, before it can be seen to be one. */
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
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

int profile_write(const char *path, struct codec_profile *p)
{
    char err[CODEC_PROFILE_ERR];
    uint8_t *bytes;
    size_t len;

    if (codec_profile_serialize(p, &bytes, &len, err)) {
        log_error("%s: %s", path, err);
        return EXIT_FAILED;
    }
    const int rc = replace_file(path, bytes, len);
    free(bytes);
    return rc;
}

char *profile_hex(const uint8_t bytes[16], char buf[33])
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(buf + 2 * i, 3, "%02x", bytes[i]);
    return buf;
}
