/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/secure/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#define SECURE_HEAP_BYTES (256u << 10)
#define PEM_BYTES_MAX     4096 /* a P-256 key takes 241 */

struct identity {
    EVP_PKEY *key;
    X509 *certificate;
    struct fingerprint fingerprint;
};

/* --- fingerprints --------------------------------------------------------------------------------
 */

bool fingerprint_equal(const struct fingerprint *a, const struct fingerprint *b)
{
    return !CRYPTO_memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

const char *fingerprint_format(const struct fingerprint *f, char text[FINGERPRINT_TEXT])
{
    int at = sprintf(text, "sha256:");

    for (unsigned i = 0; i < sizeof f->bytes; i++)
        at += sprintf(text + at, "%02x", f->bytes[i]);
    return text;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int fingerprint_parse(const char *text, size_t len, struct fingerprint *out)
{
    if (len > 7 && !memcmp(text, "sha256:", 7)) {
        text += 7;
        len -= 7;
    }
    if (len != 2 * sizeof out->bytes)
        return -EINVAL;
    for (unsigned i = 0; i < sizeof out->bytes; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return -EINVAL;
        out->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int fingerprint_of_key(EVP_PKEY *key, struct fingerprint *out)
{
    unsigned char *der = NULL;
    int n = key ? i2d_PUBKEY(key, &der) : -1, good;

    good = n > 0 && EVP_Digest(der, (size_t)n, out->bytes, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    return good ? 0 : -EINVAL;
}

int fingerprint_of_certificate(struct x509_st *certificate, struct fingerprint *out)
{
    return fingerprint_of_key(X509_get0_pubkey(certificate), out);
}

/* --- identities ----------------------------------------------------------------------------------
 */

/* The handshake wants certificates; only the key in them means something. */
static X509 *certify(EVP_PKEY *key)
{
    X509 *x = X509_new();
    X509_NAME *name = x ? X509_get_subject_name(x) : NULL;

    if (!x || X509_set_version(x, X509_VERSION_3) != 1 ||
        ASN1_INTEGER_set(X509_get_serialNumber(x), 1) != 1 ||
        ASN1_TIME_set_string(X509_getm_notBefore(x), "20200101000000Z") != 1 ||
        ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z") != 1 ||
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"isthmus", -1,
                                   -1, 0) != 1 ||
        X509_set_issuer_name(x, name) != 1 || X509_set_pubkey(x, key) != 1 ||
        X509_sign(x, key, EVP_sha256()) <= 0) {
        X509_free(x);
        return NULL;
    }
    return x;
}

/* Takes over the key. */
static int from_key(EVP_PKEY *key, struct identity **out)
{
    struct identity *id = calloc(1, sizeof *id);

    if (!id) {
        EVP_PKEY_free(key);
        return -ENOMEM;
    }
    id->key = key;
    id->certificate = certify(key);
    if (!id->certificate || fingerprint_of_key(key, &id->fingerprint)) {
        identity_close(id);
        return -EIO;
    }
    *out = id;
    return 0;
}

int identity_new(struct identity **out)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");

    return key ? from_key(key, out) : -EIO;
}

void identity_close(struct identity *id)
{
    if (!id)
        return;
    X509_free(id->certificate);
    EVP_PKEY_free(id->key); /* wipes it */
    free(id);
}

const struct fingerprint *identity_fingerprint(const struct identity *id)
{
    return &id->fingerprint;
}

struct x509_st *identity_certificate(const struct identity *id)
{
    return id->certificate;
}

struct evp_pkey_st *identity_key(const struct identity *id)
{
    return id->key;
}

size_t identity_sign(const struct identity *id, const uint8_t *text, size_t n,
                     uint8_t signature[IDENTITY_SIGNATURE_MAX])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    size_t bytes = IDENTITY_SIGNATURE_MAX;

    if (!c || EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, id->key) != 1 ||
        EVP_DigestSign(c, signature, &bytes, text, n) != 1)
        bytes = 0;
    EVP_MD_CTX_free(c);
    return bytes;
}

bool identity_signed(struct evp_pkey_st *key, const uint8_t *text, size_t n,
                     const uint8_t *signature, size_t n_signature)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good = c && EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, key) == 1 &&
                EVP_DigestVerify(c, signature, n_signature, text, n) == 1;

    EVP_MD_CTX_free(c);
    ERR_clear_error(); /* of a forged one: it must not be taken for a session's */
    return good;
}

/* --- files ---------------------------------------------------------------------------------------
 */

/* PEM of the private key, in secure memory: *n bytes, freed by free_pem. NULL: OpenSSL can't. */
static BIO *to_pem(const struct identity *id, const char **text, size_t *n)
{
    BIO *b = BIO_new(BIO_s_secmem());
    char *p;

    if (!b || PEM_write_bio_PKCS8PrivateKey(b, id->key, NULL, NULL, 0, NULL, NULL) != 1) {
        BIO_free(b);
        return NULL;
    }
    *n = (size_t)BIO_get_mem_data(b, &p);
    *text = p;
    return b;
}

