/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of workers as text, and the file that is watched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/fleet/registry.h"

#define PRINT "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_a_line(void **state)
{
    const char *text =
        "w1 udp:10.0.0.1:7300 " PRINT " model=0aFF split=10 codec=2 numerics=1a drain # x";
    char err[WORKERS_ERR], line[WORKER_LINE];
    struct worker w, again;
    (void)state;
    assert_int_equal(worker_parse(text, strlen(text), "f:1", &w, err), 1);
    assert_string_equal(w.name, "w1");
    assert_string_equal(w.port, "udp:10.0.0.1:7300");
    assert_true(w.has_peer && w.draining);
    assert_int_equal(w.peer.bytes[1], 0x11);
    assert_string_equal(w.model, "0aff");
    assert_int_equal(w.split, 10);
    assert_int_equal(w.codec_id, 2);
    assert_int_equal(w.numerics_id, 0x1a);

    worker_format(&w, line);
    assert_string_equal(line, "w1 udp:10.0.0.1:7300 " PRINT
                              " model=0aff split=10 codec=2 numerics=1a drain");
    assert_int_equal(worker_parse(line, strlen(line), "f:1", &again, err), 1);
    assert_memory_equal(&w, &again, sizeof w);
    again.draining = false;
    assert_true(worker_same(&w, &again));
    again.split = 11;
    assert_false(worker_same(&w, &again));
}

static void test_wrong_lines(void **state)
{
    static const struct {
        const char *text, *why;
    } wrong[] = {
        {"w1", "has no port"},
        {"w1 tcp:10.0.0.1:7300", "tcp:"},
        {"w1 udp:*:7300", "where a cloud listens"},
        {"w/1 udp:10.0.0.1:7300", "is no name"},
        {"\x80 udp:10.0.0.1:7300", "is no name"},
        {"w1 udp:10.0.0.1:7300 sha256:12", "nothing that a worker has"},
        {"w1 udp:10.0.0.1:7300 " PRINT " " PRINT, "nothing that a worker has"},
        {"w1 udp:10.0.0.1:7300 draining", "nothing that a worker has"},
        {"w1 udp:10.0.0.1:7300 split=0", "split="},
        {"w1 udp:10.0.0.1:7300 split=-1", "split="},
        {"w1 udp:10.0.0.1:7300 split=99999999999999999999", "split="},
        {"w1 udp:10.0.0.1:7300 model=xyz", "model="},
        {"w1 udp:10.0.0.1:7300 numerics=123456789", "numerics="},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char err[WORKERS_ERR] = "";
        struct worker w;
        assert_int_equal(worker_parse(wrong[i].text, strlen(wrong[i].text), "f:7", &w, err), -22);
        if (!strstr(err, wrong[i].why) || strncmp(err, "f:7: ", 5) != 0)
            fail_msg("%s: %s", wrong[i].text, err);
    }
    char err[WORKERS_ERR], with_zero[] = "w1 udp:1.2.3.4:1 drain";
    struct worker w;
    with_zero[8] = '\0';
    assert_int_equal(worker_parse(with_zero, sizeof with_zero - 1, "f:7", &w, err), -22);
    assert_int_equal(worker_parse(" \t# only", 8, "f", &w, err), 0);
    assert_int_equal(worker_parse("", 0, "f", &w, err), 0);
}

