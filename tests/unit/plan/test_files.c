/* SPDX-License-Identifier: Apache-2.0 */
/* Profiles, tables and a link's text: written and read again, and what is wrong with others. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models.h"

static void host_again(void **state)
{
    struct plan_model m;
    struct plan_host h, again;
    char err[PLAN_ERR] = "";

    made_model(6, &m);
    made_host(&m, 1.25e-3, &h);
    char *text = plan_host_format(&h);
    assert_non_null(text);
    assert_int_equal(plan_host_parse(text, strlen(text), "p", &again, err), 0);
    char *twice = plan_host_format(&again);
    assert_string_equal(text, twice);
    assert_string_equal(again.host, "made up");
    assert_int_equal(again.n_stages, 2);
    for (unsigned s = 0; s < PLAN_SCHEMES; s++)
        assert_true(fabs(again.scheme_s[s][2] - h.scheme_s[s][2]) <= h.scheme_s[s][2] * 1e-5);
    assert_true(again.scheme_s[PLAN_SQ3][0] > 0 && again.scheme_s[PLAN_SQ2][0] == 0);
    assert_int_equal(plan_host_check(&again, "p", &m, NULL, err), 0);
    assert_int_equal(plan_host_check(&again, "p", &m, &h, err), 0);
    free(twice);
    free(text);
    plan_model_free(&m);
}

/* Another machine, version, model: refused by name; a remote one may be another machine. */
static void whose(void **state)
{
    struct plan_model m;
    struct plan_host h, here;
    char err[PLAN_ERR] = "";

    made_model(6, &m);
    made_host(&m, 1e-3, &h);
    here = h;
    snprintf(here.cpu, sizeof here.cpu, "another processor");
    assert_int_equal(plan_host_check(&h, "p.json", &m, NULL, err), 0);
    assert_int_equal(plan_host_check(&h, "p.json", &m, &here, err), -EINVAL);
    assert_non_null(strstr(err, "p.json"));
    assert_non_null(strstr(err, "another processor"));
    here = h;
    snprintf(here.version, sizeof here.version, "2");
    assert_int_equal(plan_host_check(&h, "p.json", &m, &here, err), -EINVAL);
    assert_non_null(strstr(err, "version"));
    h.model[0] = 'f';
    assert_int_equal(plan_host_check(&h, "p.json", &m, NULL, err), -EINVAL);
    assert_non_null(strstr(err, "another model"));
    plan_model_free(&m);
}

/* Text of a good profile with one thing changed. */
static void refuse(const char *good, const char *what, const char *by, const char *says)
{
    char text[16384], err[PLAN_ERR] = "";
    const char *at = strstr(good, what);
    struct plan_host h;

    if (!at)
        fail_msg("the profile has no %s", what);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, by, at + strlen(what));
    assert_int_equal(plan_host_parse(text, strlen(text), "p.json", &h, err), -EBADMSG);
    if (!strstr(err, says) || !strstr(err, "p.json") || strchr(err, '\n'))
        fail_msg("%s -> %s: %s", what, by, err);
}

static void bad_hosts(void **state)
{
    struct plan_model m;
    struct plan_host h;
    char err[PLAN_ERR] = "";

    made_model(6, &m);
    made_host(&m, 1e-3, &h);
    char *good = plan_host_format(&h);
    refuse(good, "\"format\": 2", "\"format\": 1", "version 1");
    refuse(good, "isthmus-host-profile", "isthmus-link-profile", "kind");
    refuse(good, "\"threads\": 4", "\"threads\": 0", "threads");
    refuse(good, "\"threads\": 4", "\"threads\": -1", "threads");
    refuse(good, "\"beside\": 1", "\"beside\": 0", "beside");
    refuse(good, "\"layers\": 6", "\"layers\": 3", "rise");
    refuse(good, "\"Q8_0\"", "\"Q8_9\"", "types");
    refuse(good, "\"sq3\"", "\"sq5\"", "schemes");
    refuse(good, "\"sq3\"", "\"Q4_0\"", "schemes"); /* a type */
    refuse(good, "\"schemes\"", "\"skemes\"", "schemes");
    refuse(good, "\"made up\"", "\"made\\nup\"", "control");
    refuse(good, "\"rows\"", "\"ranks\"", "rows");
    refuse(good, "\"rested_s\"", "\"rest\"", "rested_s");
    refuse(good, "\"attend\"", "\"atend\"", "attend");
    refuse(good, "{", "[", "line");
    for (size_t len = 0; len + 2 < strlen(good); len += 37)
        assert_int_equal(plan_host_parse(good, len, "p", &h, err), -EBADMSG);
    free(good);
    plan_model_free(&m);
}

