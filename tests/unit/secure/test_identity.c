/* SPDX-License-Identifier: Apache-2.0 */
/* Identities, their files and fingerprints; the authorized file. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/secure/authorized.h"
#include "dataplane/secure/identity.h"

#define A "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define B "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef"

static char folder[] = "/tmp/isthmus-test-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/key", folder);
    return 0;
}

static int drop_folder(void **state)
{
    unlink(path);
    return rmdir(folder);
}

static void test_fingerprint_text(void **state)
{
    struct fingerprint f, g;
    char text[FINGERPRINT_TEXT];

    assert_int_equal(fingerprint_parse(A, strlen(A), &f), 0);
    assert_string_equal(fingerprint_format(&f, text), A);
    assert_int_equal(fingerprint_parse(&A[7], 64, &g), 0);
    assert_true(fingerprint_equal(&f, &g));
    assert_int_equal(fingerprint_parse(B, strlen(B), &g), 0);
    assert_false(fingerprint_equal(&f, &g));
    assert_int_equal(fingerprint_parse(A, strlen(A) - 1, &f), -EINVAL);
    assert_int_equal(fingerprint_parse(A "0", strlen(A) + 1, &f), -EINVAL);
    assert_int_equal(fingerprint_parse("sha256:", 7, &f), -EINVAL);
    assert_int_equal(fingerprint_parse("", 0, &f), -EINVAL);
    memcpy(text, A, sizeof A);
    text[20] = 'g';
    assert_int_equal(fingerprint_parse(text, strlen(text), &f), -EINVAL);
}

static void write_file(const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void test_files(void **state)
{
    struct identity *a, *b, *c;
    char err[IDENTITY_ERR], fd_name[16], text[400] = "";
    struct stat st;
    FILE *f;
    int fd;

    assert_int_equal(identity_read(path, &b, err), -ENOENT);
    assert_non_null(strstr(err, "isthmus keygen"));
    assert_int_equal(identity_new(&a), 0);
    assert_int_equal(identity_write(a, path, err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(identity_write(a, path, err), -EEXIST);
    assert_non_null(strstr(err, "never overwritten"));
    assert_int_equal(identity_read(path, &b, err), 0);
    assert_true(fingerprint_equal(identity_fingerprint(a), identity_fingerprint(b)));
    identity_close(b);

    fd = identity_to_fd(a);
    assert_true(fd >= 0);
    snprintf(fd_name, sizeof fd_name, "fd:%d", fd);
    assert_int_equal(identity_read(fd_name, &b, err), 0);
    assert_true(fingerprint_equal(identity_fingerprint(a), identity_fingerprint(b)));
    identity_close(b);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* read once, and nowhere any more */
    assert_int_equal(identity_read(fd_name, &b, err), -EBADF);
    assert_int_equal(identity_read("fd:", &b, err), -EBADF);
    assert_int_equal(identity_read("fd:0x", &b, err), -EBADF);

    assert_int_equal(identity_new(&c), 0);
    assert_false(fingerprint_equal(identity_fingerprint(a), identity_fingerprint(c)));
    identity_close(c);

    f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 200);
    fclose(f);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(identity_read(path, &b, err), -EINVAL);
    assert_non_null(strstr(err, "chmod 600"));
    text[100] ^= 1; /* damaged */
    write_file(text, 0600);
    assert_int_equal(identity_read(path, &b, err), -EINVAL);
    write_file("", 0600);
    assert_int_equal(identity_read(path, &b, err), -EINVAL);
    assert_int_equal(identity_read(folder, &b, err), -EINVAL);
    assert_non_null(strstr(err, "not a regular file"));
    /* A key of another kind: Ed25519, from RFC 8410. */
    write_file("-----BEGIN PRIVATE KEY-----\n"
               "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
               "-----END PRIVATE KEY-----\n",
               0600);
    assert_int_equal(identity_read(path, &b, err), -EINVAL);
    assert_non_null(strstr(err, "P-256"));
    identity_close(a);
    identity_close(NULL);
}

static struct authorized *parse(const char *text, char *err)
{
    struct authorized *a = NULL;

    err[0] = 0;
    (void)authorized_parse(text, strlen(text), "list", &a, err);
    return a;
}

