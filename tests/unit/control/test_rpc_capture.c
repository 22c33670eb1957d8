/* SPDX-License-Identifier: Apache-2.0 */
/* Capturing a port's frames, by the methods: what is in the file is what went by. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/rpc/capture.h"
#include "dataplane/wire.h"

#define FRAME 200u

static char folder[] = "/tmp/isthmus-test-capture-XXXXXX";
static char beside[64], file[64];

struct rig {
    struct port *a, *b;
    bool a_gone;
    struct capture *capture;
    const struct port_ops *ops; /* of a, while nobody watches */
};

static uint32_t ports(void *arg, struct port **list, uint32_t max)
{
    struct rig *r = arg;
    if (!r->a_gone)
        list[0] = r->a;
    return !r->a_gone;
}

static void open_rig(struct rig *r)
{
    *r = (struct rig){NULL};
    assert_int_equal(port_loop_pair(64, 32, 1500, &r->a, &r->b), 0);
    const struct capture_params p = {ports, r, beside};
    assert_int_equal(capture_open(&p, &r->capture), 0);
    r->ops = r->a->ops;
}

static void close_rig(struct rig *r)
{
    capture_close(r->capture);
    if (!r->a_gone)
        port_close(r->a);
    port_close(r->b);
}

static json_t *call_as(struct rig *r, enum rpc_role role, const char *method, const char *params)
{
    const struct rpc_methods sets[] = {{capture_methods, r->capture}, {NULL, NULL}};
    const struct rpc_table table = {sets, {NULL, NULL}};
    const struct rpc_who who = {role, 1000, 1};
    char line[512];
    snprintf(line, sizeof line, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}",
             method, params);
    char *answer = rpc_answer(&table, &who, line, strlen(line));
    json_t *o = json_loads(answer, 0, NULL);
    free(answer);
    assert_non_null(o);
    return o;
}

static int64_t number(const json_t *answer, const char *name)
{
    return json_integer_value(json_object_get(json_object_get(answer, "result"), name));
}

static void assert_code(json_t *answer, int code)
{
    assert_int_equal(json_integer_value(json_object_get(json_object_get(answer, "error"), "code")),
                     code);
    json_decref(answer);
}

/* n frames each way; the i-th holds its number everywhere. */
static void traffic(struct rig *r, unsigned n)
{
    struct port *from[] = {r->a, r->b}, *to[] = {r->b, r->a};
    for (unsigned i = 0; i < 2 * n; i++) {
        struct pkt *p = pkt_alloc(from[i % 2]->pool), *got;
        memset(p->data, (int)i, FRAME);
        p->len = FRAME;
        assert_int_equal(port_tx(from[i % 2], &p, 1), 1);
        pkt_unref(p);
        assert_int_equal(port_rx(to[i % 2], &got, 1), 1);
        pkt_unref(got);
    }
}

/* --- the file, read back -------------------------------------------------------------------------
 */

struct read_back {
    unsigned interfaces, packets, sent, statistics;
    uint32_t kept, frame;
    uint64_t received, dropped;
};

static uint32_t u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static struct read_back read_back(const char *path)
{
    static uint8_t bytes[1 << 20];
    struct read_back r = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n >= 28 && u32(bytes) == 0x0a0d0d0a && u32(bytes + 8) == 0x1a2b3c4d);
    for (size_t at = 0; at < n;) {
        const uint8_t *b = bytes + at;
        const uint32_t type = u32(b), len = u32(b + 4);
        assert_true(len >= 12 && len % 4 == 0 && len <= n - at);
        assert_int_equal(u32(b + len - 4), len);
        if (type == 1)
            r.interfaces++;
        if (type == 6) {
            assert_true(u32(b + 8) < r.interfaces);
            r.kept = u32(b + 20);
            r.frame = u32(b + 24);
            assert_true(r.kept <= r.frame);
            for (uint32_t i = 0; i < r.kept; i++) /* one frame after the other, nothing mixed up */
                assert_int_equal(b[28 + i], r.packets);
            const uint8_t *options = b + 28 + (r.kept + 3) / 4 * 4;
            assert_int_equal(u32(options), 2 | 4u << 16);
            r.sent += u32(options + 4) == 2;
            r.packets++;
        }
        if (type == 5) {
            r.statistics++;
            r.received += u32(b + 24);
            r.dropped += u32(b + 36);
        }
        at += len;
    }
    return r;
}

/* --- tests ---------------------------------------------------------------------------------------
 */

static void headers_and_whole(void **state)
{
    for (int whole = 0; whole < 2; whole++) {
        struct rig r;
        char params[160];
        open_rig(&r);
        traffic(&r, 1); /* nobody watches */
        snprintf(params, sizeof params, "{\"path\":\"%s\",\"whole\":%s}", file,
                 whole ? "true" : "false");
        json_t *o = call_as(&r, RPC_ADMIN, "capture.start", params);
        assert_true(json_is_true(json_object_get(json_object_get(o, "result"), "running")));
        json_decref(o);
        assert_true(r.a->ops != r.ops);
        traffic(&r, 10);
        assert_code(call_as(&r, RPC_ADMIN, "capture.start", "{}"), RPC_NOT_NOW);
        o = call_as(&r, RPC_ADMIN, "capture.stop", "{}");
        assert_int_equal(number(o, "packets"), 20);
        assert_int_equal(number(o, "dropped"), 0);
        json_decref(o);
        assert_ptr_equal(r.a->ops, r.ops); /* as before: nothing is paid any more */
        traffic(&r, 1);
        const struct read_back b = read_back(file);
        assert_int_equal(b.interfaces, 1);
        assert_int_equal(b.packets, 20);
        assert_int_equal(b.sent, 10);
        assert_int_equal(b.kept, whole ? FRAME : WIRE_PAYLOAD_AT);
        assert_int_equal(b.frame, FRAME);
        assert_int_equal(b.statistics, 1);
        assert_int_equal(b.received, 20);
        assert_int_equal(b.dropped, 0);
        assert_int_equal(unlink(file), 0);
        close_rig(&r);
    }
}