/* What others on the machine held up takes no longer than more rows did. */
static void held_up(void **state)
{
    double s[] = {5, 2, 3, 9, 8}, one[] = {1};

    (void)state;
    plan_trim_steps(s, 5);
    const double want[] = {2, 2, 3, 8, 8};
    assert_memory_equal(s, want, sizeof want);
    plan_trim_steps(one, 1);
    assert_true(one[0] == 1);
    plan_trim_steps(NULL, 0);
}

static void links(void **state)
{
    static const char *const bad[] = {
        "",
        "rate=4mbit",
        "rtt=20ms",
        "rate=4,rtt=20ms",
        "rate=4mbit,rtt=20",
        "rate=4 mbit,rtt=20ms",
        "rate=4mbit,rtt=20ms,loss=95%",
        "rate=4mbit,rate=5mbit,rtt=1ms",
        "rate=-4mbit,rtt=1ms",
        "rate=0x10mbit,rtt=1ms",
        "rate=infmbit,rtt=1ms",
        "rate=4mbit,rtt=1ms,colour=red",
        "rate=4mbit,rtt=1h",
        "rate=4mbit,rtt=1ms\n\x1b[2J",
        "rate=4mbit;rtt=1ms",
    };
    struct plan_link l, again;
    char err[PLAN_ERR];

    assert_int_equal(plan_link_arg("rate=4mbit,rtt=20ms", &l, err), 0);
    assert_true(l.up_bits_per_s == 4e6 && l.down_bits_per_s == 4e6 && l.loss == 0);
    assert_true(l.rtt_s > .0199999 && l.rtt_s < .0200001);
    assert_int_equal(plan_link_arg("rtt=.5s,down=1gbit,loss=1%,rate=2.5kbit,mtu=9000", &l, err), 0);
    assert_true(l.up_bits_per_s == 2500 && l.down_bits_per_s == 1e9 && l.mtu_bytes == 9000);
    strcpy(l.host, "here");
    strcpy(l.version, "3");
    strcpy(l.commit, "abc");
    char *text = plan_link_format(&l);
    assert_int_equal(plan_link_parse(text, strlen(text), "l", &again, err), 0);
    assert_true(again.loss > .0099 && again.loss < .0101 && again.rtt_s == .5);
    assert_string_equal(again.commit, "abc");
    struct plan_host us = {.host = "here", .version = "3"};
    assert_int_equal(plan_link_check(&again, "l.json", &us, err), 0);
    strcpy(us.version, "4");
    assert_int_equal(plan_link_check(&again, "l.json", &us, err), -EINVAL);
    assert_true(strstr(err, "l.json") && strstr(err, "version"));
    strcpy(us.host, "there");
    assert_int_equal(plan_link_check(&again, "l.json", &us, err), -EINVAL);
    assert_non_null(strstr(err, "its host is \"here\""));
    char *old = strstr(text, "\"format\": 2");
    assert_non_null(old);
    old[strlen("\"format\": ")] = '1';
    assert_int_equal(plan_link_parse(text, strlen(text), "l.json", &again, err), -EBADMSG);
    assert_non_null(strstr(err, "version 1"));
    free(text);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        err[0] = 0;
        assert_int_equal(plan_link_arg(bad[i], &l, err), -EINVAL);
        assert_true(err[0] && !strchr(err, '\n'));
    }
    assert_true(plan_link_is_arg("rate=1mbit,rtt=1ms") && !plan_link_is_arg("link.json"));
}