static int write_to(const struct identity *id, int fd)
{
    const char *text;
    size_t n;
    BIO *pem = to_pem(id, &text, &n);
    int rc = 0;

    if (!pem)
        return -EIO;
    while (n && !rc) {
        ssize_t wrote = write(fd, text, n);

        if (wrote < 0 && errno != EINTR)
            rc = -errno;
        if (wrote > 0) {
            text += wrote;
            n -= (size_t)wrote;
        }
    }
    BIO_free(pem);
    return rc;
}

int identity_write(const struct identity *id, const char *path, char *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600), rc;

    if (fd < 0) {
        rc = -errno;
        snprintf(err, IDENTITY_ERR, "%s: %s%s", path, strerror(-rc),
                 rc == -EEXIST ? ": an identity is never overwritten; remove it yourself, or write "
                                 "to another file"
                               : "");
        return rc;
    }
    rc = fchmod(fd, 0600) ? -errno : write_to(id, fd);
    if (!rc && fsync(fd) && errno != EINVAL)
        rc = -errno;
    close(fd);
    if (rc) {
        snprintf(err, IDENTITY_ERR, "%s: %s", path, strerror(-rc));
        unlink(path);
    }
    return rc;
}

int identity_to_fd(const struct identity *id)
{
    int fd = memfd_create("isthmus-identity", MFD_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    rc = write_to(id, fd);
    if (!rc && lseek(fd, 0, SEEK_SET) < 0)
        rc = -errno;
    if (rc) {
        close(fd);
        return rc;
    }
    return fd;
}

/* Whether the file is one, and nobody's but its owner's. */
static int check_file(int fd, const char *path, char *err)
{
    struct stat st;

    if (fstat(fd, &st)) {
        int rc = -errno;

        snprintf(err, IDENTITY_ERR, "%s: %s", path, strerror(-rc));
        return rc;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(err, IDENTITY_ERR, "%s: not a regular file", path);
        return -EINVAL;
    }
    if (st.st_mode & (S_IRWXG | S_IRWXO)) {
        snprintf(err, IDENTITY_ERR,
                 "%s: others may read this private key (mode %04o): chmod 600 it, and make a new "
                 "one if they did",
                 path, st.st_mode & 07777u);
        return -EINVAL;
    }
    return 0;
}

static ssize_t read_all(int fd, char *to, size_t room)
{
    size_t n = 0;

    while (n < room) {
        ssize_t got = read(fd, to + n, room - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (!got)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

/* No password is asked for: this program has no terminal to ask on. */
static int no_password(char *buf, int size, int writing, void *arg)
{
    return -1;
}

/* A file may be damaged so that its two halves do not fit any more. */
static bool key_ok(EVP_PKEY *key)
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    char group[32];
    bool good = c && EVP_PKEY_get_group_name(key, group, sizeof group, NULL) == 1 &&
                !strcmp(group, SN_X9_62_prime256v1) && EVP_PKEY_check(c) == 1;

    EVP_PKEY_CTX_free(c);
    return good;
}

static EVP_PKEY *key_of_pem(const char *text, size_t n)
{
    BIO *b = BIO_new_mem_buf(text, (int)n);
    EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;

    BIO_free(b);
    if (key && !key_ok(key)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

/* The descriptor of "fd:N", -1: no such text. */
static int inherited_fd(const char *path)
{
    char *end;
    long n = strtol(path + 3, &end, 10);

    return path[3] >= '0' && path[3] <= '9' && !*end && n <= INT_MAX ? (int)n : -1;
}

int identity_read(const char *path, struct identity **out, char *err)
{
    bool inherited = !strncmp(path, "fd:", 3);
    char *text = OPENSSL_secure_zalloc(PEM_BYTES_MAX);
    EVP_PKEY *key;
    ssize_t n;
    int fd = inherited ? fcntl(inherited_fd(path), F_DUPFD_CLOEXEC, 0)
                       : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int rc = fd < 0 ? -errno : 0;

    if (!text)
        rc = rc ? rc : -ENOMEM;
    if (rc) {
        snprintf(err, IDENTITY_ERR, "%s: %s%s", path, strerror(-rc),
                 rc == -ENOENT ? ": `isthmus keygen -o FILE` makes an identity" : "");
        goto out;
    }
    rc = inherited ? 0 : check_file(fd, path, err);
    if (rc)
        goto out;
    n = read_all(fd, text, PEM_BYTES_MAX);
    key = n > 0 && n < PEM_BYTES_MAX ? key_of_pem(text, (size_t)n) : NULL;
    rc = key ? from_key(key, out) : -EINVAL;
    if (rc)
        snprintf(err, IDENTITY_ERR,
                 "%s: no P-256 private key in PEM without password: `isthmus keygen -o FILE` makes "
                 "one",
                 path);
out:
    OPENSSL_secure_clear_free(text, PEM_BYTES_MAX);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && inherited && inherited_fd(path) > STDERR_FILENO)
        close(inherited_fd(path));
    return rc;
}

void secure_memory_open(void)
{
    if (!CRYPTO_secure_malloc_initialized())
        CRYPTO_secure_malloc_init(SECURE_HEAP_BYTES, 32);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    prctl(PR_SET_DUMPABLE, 0);
#endif
}