static void who_may(void **state)
{
    struct rig r;
    char params[128];
    open_rig(&r);
    assert_code(call_as(&r, RPC_USER, "capture.start", "{}"), RPC_NOT_ALLOWED);
    assert_code(call_as(&r, RPC_OPERATOR, "capture.start", "{\"whole\":true}"), RPC_NOT_ALLOWED);
    /* Files anywhere where the process may write are not an operator's to make. */
    assert_code(call_as(&r, RPC_OPERATOR, "capture.start", "{\"path\":\"/tmp/here\"}"),
                RPC_NOT_ALLOWED);
    assert_code(call_as(&r, RPC_ADMIN, "capture.start", "{\"path\":\"here\"}"), RPC_INVALID_PARAMS);
    assert_code(call_as(&r, RPC_OPERATOR, "capture.stop", "{}"), RPC_NOT_NOW);

    /* What is there stays, and is not followed. */
    FILE *f = fopen(file, "w");
    fclose(f);
    snprintf(params, sizeof params, "{\"path\":\"%s\"}", file);
    assert_code(call_as(&r, RPC_ADMIN, "capture.start", params), RPC_INVALID_PARAMS);
    unlink(file);
    assert_int_equal(symlink("/dev/null", file), 0);
    assert_code(call_as(&r, RPC_ADMIN, "capture.start", params), RPC_INVALID_PARAMS);
    unlink(file);
    close_rig(&r);
}

/* Its limits end it, and the file is whole. */
static void limits(void **state)
{
    static const char *const limit[] = {"\"packets\":7", "\"bytes\":1000", "\"seconds\":0.001"};
    for (unsigned i = 0; i < 3; i++) {
        struct rig r;
        const struct rpc_hop here = {NULL, NULL};
        char params[160];
        open_rig(&r);
        snprintf(params, sizeof params, "{\"path\":\"%s\",%s}", file, limit[i]);
        json_decref(call_as(&r, RPC_ADMIN, "capture.start", params));
        traffic(&r, 10);
        usleep(2000);
        assert_true(capture_tick(r.capture, &here) == UINT64_MAX);
        assert_ptr_equal(r.a->ops, r.ops);
        json_t *o = call_as(&r, RPC_USER, "capture.status", "{}");
        const json_t *result = json_object_get(o, "result");
        assert_true(json_is_false(json_object_get(result, "running")));
        assert_non_null(
            strstr(json_string_value(json_object_get(result, "ended")), i < 2 ? "limit" : "time"));
        json_decref(o);
        const struct read_back b = read_back(file);
        assert_int_equal(b.statistics, 1);
        assert_true(i == 0   ? b.packets == 7
                    : i == 1 ? b.packets > 0 && b.packets < 20
                             : b.packets == 20);
        unlink(file);
        close_rig(&r);
    }
}

/* A port that is closed meanwhile, and one that comes in its place. */
static void ports_come_and_go(void **state)
{
    struct rig r;
    const struct rpc_hop here = {NULL, NULL};
    char params[128];
    open_rig(&r);
    snprintf(params, sizeof params, "{\"path\":\"%s\"}", file);
    json_decref(call_as(&r, RPC_ADMIN, "capture.start", params));
    traffic(&r, 2);
    port_close(r.a);
    port_close(r.b);
    r.a_gone = true;
    assert_true(capture_tick(r.capture, &here) < UINT64_MAX);
    assert_int_equal(port_loop_pair(64, 32, 1500, &r.a, &r.b), 0);
    r.a_gone = false;
    assert_true(capture_tick(r.capture, &here) < UINT64_MAX);
    struct port *from = r.a;
    for (int i = 4; i < 9; i++) { /* their numbers go on */
        struct pkt *p = pkt_alloc(from->pool), *got;
        memset(p->data, i, FRAME);
        p->len = FRAME;
        assert_int_equal(port_tx(from, &p, 1), 1);
        pkt_unref(p);
        assert_int_equal(port_rx(r.b, &got, 1), 1);
        pkt_unref(got);
    }
    close_rig(&r); /* while it runs */
    const struct read_back b = read_back(file);
    assert_int_equal(b.interfaces, 2);
    assert_int_equal(b.packets, 9);
    assert_int_equal(b.statistics, 2);
    unlink(file);
}

/* More than the ring holds between two looks of the socket's thread: counted, in the file too. */
static void too_fast(void **state)
{
    struct rig r;
    char params[128];
    open_rig(&r);
    snprintf(params, sizeof params, "{\"path\":\"%s\",\"whole\":true}", file);
    json_decref(call_as(&r, RPC_ADMIN, "capture.start", params));
    for (int i = 0; i < 200; i++)
        traffic(&r, 100);
    json_t *o = call_as(&r, RPC_ADMIN, "capture.stop", "{}");
    const int64_t kept = number(o, "packets"), dropped = number(o, "dropped");
    assert_true(dropped > 0);
    assert_int_equal(kept + dropped, 40000);
    json_decref(o);
    unlink(file);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_and_whole), cmocka_unit_test(who_may),  cmocka_unit_test(limits),
        cmocka_unit_test(ports_come_and_go), cmocka_unit_test(too_fast),
    };
    if (!mkdtemp(folder))
        return 1;
    snprintf(beside, sizeof beside, "%s/control.sock", folder);
    snprintf(file, sizeof file, "%s/x.pcapng", folder);
    const int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return rc;
}