static void test_lists(void **state)
{
    const char *good = "# workers\nb udp:10.0.0.2:1\n\na udp:10.0.0.1:1\r\nc memif:/tmp/x";
    const char *twice = "a udp:10.0.0.1:1\nb udp:10.0.0.2:1\na udp:10.0.0.3:1\n";
    char err[WORKERS_ERR];
    struct workers w;
    (void)state;
    assert_int_equal(workers_parse(good, strlen(good), "f", &w, err), 0);
    assert_int_equal(w.n, 3);
    assert_string_equal(w.list[0].name, "a");
    assert_string_equal(w.list[2].name, "c");
    assert_non_null(workers_find(&w, "b"));
    assert_null(workers_find(&w, "d"));
    workers_free(&w);
    assert_int_equal(workers_parse(twice, strlen(twice), "f", &w, err), -22);
    assert_string_equal(err, "f:3: the name a is there twice");
    assert_int_equal(w.n, 0);
    assert_int_equal(workers_parse("", 0, "f", &w, err), 0);

    char *many = malloc((WORKERS_MAX + 1) * 32), *at = many;
    for (unsigned i = 0; i <= WORKERS_MAX; i++)
        at += sprintf(at, "w%u udp:10.0.0.1:%u\n", i, i + 1);
    assert_int_equal(workers_parse(many, (size_t)(at - many), "f", &w, err), -22);
    assert_string_equal(err, "f:4097: more than 4096 workers");
    *strrchr(many, 'w') = '\0';
    assert_int_equal(workers_parse(many, strlen(many), "f", &w, err), 0);
    assert_int_equal(w.n, WORKERS_MAX);
    workers_free(&w);
    free(many);
}

/* --- the file
 * ------------------------------------------------------------------------------------- */

static char path[] = "/tmp/isthmus-workers-XXXXXX";

/* As it should be replaced: by another. */
static void put(const char *text)
{
    char other[64];
    snprintf(other, sizeof other, "%s.new", path);
    FILE *f = fopen(other, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(rename(other, path), 0);
}

static bool news(struct registry *r, int ms, struct workers *w)
{
    struct pollfd p = {.fd = registry_fd(r), .events = POLLIN};
    return poll(&p, 1, ms) == 1 && registry_poll(r, w);
}

static void test_a_file(void **state)
{
    char where[64], err[WORKERS_ERR];
    struct registry *r;
    struct workers w;
    (void)state;
    close(mkstemp(path));
    snprintf(where, sizeof where, "file:%s", path);
    put("a udp:10.0.0.1:1 nonsense\n");
    assert_int_equal(registry_open(where, &r, err), -22);
    assert_non_null(strstr(err, ":1: nonsense is nothing"));
    put("a udp:10.0.0.1:1\n");
    assert_int_equal(registry_open(where, &r, err), 0);
    assert_true(news(r, 0, &w)); /* at once: it was read */
    assert_int_equal(w.n, 1);
    workers_free(&w);
    assert_false(news(r, 0, &w));

    put("a udp:10.0.0.1:1 drain\nb udp:10.0.0.2:1\n");
    assert_true(news(r, 60000, &w));
    assert_int_equal(w.n, 2);
    assert_true(w.list[0].draining && !w.list[1].draining);
    workers_free(&w);
    put("b udp:\n"); /* wrong, then none, then gone: the list stays */
    assert_false(news(r, 1200, &w));
    put("# none\n");
    assert_false(news(r, 1200, &w));
    unlink(path);
    assert_false(news(r, 1200, &w));
    put("b udp:10.0.0.2:1\n");
    assert_true(news(r, 60000, &w));
    assert_int_equal(w.n, 1);
    workers_free(&w);
    registry_close(r);
    unlink(path);
    assert_int_equal(registry_open(where, &r, err), -2);
}

static void test_no_registry(void **state)
{
    static const char *const wrong[] = {"",
                                        "w1",
                                        "dns:x",
                                        "srv:",
                                        "srv:a b",
                                        "srv:x@name",
                                        "srv:x@127.0.0.1:0",
                                        "srv:x@127.0.0.1:70000",
                                        "etcd:",
                                        "etcd:127.0.0.1:2379/x",
                                        "etcd:http://127.0.0.1:2379",
                                        "etcd:http://127.0.0.1:2379/",
                                        "etcd:http:///x",
                                        "etcd:http://a,b/x",
                                        "etcd:http://a?b/x"};
    char err[WORKERS_ERR];
    struct registry *r;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        *err = '\0';
        if (registry_open(wrong[i], &r, err) != -22 || !*err || strchr(err, '\n'))
            fail_msg("%s: %s", wrong[i], err);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_line),      cmocka_unit_test(test_wrong_lines),
        cmocka_unit_test(test_lists),       cmocka_unit_test(test_a_file),
        cmocka_unit_test(test_no_registry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
