/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/pipeline/proto.h"

static uint8_t b[PROTO_IDS_BYTES + 4 * PROTO_IDS_MAX + 8];

static void test_open(void **state)
{
    struct proto_open in = {.version = PROTO_VERSION,
                            .session = 7,
                            .fingerprint = {1, 2, 3},
                            .split = 10,
                            .n_layers = 30,
                            .d_model = 576,
                            .n_vocab = 49152,
                            .codec_id = 0xabcdef01,
                            .numerics_id = 5,
                            .profile = {[0] = 9, [15] = 7},
                            .max_tokens = 99,
                            .sampler = {.8f, 40, .9f, .05f, 1.1f, 0x123456789abcdef0u},
                            .n_top = SAMPLER_TOP_MAX,
                            .like = 3,
                            .n_like = 98};
    struct proto_open out;
    size_t n = proto_write_open(b, &in);

    assert_int_equal(n, PROTO_OPEN_BYTES);
    assert_int_equal(proto_kind(b, n), PROTO_OPEN);
    assert_int_equal(proto_kind(b, 0), 0);
    assert_int_equal(proto_read_open(b, n, &out), 0);
    assert_memory_equal(out.fingerprint, in.fingerprint, 16);
    assert_int_equal(out.session, 7);
    assert_int_equal(out.split, 10);
    assert_int_equal(out.n_layers, 30);
    assert_int_equal(out.d_model, 576);
    assert_int_equal(out.n_vocab, 49152);
    assert_int_equal(out.codec_id, 0xabcdef01);
    assert_int_equal(out.numerics_id, 5);
    assert_memory_equal(out.profile, in.profile, 16);
    assert_int_equal(out.max_tokens, 99);
    assert_true(out.sampler.temp == .8f && out.sampler.top_p == .9f);
    assert_true(out.sampler.min_p == .05f && out.sampler.repeat_penalty == 1.1f);
    assert_int_equal(out.sampler.top_k, 40);
    assert_true(out.sampler.seed == 0x123456789abcdef0u);
    assert_int_equal(out.n_top, SAMPLER_TOP_MAX);
    assert_int_equal(out.like, 3);
    assert_int_equal(out.n_like, 98);
    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_open(b, len, &out), len == n ? 0 : -EBADMSG);
    for (uint32_t like = 0; like < 3; like += 2) { /* tokens of none, none of a session, or all */
        for (uint32_t tokens = 0; tokens < 200; tokens += 99) {
            in.like = like;
            in.n_like = tokens;
            n = proto_write_open(b, &in);
            assert_int_equal(proto_read_open(b, n, &out), !like && !tokens ? 0 : -EBADMSG);
        }
    }
    in.like = in.n_like = 0;
    n = proto_write_open(b, &in);
    assert_int_equal(proto_read_open(b, n, &out), 0);
    assert_false(out.has_head);
    b[3] = 1; /* who has the head picks the alternatives, too */
    assert_int_equal(proto_read_open(b, n, &out), -EBADMSG);
    b[2] = 0;
    assert_int_equal(proto_read_open(b, n, &out), 0);
    assert_true(out.has_head);
    b[3] = 2;
    assert_int_equal(proto_read_open(b, n, &out), -EBADMSG);
    b[2] = SAMPLER_TOP_MAX + 1;
    b[3] = 0;
    assert_int_equal(proto_read_open(b, n, &out), -EBADMSG);
    b[1] = 9; /* another version: nothing else is understood */
    assert_int_equal(proto_read_open(b, 8, &out), 0);
    assert_int_equal(out.version, 9);
    assert_int_equal(out.session, 7);
}

static void test_opened_and_close(void **state)
{
    struct proto_opened in = {128, 512, 77}, out;
    size_t n = proto_write_opened(b, &in);
    uint32_t session;
    bool linger;

    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_opened(b, len, &out), len == n ? 0 : -EBADMSG);
    assert_int_equal(proto_read_opened(b, n, &out), 0);
    assert_int_equal(out.max_rows, 128);
    assert_int_equal(out.max_fragments, 512);
    assert_int_equal(out.n_like, 77);
    in.max_rows = 0;
    n = proto_write_opened(b, &in);
    assert_int_equal(proto_read_opened(b, n, &out), -EBADMSG);

    for (int yes = 0; yes < 2; yes++) {
        n = proto_write_close(b, 0x1020304, yes);
        for (size_t len = 0; len <= n + 1; len++)
            assert_int_equal(proto_read_close(b, len, &session, &linger), len == n ? 0 : -EBADMSG);
        assert_int_equal(proto_read_close(b, n, &session, &linger), 0);
        assert_int_equal(session, 0x1020304);
        assert_int_equal(linger, yes);
    }
    b[1] = 2;
    assert_int_equal(proto_read_close(b, n, &session, &linger), -EBADMSG);
    b[1] = 0;
    b[3] = 1;
    assert_int_equal(proto_read_close(b, n, &session, &linger), -EBADMSG);
}