static void test_authorized(void **state)
{
    const struct authorized_peer *p;
    char err[IDENTITY_ERR];
    struct authorized *a;
    struct fingerprint f;

    a = parse("# edges\n\n one " A "\t# the first\r\ntwo-2._x " B "   sessions=3 tokens=100", err);
    assert_non_null(a);
    assert_int_equal(authorized_count(a), 2);
    assert_int_equal(fingerprint_parse(B, strlen(B), &f), 0);
    p = authorized_find(a, &f);
    assert_non_null(p);
    assert_string_equal(p->name, "two-2._x");
    assert_int_equal(p->sessions_max, 3);
    assert_int_equal(p->tokens_max, 100);
    assert_int_equal(fingerprint_parse(A, strlen(A), &f), 0);
    assert_int_equal(authorized_find(a, &f)->sessions_max, 0);
    f.bytes[31] ^= 1;
    assert_null(authorized_find(a, &f));
    authorized_close(a);

    a = parse("one " A " kv=1.5MB rate=2kB/s sessions=1\ntwo " B " rate=250rows/s kv=2000000", err);
    assert_non_null(a);
    assert_int_equal(fingerprint_parse(A, strlen(A), &f), 0);
    p = authorized_find(a, &f);
    assert_int_equal(p->kv_max_bytes, 1500000);
    assert_int_equal(p->rate_bytes, 2000);
    assert_int_equal(p->rate_rows, 0);
    assert_int_equal(fingerprint_parse(B, strlen(B), &f), 0);
    p = authorized_find(a, &f);
    assert_int_equal(p->kv_max_bytes, 2000000);
    assert_int_equal(p->rate_bytes, 0);
    assert_int_equal(p->rate_rows, 250);
    authorized_close(a);
    assert_int_equal(authorized_one(&f, &a), 0);
    assert_non_null(authorized_find(a, &f));
    authorized_close(a);
    authorized_close(NULL);
}

static void test_authorized_errors(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "list: admits nobody"},
        {"# nobody\n", "admits nobody"},
        {"one", "list:1: one has no fingerprint"},
        {"\none sha256:12", "list:2: sha256:12 is no fingerprint"},
        {"one " A "\none " B, "list:2: the name one is there twice"},
        {"one " A "\ntwo " A, "list:2: two has the fingerprint of one"},
        {"on/e " A, "list:1: on/e is no name"},
        {"one " A " session=3", "session=3 is no limit"},
        {"one " A " sessions=", "sessions: must be a whole number"},
        {"one " A " sessions=0", "sessions: must be"},
        {"one " A " sessions=-1", "sessions: must be"},
        {"one " A " sessions=4294967296", "sessions: must be"},
        {"one " A " sessions=99999999999999999999999", "sessions: must be"},
        {"one " A " tokens=1x", "tokens: must be"},
        {"one " A " tokens=1 tokens=2", "tokens is given twice"},
        {"one " A " kv=", "kv: must be a size"},
        {"one " A " kv=0", "kv: must be a size"},
        {"one " A " kv=.5GB", "kv: must be a size"},
        {"one " A " kv=1..5GB", "kv: must be a size"},
        {"one " A " kv=5mb", "kv: must be a size"},
        {"one " A " kv=1e9", "kv: must be a size"},
        {"one " A " kv=99999999999999999999TB", "kv: must be a size"},
        {"one " A " kv=1MB kv=1MB", "kv is given twice"},
        {"one " A " rate=1MB", "rate: must be"},
        {"one " A " rate=/s", "rate: must be"},
        {"one " A " rate=rows/s", "rate: must be"},
        {"one " A " rate=0rows/s", "rate: must be"},
        {"one " A " rate=1.5rows/s", "rate: must be"},
        {"one " A " rate=4294967296rows/s", "rate: must be"},
        {"one " A " rate=1MB/s rate=1rows/s", "rate is given twice"},
        {"one " A " tokens=1 \x01\x80 what", "?? is no limit"},
        {A, "is no name"},
    };
    char err[IDENTITY_ERR];

    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_null(parse(bad[i].text, err));
        if (!strstr(err, bad[i].says))
            fail_msg("%s: %s", bad[i].text, err);
        assert_null(strchr(err, '\n'));
    }
}

static void test_authorized_file(void **state)
{
    char err[IDENTITY_ERR];
    struct authorized *a;

    unlink(path);
    assert_int_equal(authorized_read(path, &a, err), -ENOENT);
    assert_non_null(strstr(err, path));
    assert_int_equal(authorized_read(folder, &a, err), -EINVAL);
    write_file("one " A "\n", 0646);
    assert_int_equal(authorized_read(path, &a, err), -EINVAL);
    assert_non_null(strstr(err, "chmod o-w"));
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(authorized_read(path, &a, err), 0);
    assert_int_equal(authorized_count(a), 1);
    authorized_close(a);
}

/* A full list of 4,096, and one more. */
static void test_authorized_many(void **state)
{
    char *text = malloc(4097 * 96), err[IDENTITY_ERR];
    struct authorized *a;
    size_t n = 0;

    for (unsigned i = 0; i < 4097; i++) {
        if (i == 4096) {
            assert_int_equal(authorized_parse(text, n, "list", &a, err), 0);
            assert_int_equal(authorized_count(a), 4096);
            authorized_close(a);
        }
        n += (size_t)sprintf(text + n, "e%u %064x\n", i, i);
    }
    assert_int_equal(authorized_parse(text, n, "list", &a, err), -EINVAL);
    assert_non_null(strstr(err, "list:4097: more than 4096"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fingerprint_text), cmocka_unit_test(test_files),
        cmocka_unit_test(test_authorized),       cmocka_unit_test(test_authorized_errors),
        cmocka_unit_test(test_authorized_file),  cmocka_unit_test(test_authorized_many),
    };
    secure_memory_open();
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
