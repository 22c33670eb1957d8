/* SPDX-License-Identifier: Apache-2.0 */
#include "control/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/calibration_text.h"
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

/* All of a file's bytes, malloc'd. EXIT_OK or an exit code. */
static int read_file(const char *path, uint8_t **bytes, size_t *len)
{
    /* A FIFO would be waited for, before it can be seen to be one. */
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    int code = EXIT_OK;

    *bytes = NULL;
    if (fd < 0)
        return fail(path, errno, EXIT_USAGE);
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_BYTES_MAX) {
        log_error("%s: not a codec profile", path);
        code = EXIT_USAGE;
        goto out;
    }
    *len = (size_t)st.st_size;
    *bytes = malloc(*len + 1);
    const int rc = *bytes ? read_all(fd, *bytes, *len) : -ENOMEM;
    if (rc)
        code = fail(path, -rc, EXIT_FAILED);
out:
    close(fd);
    return code;
}

/* 0 or -ENOENT; what is damaged is said: EXIT_USAGE. */
static int find_text(const char *path, const uint8_t *bytes, size_t len, struct calibration_text *t)
{
    const int rc = calibration_text_find(bytes, len, t);

    if (rc == -EBADMSG)
        log_error("%s: the calibration text in it is damaged", path);
    if (rc == -ENOTSUP)
        log_error("%s: a calibration text of a version that this program doesn't know", path);
    return rc == -EBADMSG || rc == -ENOTSUP ? EXIT_USAGE : rc;
}

int profile_read(const char *path, struct codec_profile **out)
{
    char err[CODEC_PROFILE_ERR];
    struct calibration_text text;
    uint8_t *bytes;
    size_t len;

    *out = NULL;
    int code = read_file(path, &bytes, &len);
    if (code == EXIT_OK) {
        const int found = find_text(path, bytes, len, &text);
        if (found == 0)
            len = text.at;
        code = found > 0 ? found : EXIT_OK;
    }
    if (code == EXIT_OK) {
        const int rc = codec_profile_parse(bytes, len, out, err);
        if (rc)
            log_error("%s: %s", path, err);
        code = rc == 0 ? EXIT_OK : rc == -ENOMEM ? EXIT_FAILED : EXIT_USAGE;
    }
    free(bytes);
    return code;
}

int profile_read_text(const char *path, const uint8_t fingerprint[16], int32_t **ids,
                      uint32_t *n_windows, uint32_t *window)
{
    struct calibration_text t;
    uint8_t *bytes;
    size_t len;

    *ids = NULL;
    int code = read_file(path, &bytes, &len);
    if (code == EXIT_OK) {
        const int found = find_text(path, bytes, len, &t);
        if (found < 0)
            log_error("%s: there is no calibration text in it: make it with isthmus calibrate",
                      path);
        code = found ? EXIT_USAGE : EXIT_OK;
    }
    if (code == EXIT_OK && memcmp(t.fingerprint, fingerprint, sizeof(t.fingerprint)) != 0) {
        char theirs[33], ours[33];
        log_error("%s: a calibration of another model, %s; this one is %s", path,
                  profile_hex(t.fingerprint, theirs), profile_hex(fingerprint, ours));
        code = EXIT_USAGE;
    }
    if (code == EXIT_OK) {
        *ids = malloc((size_t)t.n * sizeof(**ids));
        if (!*ids)
            code = fail(path, ENOMEM, EXIT_FAILED);
    }
    if (code == EXIT_OK) {
        memcpy(*ids, t.ids, (size_t)t.n * sizeof(**ids));
        *n_windows = t.n / t.window;
        *window = t.window;
    }
    free(bytes);
    return code;
}

/* --- writing --------------------------------------------------------------------------------- */

static int write_both(const char *path, struct codec_profile *p, const uint8_t *text,
                      size_t text_len)
{
    char err[CODEC_PROFILE_ERR];
    uint8_t *bytes;
    size_t len;

    if (codec_profile_serialize(p, &bytes, &len, err)) {
        log_error("%s: %s", path, err);
        return EXIT_FAILED;
    }
    uint8_t *all = realloc(bytes, len + text_len);
    if (!all) {
        free(bytes);
        return fail(path, ENOMEM, EXIT_FAILED);
    }
    if (text_len)
        memcpy(all + len, text, text_len);
    const int rc = replace_file(path, all, len + text_len);
    free(all);
    return rc;
}

int profile_write(const char *path, struct codec_profile *p)
{
    return write_both(path, p, NULL, 0);
}

int profile_write_text(const char *path, struct codec_profile *p, const int32_t *ids, uint32_t n,
                       uint32_t window)
{
    size_t len;
    uint8_t *text = calibration_text_make(ids, n, window, p->fingerprint, &len);

    if (!text)
        return fail(path, ENOMEM, EXIT_FAILED);
    const int rc = write_both(path, p, text, len);
    free(text);
    return rc;
}

char *profile_hex(const uint8_t bytes[16], char buf[33])
{
    for (unsigned i = 0; i < 16; i++)
        snprintf(buf + 2 * i, 3, "%02x", bytes[i]);
    return buf;
}