static void test_rows(void **state)
{
    struct proto_rows in = {
        .position = 500, .n_rows = 4, .n_logits = 4, .n_drafts = 3, .drafts = {7, 8, 9}};
    struct proto_rows out;
    size_t n = proto_write_rows(b, &in), at;

    assert_int_equal(n, PROTO_ROWS_BYTES + 12);
    for (size_t len = 0; len <= n + 1; len++) /* what follows is the tile */
        assert_int_equal(proto_read_rows(b, len, &out, &at), len >= n ? 0 : -EBADMSG);
    assert_int_equal(at, n);
    assert_int_equal(out.position, 500);
    assert_int_equal(out.n_rows, 4);
    assert_int_equal(out.drafts[2], 9);
    for (in.n_logits = 0; in.n_logits < 6; in.n_logits++) {
        n = proto_write_rows(b, &in);
        assert_int_equal(proto_read_rows(b, n, &out, &at), in.n_logits == 4 ? 0 : -EBADMSG);
    }
    in.n_drafts = 0; /* inside a prompt none, at its end one */
    for (in.n_logits = 0; in.n_logits < 6; in.n_logits++) { /* or for guesses that are not named */
        n = proto_write_rows(b, &in);
        assert_int_equal(proto_read_rows(b, n, &out, &at), in.n_logits <= 4 ? 0 : -EBADMSG);
    }
    in.n_rows = 40;
    for (in.n_logits = 15; in.n_logits < 18; in.n_logits++) {
        n = proto_write_rows(b, &in);
        assert_int_equal(proto_read_rows(b, n, &out, &at),
                         in.n_logits <= PROTO_DRAFTS_MAX + 1 ? 0 : -EBADMSG);
    }
    in.n_logits = 1;
    in.n_rows = 0;
    n = proto_write_rows(b, &in);
    assert_int_equal(proto_read_rows(b, n, &out, &at), -EBADMSG);
    b[1] = PROTO_DRAFTS_MAX + 1;
    b[3] = 40;
    assert_int_equal(proto_read_rows(b, 200, &out, &at), -EBADMSG);
}

static void test_tokens(void **state)
{
    struct proto_tokens in = {.position = 9, .n = 2, .ids = {5, 6}, .logprobs = {-1, -.5f}}, out;
    size_t n = proto_write_tokens(b, &in);

    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_tokens(b, len, &out), len == n ? 0 : -EBADMSG);
    assert_int_equal(proto_read_tokens(b, n, &out), 0);
    assert_int_equal(out.position, 9);
    assert_int_equal(out.ids[1], 6);
    assert_true(out.logprobs[1] == -.5f);
    b[3] = 1;
    assert_int_equal(proto_read_tokens(b, n, &out), -EBADMSG);
    b[3] = 0;
    b[1] = PROTO_DRAFTS_MAX + 2;
    assert_int_equal(proto_read_tokens(b, PROTO_TOKENS_BYTES + 8 * 17, &out), -EBADMSG);
}

