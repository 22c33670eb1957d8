/* SPDX-License-Identifier: Apache-2.0 */
#include "control/gateway/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIGEST     32u
#define FILE_BYTES (API_KEYS_MAX * (API_KEY_NAME + API_KEY_MAX))

struct api_key {
    char name[API_KEY_NAME];
    unsigned char digest[DIGEST];
};

struct api_keys {
    size_t n;
    struct api_key list[];
};

static int digest_of(const char *key, size_t n, unsigned char out[DIGEST])
{
    return EVP_Digest(key, n, out, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* --- the file ----------------------------------------------------------------------------------- */

static int bad(char *err, size_t line, const char *why)
{
    snprintf(err, API_KEYS_ERR, "line %zu: %s", line, why);
    return -EBADMSG;
}

/* The next word of a line that ends at `end`; *n 0: there is none. */
static const char *word(const char **at, const char *end, size_t *n)
{
    while (*at < end && (**at == ' ' || **at == '\t' || **at == '\r'))
        ++*at;
    const char *from = *at;
    while (*at < end && **at != ' ' && **at != '\t' && **at != '\r')
        ++*at;
    *n = (size_t)(*at - from);
    return from;
}

static int all_printable(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] < 0x21 || text[i] > 0x7e)
            return 0;
    return 1;
}

/* 1: a key; 0: none in this line. */
static int parse_line(const char *at, const char *end, size_t line, struct api_key *k, char *err)
{
    size_t n_name, n_key, n_rest;
    const char *name = word(&at, end, &n_name);
    if (n_name == 0 || *name == '#')
        return 0;
    const char *key = word(&at, end, &n_key);
    const char *rest = word(&at, end, &n_rest);
    if (n_key == 0 || (n_rest && *rest != '#'))
        return bad(err, line, "must be NAME KEY");
    if (n_name >= API_KEY_NAME || !all_printable(name, n_name))
        return bad(err, line, "the name must be up to 47 printable characters");
    if (n_key < API_KEY_MIN || n_key > API_KEY_MAX || !all_printable(key, n_key))
        return bad(err, line, "the key must be 16 to 256 printable characters");
    memcpy(k->name, name, n_name);
    k->name[n_name] = '\0';
    return digest_of(key, n_key, k->digest) < 0 ? -ENOMEM : 1;
}

/* Whether what was read into the place behind the last is neither a name nor a key of those before.
 * 1, or -EBADMSG. */
static int check_new(const struct api_keys *k, size_t line, char *err)
{
    const struct api_key *one = &k->list[k->n];
    for (size_t i = 0; i < k->n; i++) {
        if (strcmp(k->list[i].name, one->name) == 0)
            return bad(err, line, "this name is there already");
        if (CRYPTO_memcmp(k->list[i].digest, one->digest, DIGEST) == 0)
            return bad(err, line, "this key is another name's already");
    }
    return 1;
}

static size_t count_lines(const char *text, size_t n)
{
    size_t lines = 1;
    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    return lines;
}

int api_keys_parse(const char *text, size_t n, struct api_keys **out, char *err)
{
    const size_t lines = count_lines(text, n), max = lines < API_KEYS_MAX ? lines : API_KEYS_MAX;
    struct api_keys *k = calloc(1, sizeof *k + (max + 1) * sizeof *k->list);
    int rc = k ? 0 : -ENOMEM;
    const char *at = text, *end = text + n;
    snprintf(err, API_KEYS_ERR, "out of memory");
    for (size_t line = 1; rc >= 0 && at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        rc = parse_line(at, stop, line, &k->list[k->n], err);
        if (rc == 1 && k->n == max)
            rc = bad(err, line, "too many keys");
        if (rc == 1)
            rc = check_new(k, line, err);
        k->n += rc == 1;
        at = stop < end ? stop + 1 : end;
    }
    if (rc >= 0 && k->n == 0) {
        snprintf(err, API_KEYS_ERR, "has no key: a line is NAME KEY");
        rc = -EBADMSG;
    }
    if (rc < 0) {
        api_keys_free(k);
        return rc;
    }
    *err = '\0';
    *out = k;
    return 0;
}

/* All of it into text, malloc'd. 0 or -errno with err. */
static int read_secret(int fd, char **text, size_t *n, char *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)FILE_BYTES) {
        snprintf(err, API_KEYS_ERR, "is no file of keys");
        return -EBADMSG;
    }
    if (st.st_mode & S_IRWXO) {
        snprintf(err, API_KEYS_ERR, "is open to others: chmod o= it");
        return -EACCES;
    }
    *text = malloc((size_t)st.st_size + 1);
    if (!*text) {
        snprintf(err, API_KEYS_ERR, "out of memory");
        return -ENOMEM;
    }
    const ssize_t got = read(fd, *text, (size_t)st.st_size);
    if (got < 0) {
        snprintf(err, API_KEYS_ERR, "%s", strerror(errno));
        return -errno;
    }
    *n = (size_t)got;
    return 0;
}

int api_keys_read(const char *path, struct api_keys **out, char *err)
{
    char *text = NULL;
    size_t n = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        snprintf(err, API_KEYS_ERR, "%s", strerror(errno));
        return -errno;
    }
    int rc = read_secret(fd, &text, &n, err);
    close(fd);
    if (rc == 0)
        rc = api_keys_parse(text, n, out, err);
    if (text)
        OPENSSL_cleanse(text, n);
    free(text);
    return rc;
}

void api_keys_free(struct api_keys *k)
{
    free(k);
}

/* ------------------------------------------------------------------------------------------------ */

const char *api_keys_find(const struct api_keys *k, const char *key, size_t n)
{
    unsigned char digest[DIGEST];
    const char *found = NULL;
    if (n > API_KEY_MAX || digest_of(key, n, digest) < 0)
        return NULL;
    for (size_t i = 0; i < k->n; i++)
        if (CRYPTO_memcmp(digest, k->list[i].digest, DIGEST) == 0)
            found = k->list[i].name;
    return found;
}