static const char table[] =
    "{\"kind\": \"isthmus-quality-table\", \"format\": 1,"
    " \"model\": \"00112233445566778899aabbccddeeff\", \"text\": \"t, windows 0-3\", \"codecs\": ["
    "{\"codec\": \"tsq\", \"profile\": null, \"split\": 2, \"kl\": 0.01, \"decode_bytes\": 110,"
    " \"prefill_bytes\": 100},"
    "{\"codec\": \"tsq\", \"profile\": null, \"split\": 4, \"kl\": 0.004, \"decode_bytes\": 130,"
    " \"prefill_bytes\": 120},"
    "{\"codec\": \"xform\", \"profile\": \"p\", \"split\": 4, \"kl\": 0.002, \"decode_bytes\": 80,"
    " \"prefill_bytes\": 70}],"
    " \"kv\": [{\"kv\": \"q8\", \"kl\": 0.001}],"
    " \"schemes\": [{\"stage\": \"front\", \"scheme\": \"sq3\", \"split\": 2, \"kl\": 0.1},"
    "{\"stage\": \"front\", \"scheme\": \"sq3\", \"split\": 4, \"kl\": 0.2}],"
    " \"schemes_calibration\": \"p32 0123456789abcdef (windows 60-91)\"}";

static void quality(void **state)
{
    struct plan_quality *q = malloc(sizeof(*q));
    struct plan_codec_point p;
    struct plan_model m;
    char err[PLAN_ERR], text[2048];
    double kl;

    made_model(6, &m);
    assert_int_equal(plan_quality_parse(table, strlen(table), "t", &m, q, err), 0);
    assert_int_equal(q->n_codecs, 3);
    assert_string_equal(q->calibration, "p32 0123456789abcdef (windows 60-91)");
    assert_int_equal(plan_quality_codec(&q->codecs[0], 5, &p), 0); /* f32, without being there */
    assert_true(p.kl == 0 && p.decode_bytes >= 4 * 4096);
    assert_int_equal(plan_quality_codec(&q->codecs[1], 2, &p), 0);
    assert_true(p.kl == .01 && p.prefill_bytes == 100);
    assert_int_equal(plan_quality_codec(&q->codecs[1], 3, &p), 0); /* the worse of both sides */
    assert_true(p.kl == .01 && p.decode_bytes == 130 && p.split == 3);
    assert_int_equal(plan_quality_codec(&q->codecs[1], 1, &p), -ENOENT);
    assert_int_equal(plan_quality_codec(&q->codecs[1], 5, &p), -ENOENT);
    assert_int_equal(plan_quality_codec(&q->codecs[2], 4, &p), 0);
    assert_int_equal(plan_quality_codec(&q->codecs[2], 3, &p), -ENOENT); /* a profile's split */
    assert_int_equal(plan_quality_scheme(q, PLAN_FRONT, PLAN_SQ3, 3, &kl), 0);
    assert_true(kl == .2);
    assert_int_equal(plan_quality_scheme(q, PLAN_BACK, PLAN_SQ3, 3, &kl), -ENOENT);
    assert_int_equal(plan_quality_scheme(q, PLAN_BACK, PLAN_KEEP, 3, &kl), 0);
    assert_true(kl == 0);
    assert_int_equal(plan_quality_kv(q, KV_Q8, &kl), 0);
    assert_int_equal(plan_quality_kv(q, KV_Q4, &kl), -ENOENT);

    m.fingerprint[0] = 'f';
    assert_int_equal(plan_quality_parse(table, strlen(table), "t", &m, q, err), -EINVAL);
    assert_non_null(strstr(err, "another model"));
    m.fingerprint[0] = '0';
    static const char *const changes[][2] = {
        {"\"split\": 4, \"kl\": 0.004", "\"split\": 1, \"kl\": 0.004"}, /* falls */
        {"\"split\": 4, \"kl\": 0.004", "\"split\": 6, \"kl\": 0.004"}, /* no layer behind it */
        {"0.004", "-1"},
        {"\"q8\"", "\"q9\""},
        {"\"sq3\"", "\"keep\""},
        {"\"front\"", "\"middle\""},
        {"\"kv\": [", "\"vk\": ["},
        {"(windows 60-91)", "\\u0007"},
    };
    for (unsigned i = 0; i < sizeof changes / sizeof *changes; i++) {
        const char *at = strstr(table, changes[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - table), table, changes[i][1],
                 at + strlen(changes[i][0]));
        err[0] = 0;
        assert_int_equal(plan_quality_parse(text, strlen(text), "t", &m, q, err), -EBADMSG);
        assert_true(err[0]);
    }
    plan_model_free(&m);
    free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_again), cmocka_unit_test(whose),   cmocka_unit_test(bad_hosts),
        cmocka_unit_test(held_up),
        cmocka_unit_test(links),      cmocka_unit_test(quality),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