static void test_alternatives(void **state)
{
    static uint8_t bytes[PROTO_TOKENS_MAX + 200];
    static struct proto_tokens in = {.position = 9, .n = PROTO_DRAFTS_MAX + 1}, out;
    size_t n;

    for (int i = 0; i < in.n; i++) {
        in.ids[i] = 1000 + i;
        in.logprobs[i] = -.25f * (float)i;
        for (int k = 0; k < (int)SAMPLER_TOP_MAX; k++)
            in.top[i][k] = (struct sampler_top){100 * i + k, k ? -.5f * (float)k : -INFINITY};
    }
    for (in.n_top = 0; in.n_top <= SAMPLER_TOP_MAX; in.n_top++) {
        memset(&out, 0xee, sizeof out);
        n = proto_write_tokens(bytes, &in);
        assert_int_equal(n, PROTO_TOKENS_BYTES + in.n * proto_token_bytes(in.n_top));
        assert_true(n <= PROTO_TOKENS_MAX);
        for (size_t len = 0; len <= n + 1; len++)
            assert_int_equal(proto_read_tokens(bytes, len, &out), len == n ? 0 : -EBADMSG);
        assert_int_equal(proto_read_tokens(bytes, n, &out), 0);
        assert_int_equal(out.n_top, in.n_top);
        assert_memory_equal(out.ids, in.ids, sizeof in.ids);
        assert_memory_equal(out.logprobs, in.logprobs, sizeof in.logprobs);
        for (int i = 0; i < in.n; i++)
            assert_memory_equal(out.top[i], in.top[i], in.n_top * sizeof in.top[i][0]);
    }
    assert_int_equal(n, PROTO_TOKENS_MAX);
    bytes[2] = SAMPLER_TOP_MAX + 1;
    n = PROTO_TOKENS_BYTES + in.n * proto_token_bytes(SAMPLER_TOP_MAX + 1);
    assert_true(n <= sizeof bytes);
    assert_int_equal(proto_read_tokens(bytes, n, &out), -EBADMSG);
    in.n = 0; /* alternatives of nothing */
    in.n_top = 1;
    n = proto_write_tokens(bytes, &in);
    assert_int_equal(proto_read_tokens(bytes, n, &out), -EBADMSG);

    /* What fits a packet is at least one, and never more than that. */
    for (uint32_t n_top = 0; n_top <= SAMPLER_TOP_MAX; n_top++) {
        for (size_t room = PROTO_SMALL_MAX + LINK_REPLY_PREFIX_BYTES; room < 9000; room++) {
            const uint32_t fit = proto_tokens_that_fit(room, n_top);
            const size_t of_one = proto_token_bytes(n_top);

            assert_in_range(fit, 1, PROTO_DRAFTS_MAX + 1);
            assert_true(LINK_REPLY_PREFIX_BYTES + PROTO_TOKENS_BYTES + fit * of_one <= room);
            assert_true(fit == PROTO_DRAFTS_MAX + 1 ||
                        LINK_REPLY_PREFIX_BYTES + PROTO_TOKENS_BYTES + (fit + 1) * of_one > room);
        }
    }
}

static void test_hidden(void **state)
{
    static const float values[5] = {1, -.5f, 3e38f, 1e-40f, 0};
    struct proto_hidden in = {.position = 0x10203, .n = PROTO_DRAFTS_MAX + 1}, out;
    float back[5];
    size_t n = proto_write_hidden(b, &in);

    assert_int_equal(n, PROTO_HIDDEN_BYTES);
    assert_int_equal(proto_kind(b, n), PROTO_HIDDEN);
    for (size_t len = 0; len <= n + 5; len++) /* values follow */
        assert_int_equal(proto_read_hidden(b, len, &out), len >= n ? 0 : -EBADMSG);
    assert_int_equal(out.position, 0x10203);
    assert_int_equal(out.n, PROTO_DRAFTS_MAX + 1);
    for (int k = 1; k < 4; k++) {
        n = proto_write_hidden(b, &in);
        b[k] = k == 1 ? 0 : 1;
        assert_int_equal(proto_read_hidden(b, n, &out), -EBADMSG);
    }
    b[1] = PROTO_DRAFTS_MAX + 2;
    assert_int_equal(proto_read_hidden(b, n, &out), -EBADMSG);
    proto_put_values(b, values, 5);
    proto_get_values(b, back, 5);
    assert_memory_equal(back, values, sizeof values);
    assert_int_equal(b[0] << 8 | b[1], 0x3f80); /* big-endian */

    for (size_t room = 300; room < 9000; room++) { /* whole values, and enough packets */
        const size_t part = proto_hidden_part(room);

        assert_true(part % 4 == 0 && part + LINK_REPLY_PREFIX_BYTES <= room);
        for (size_t k = 1; k < 10000; k *= 3) {
            const size_t packets = proto_hidden_packets(k, part);

            assert_true(packets * part >= PROTO_HIDDEN_BYTES + 4 * k);
            assert_true((packets - 1) * part < PROTO_HIDDEN_BYTES + 4 * k);
        }
    }
}

