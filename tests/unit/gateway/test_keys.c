/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/gateway/keys.h"

#define ALICE "sk-0123456789abcdef"
#define BOB   "sk-fedcba9876543210"

static const char *find(const struct api_keys *k, const char *key)
{
    return api_keys_find(k, key, strlen(key));
}

static void test_parse(void **state)
{
    static const char text[] = "# who may ask\n\nalice " ALICE "\n  bob\t" BOB "  # a comment\r\n";
    struct api_keys *k;
    char err[API_KEYS_ERR];
    (void)state;
    assert_int_equal(api_keys_parse(text, strlen(text), &k, err), 0);
    assert_string_equal(find(k, ALICE), "alice");
    assert_string_equal(find(k, BOB), "bob");
    assert_null(find(k, ""));
    assert_null(find(k, "sk-0123456789abcdeg"));
    assert_null(find(k, ALICE "0"));
    assert_null(find(k, "alice"));
    api_keys_free(k);
}

static void refuse(const char *text, const char *words)
{
    struct api_keys *k;
    char err[API_KEYS_ERR];
    assert_int_equal(api_keys_parse(text, strlen(text), &k, err), -EBADMSG);
    if (!strstr(err, words) || strstr(err, "sk-"))
        fail_msg("\"%s\" must have \"%s\", and no key", err, words);
}

static void test_refused(void **state)
{
    (void)state;
    refuse("", "no key");
    refuse("# nothing\n", "no key");
    refuse("alice " ALICE "\nbob\n", "line 2");
    refuse("alice sk-short\n", "16 to 256");
    refuse("alice " ALICE "\n# one\nalice " BOB "\n", "line 3: this name is there already");
    refuse("alice " ALICE "\nbob " ALICE "\n", "line 2: this key is another name's already");
    refuse("alice " ALICE " " BOB "\n", "NAME KEY");
    refuse("al\x01ice " ALICE "\n", "name");
    refuse("a234567890123456789012345678901234567890123456789 " ALICE "\n", "name");
}

static void test_file(void **state)
{
    char path[] = "/tmp/isthmus-test-keys-XXXXXX", err[API_KEYS_ERR];
    struct api_keys *k;
    const int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(dprintf(fd, "alice %s\n", ALICE), 26);
    close(fd);
    assert_int_equal(api_keys_read(path, &k, err), 0);
    assert_string_equal(find(k, ALICE), "alice");
    api_keys_free(k);
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(api_keys_read(path, &k, err), 0);
    api_keys_free(k);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(api_keys_read(path, &k, err), -EACCES);
    assert_non_null(strstr(err, "others"));
    unlink(path);
    assert_int_equal(api_keys_read(path, &k, err), -ENOENT);
    /* Nobody waits for its writer. */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(api_keys_read(path, &k, err), -EBADMSG);
    assert_non_null(strstr(err, "is no file"));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
