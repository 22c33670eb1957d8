/* SPDX-License-Identifier: Apache-2.0 */
/* What etcd is asked and answers, as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/fleet/etcd_json.h"

/* "/f/w1", "w1 udp:10.0.0.1:1"; "/f/w2", "w2 udp:10.0.0.2:1 drain" */
#define KEY1   "L2Yvdw" /* and "MQ==" or "Mg==" for the digit */
#define VALUE1 "dzEgdWRwOjEwLjAuMC4xOjE="
#define VALUE2 "dzIgdWRwOjEwLjAuMC4yOjEgZHJhaW4="

static void test_requests(void **state)
{
    (void)state;
    char *text = etcd_range_body("/f/");
    assert_string_equal(text, "{\"key\":\"L2Yv\",\"range_end\":\"L2Yw\",\"limit\":4096}");
    free(text);
    text = etcd_watch_body("/f/", "12");
    assert_string_equal(text, "{\"create_request\":{\"key\":\"L2Yv\",\"range_end\":\"L2Yw\","
                              "\"start_revision\":\"12\"}}");
    free(text);
    text = etcd_grant_body(2);
    assert_string_equal(text, "{\"TTL\":2,\"ID\":0}");
    free(text);
    text = etcd_put_body("/f/w1", "w1 udp:10.0.0.1:1", "77");
    assert_string_equal(text, "{\"key\":\"L2YvdzE=\",\"value\":\"" VALUE1 "\",\"lease\":\"77\"}");
    free(text);
    text = etcd_lease_body("77");
    assert_string_equal(text, "{\"ID\":\"77\"}");
    free(text);
}

static int range(const char *text, struct workers *w, unsigned *n_bad, char *err)
{
    char revision[ETCD_NUMBER] = "";
    const int rc = etcd_parse_range(text, strlen(text), "/f/", w, revision, n_bad, err);
    if (rc == 0)
        assert_string_equal(revision, "13");
    return rc;
}

static void test_a_range(void **state)
{
    char err[WORKERS_ERR];
    struct workers w;
    unsigned n_bad;
    (void)state;
    assert_int_equal(range("{\"header\":{\"revision\":\"12\"},\"kvs\":["
                           "{\"key\":\"L2YvdzI=\",\"value\":\"" VALUE2 "\"},"
                           "{\"key\":\"L2YvdzE=\",\"value\":\"" VALUE1
                           "\",\"lease\":\"5\"}],\"count\":\"2\"}",
                           &w, &n_bad, err),
                     0);
    assert_int_equal(w.n, 2);
    assert_int_equal(n_bad, 0);
    assert_string_equal(w.list[0].port, "udp:10.0.0.1:1");
    assert_true(w.list[1].draining);
    workers_free(&w);
    assert_int_equal(range("{\"header\":{\"revision\":\"12\"}}", &w, &n_bad, err), 0);
    assert_int_equal(w.n, 0);
}

static void test_bad_entries(void **state)
{
    static const char *const entries[] = {
        "7",
        "{}",
        "{\"key\":\"L2YvdzE=\"}",
        "{\"key\":\"L2YvdzE=\",\"value\":\"!!!!\"}",
        "{\"key\":\"L2YvdzE=\",\"value\":\"" VALUE2 "\"}", /* another's line */
        "{\"key\":\"L2cvdzE=\",\"value\":\"" VALUE1 "\"}", /* another's prefix */
        "{\"key\":\"L2Yv\",\"value\":\"" VALUE1 "\"}",
        "{\"key\":\"L2Yvd\",\"value\":\"" VALUE1 "\"}",
        "{\"key\":\"L2YvdzE=\",\"value\":\"AAAA\"}",
        "{\"key\":\"L2YvdzE=\",\"value\":\"\"}",
        "{\"key\":\"L2YvAAAA\",\"value\":\"" VALUE1 "\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        char text[512], err[WORKERS_ERR];
        struct workers w;
        unsigned n_bad;
        snprintf(text, sizeof text,
                 "{\"header\":{\"revision\":\"12\"},\"kvs\":[%s,{\"key\":\"L2YvdzI=\",\"value\":"
                 "\"" VALUE2 "\"}]}",
                 entries[i]);
        assert_int_equal(range(text, &w, &n_bad, err), 0);
        if (w.n != 1 || n_bad != 1 || !*err)
            fail_msg("%s: %zu workers, %u bad: %s", entries[i], w.n, n_bad, err);
        workers_free(&w);
    }
}

static void test_no_range(void **state)
{
    static const char *const wrong[] = {
        "",
        "7",
        "[]",
        "{",
        "{\"header\":{}}",
        "{\"header\":{\"revision\":12}}",
        "{\"header\":{\"revision\":\"-1\"}}",
        "{\"header\":{\"revision\":\"99999999999999999999999999\"}}",
        "{\"header\":{\"revision\":\"12\"},\"kvs\":{}}",
        "{\"error\":\"etcdserver: request timed out\",\"code\":14}",
    };
    char err[WORKERS_ERR];
    struct workers w;
    unsigned n_bad;
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(range(wrong[i], &w, &n_bad, err), -22);
        assert_true(*err != '\0');
    }
    assert_string_equal(err, "etcdserver: request timed out");
}

static enum etcd_watch watch(const char *text)
{
    return etcd_parse_watch(text, strlen(text));
}

static void test_streams(void **state)
{
    char lease[ETCD_NUMBER], err[WORKERS_ERR];
    (void)state;
    assert_int_equal(watch("{\"result\":{\"header\":{},\"created\":true}}"), ETCD_NOTHING_NEW);
    assert_int_equal(watch("{\"result\":{\"events\":[{\"type\":\"DELETE\",\"kv\":{}}]}}"),
                     ETCD_CHANGED);
    assert_int_equal(watch("{\"result\":{\"canceled\":true,\"compact_revision\":\"9\"}}"),
                     ETCD_WATCH_OVER);
    assert_int_equal(watch("{\"error\":{\"message\":\"x\"}}"), ETCD_WATCH_OVER);
    assert_int_equal(watch("{"), ETCD_WATCH_OVER);

    const char *granted = "{\"header\":{},\"ID\":\"7587\",\"TTL\":\"2\"}";
    assert_int_equal(etcd_parse_grant(granted, strlen(granted), lease, err), 0);
    assert_string_equal(lease, "7587");
    assert_int_equal(etcd_parse_grant("{\"ID\":7}", 8, lease, err), -22);
    const char *alive = "{\"result\":{\"header\":{},\"ID\":\"7587\",\"TTL\":\"2\"}}\n";
    assert_true(etcd_parse_keepalive(alive, strlen(alive)));
    assert_false(etcd_parse_keepalive("{\"result\":{\"ID\":\"7587\"}}", 25));
    assert_int_equal(etcd_parse_done("{\"header\":{}}", 13, err), 0);
    const char *no = "{\"error\":\"etcdserver: requested lease not found\"}";
    assert_int_equal(etcd_parse_done(no, strlen(no), err), -22);
    assert_string_equal(err, "etcdserver: requested lease not found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),    cmocka_unit_test(test_a_range),
        cmocka_unit_test(test_bad_entries), cmocka_unit_test(test_no_range),
        cmocka_unit_test(test_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