static void test_text(void **state)
{
    char longest[PROTO_TEXT_MAX + 20];
    struct proto_text out;
    size_t n = proto_write_text(b, PROTO_REFUSED, PROTO_BAD_MODEL, "no\x1b[31m");

    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_text(b, len, &out), len == n ? 0 : -EBADMSG);
    assert_int_equal(proto_read_text(b, n, &out), 0);
    assert_int_equal(out.reason, PROTO_BAD_MODEL);
    assert_string_equal(out.text, "no?[31m");
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    n = proto_write_text(b, PROTO_ERROR, PROTO_FAILED, longest);
    assert_true(n <= PROTO_SMALL_MAX);
    assert_int_equal(proto_read_text(b, n, &out), 0);
    assert_int_equal(strlen(out.text), PROTO_TEXT_MAX);
    b[2] = 1;
    assert_int_equal(proto_read_text(b, n, &out), -EBADMSG);
}

static void test_ids(void **state)
{
    static int32_t ids[PROTO_IDS_MAX];
    struct proto_ids out;
    size_t n;

    for (int i = 0; i < (int)PROTO_IDS_MAX; i++)
        ids[i] = 1000000 * i;
    n = proto_write_ids(b, 7, ids, 3);
    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_ids(b, len, &out), len == n ? 0 : -EBADMSG);
    assert_int_equal(proto_read_ids(b, n, &out), 0);
    assert_int_equal(out.first, 7);
    assert_int_equal(out.n, 3);
    assert_int_equal(out.ids[2], 2000000);
    b[1] = 1;
    assert_int_equal(proto_read_ids(b, n, &out), -EBADMSG);
    n = proto_write_ids(b, 0, ids, PROTO_IDS_MAX);
    assert_int_equal(proto_read_ids(b, n, &out), 0);
    assert_memory_equal(out.ids, ids, sizeof ids);
    b[2] = 1; /* 257 */
    b[3] = 1;
    assert_int_equal(proto_read_ids(b, n + 4, &out), -EBADMSG);
    b[2] = b[3] = 0;
    assert_int_equal(proto_read_ids(b, PROTO_IDS_BYTES, &out), -EBADMSG);
}

static void test_status(void **state)
{
    static struct proto_status in = {.draining = true,
                                     .headless = true,
                                     .kv_asked = KV_Q4,
                                     .sessions_free = 3,
                                     .tokens_free = 0x10000,
                                     .tokens_total = 0x20000,
                                     .tokens_max = 2048,
                                     .sessions_open = 13,
                                     .split = 10,
                                     .codec_id = 0xabcdef01,
                                     .numerics_id = 5,
                                     .fingerprint = {1, [15] = 2},
                                     .profile = {3, [15] = 4}};
    static struct proto_status out;
    size_t n = proto_write_status(b, &in);

    assert_int_equal(n, PROTO_STATUS_BYTES);
    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_status(b, len, &out), len == n ? 0 : -EBADMSG);
    assert_int_equal(proto_read_status(b, n, &out), 0);
    assert_memory_equal(&out, &in, sizeof in);
    b[1] = 2;
    assert_int_equal(proto_read_status(b, n, &out), -EBADMSG);
    b[1] = 0;
    assert_int_equal(proto_read_status(b, n, &out), 0);
    assert_false(out.draining);
    b[2] = 2;
    assert_int_equal(proto_read_status(b, n, &out), -EBADMSG);
    b[2] = 0;
    assert_int_equal(proto_read_status(b, n, &out), 0);
    assert_false(out.headless);
    b[3] = KV_K8V4;
    assert_int_equal(proto_read_status(b, n, &out), 0);
    assert_int_equal(out.kv_asked, KV_K8V4);
    b[3] = KV_FORMATS;
    assert_int_equal(proto_read_status(b, n, &out), -EBADMSG);
    in.tokens_free = in.tokens_total + 1; /* more than there are */
    n = proto_write_status(b, &in);
    assert_int_equal(proto_read_status(b, n, &out), -EBADMSG);

    n = proto_write_ask(b);
    for (size_t len = 0; len <= n + 1; len++)
        assert_int_equal(proto_read_ask(b, len), len == n ? 0 : -EBADMSG);
    b[1] = 1;
    assert_int_equal(proto_read_ask(b, n), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),         cmocka_unit_test(test_opened_and_close),
        cmocka_unit_test(test_rows),         cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_alternatives), cmocka_unit_test(test_text),
        cmocka_unit_test(test_ids),          cmocka_unit_test(test_status),
        cmocka_unit_test(test_hidden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
