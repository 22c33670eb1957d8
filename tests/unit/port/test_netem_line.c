/* SPDX-License-Identifier: Apache-2.0 */
/* An impaired path under a virtual clock: every impairment's arithmetic, order and statistics. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/netem.h"

#define MANY    50000u
#define MS      UINT64_C(1000000)
#define KEEP    14u
#define LEN_MAX 1500u

/* What left: which frame, when, and whether it is as it was. */
struct arrival {
    uint32_t index;
    uint64_t ns;
    bool same;
};

static struct arrival first[2 * MANY], second[2 * MANY];

static void write_frame(uint8_t *frame, uint32_t len, uint32_t index)
{
    for (uint32_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(index * 7 + i);
    memcpy(frame, &index, sizeof index);
}

static struct netem_line *opened(const struct netem_params *p)
{
    struct netem_line *l;
    assert_int_equal(netem_line_open(p, KEEP, &l), 0);
    return l;
}

static uint32_t collect(struct netem_line *l, uint64_t now_ns, struct arrival *got, uint32_t n)
{
    for (const struct netem_frame *f; (f = netem_line_due(l, now_ns)); n++) {
        uint8_t expected[LEN_MAX];
        assert_true(n < 2 * MANY);
        memcpy(&got[n].index, f->bytes, sizeof got[n].index);
        write_frame(expected, f->len, got[n].index);
        got[n].ns = now_ns;
        got[n].same = !memcmp(f->bytes, expected, f->len);
        netem_line_pop(l);
    }
    return n;
}

/* n frames of len bytes, one every gap_ns, each taken out the moment it is due. */
static uint32_t run(const struct netem_params *p, uint32_t n, uint64_t gap_ns, uint32_t len,
                    struct arrival *got, struct netem_stats *stats)
{
    struct netem_line *l = opened(p);
    uint8_t frame[LEN_MAX];
    uint32_t arrived = 0;
    for (uint32_t i = 0; i <= n; i++) {
        const uint64_t now_ns = i < n ? i * gap_ns : UINT64_MAX;
        for (uint64_t ns; (ns = netem_line_next_ns(l)) < now_ns;)
            arrived = collect(l, ns, got, arrived);
        if (i == n)
            break;
        write_frame(frame, len, i);
        assert_int_equal(netem_line_put(l, now_ns, frame, len), 0);
        arrived = collect(l, now_ns, got, arrived);
    }
    assert_true(netem_line_next_ns(l) == UINT64_MAX); /* nothing is held for ever */
    if (stats)
        *stats = *netem_line_stats(l);
    netem_line_close(l);
    return arrived;
}

static void delay_is_exact(void **state)
{
    const struct netem_params p = {.delay_ns = 25 * MS};
    assert_int_equal(run(&p, 1000, MS, 100, first, NULL), 1000);
    for (uint32_t i = 0; i < 1000; i++) {
        assert_int_equal(first[i].index, i);
        assert_true(first[i].same);
        assert_int_equal(first[i].ns, i * MS + 25 * MS);
    }
}

static void jitter_stays_in_bounds_and_in_order(void **state)
{
    struct netem_params p = {.delay_ns = 20 * MS, .jitter_ns = 5 * MS, .seed = 3};
    /* Far apart, so that nobody waits for the one before: uniform over the whole range. */
    assert_int_equal(run(&p, MANY, 20 * MS, 100, first, NULL), MANY);
    double mean = 0;
    uint64_t low = UINT64_MAX, high = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        const uint64_t took_ns = first[i].ns - i * 20 * MS;
        assert_int_equal(first[i].index, i);
        assert_in_range(took_ns, 15 * MS, 25 * MS);
        low = took_ns < low ? took_ns : low;
        high = took_ns > high ? took_ns : high;
        mean += (double)took_ns / MANY;
    }
    assert_true(mean > 19.9e6 && mean < 20.1e6);
    assert_true(low < 15.01e6 && high > 24.99e6);

    /* Close together: the slow ones hold up those behind them, and none overtakes. */
    assert_int_equal(run(&p, MANY, MS / 10, 100, first, NULL), MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        assert_int_equal(first[i].index, i);
        assert_in_range(first[i].ns - i * MS / 10, 15 * MS, 25 * MS);
    }
}

static void rate_is_exact(void **state)
{
    /* 1000 bytes at 3 Mbit/s: 2666666 2/3 ns each; thirds of a nanosecond are not lost. */
    const struct netem_params p = {.rate_bit_per_s = 3000000, .queue_packets = MANY};
    struct netem_stats s;
    assert_int_equal(run(&p, 3000, 0, 1000, first, &s), 3000);
    for (uint32_t i = 0; i < 3000; i++)
        assert_int_equal(first[i].ns, (i + 1) * UINT64_C(8000000000) / 3000);
    assert_int_equal(s.queue_max_packets, 2999); /* one is being sent */
    assert_int_equal(s.queue_max_bytes, 2999000);

    /* Slower than the rate: nobody waits, nothing adds up. */
    assert_int_equal(run(&p, 1000, 3 * MS, 1000, first, &s), 1000);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(first[i].ns, i * 3 * MS + 2666666);
    assert_int_equal(s.queue_max_packets, 0);
}

static void queue_is_full_where_it_says(void **state)
{
    /* 1000 bytes take 1 ms: one is sent, so many wait, the rest is gone. */
    struct netem_params p = {.rate_bit_per_s = 8000000, .queue_packets = 5};
    struct netem_stats s;
    assert_int_equal(run(&p, 20, 0, 1000, first, &s), 6);
    assert_int_equal(s.overflowed, 14);
    assert_int_equal(s.queue_max_packets, 5);
    p = (struct netem_params){.rate_bit_per_s = 8000000, .queue_bytes = 3999};
    assert_int_equal(run(&p, 20, 0, 1000, first, &s), 4);
    p.queue_bytes = 4000;
    assert_int_equal(run(&p, 20, 0, 1000, first, &s), 5);
    assert_int_equal(s.queue_max_bytes, 4000);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(first[i].index, i); /* those at the tail were dropped */
        assert_int_equal(first[i].ns, (i + 1) * MS);
    }
    /* Twice the rate: every second one passes when the queue is full, and it is used to the end. */
    assert_int_equal(run(&p, 1000, MS / 2, 1000, first, &s), 504);
    for (uint32_t i = 1; i < 504; i++)
        assert_int_equal(first[i].ns - first[i - 1].ns, MS);
    /* Its place is free at the very moment that the next one starts. */
    struct netem_line *l =
        opened(&(struct netem_params){.rate_bit_per_s = 8000000, .queue_packets = 1});
    const uint8_t frame[1000] = {0};
    const uint64_t at_ns[] = {0, 0, MS - 1, MS, MS};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(netem_line_put(l, at_ns[i], frame, 1000), 0);
    assert_int_equal(netem_line_stats(l)->overflowed, 2); /* at 1 ms - 1 ns, and the last */
    netem_line_close(l);
    /* A rate alone has a queue of NETEM_QUEUE_PACKETS. */
    p = (struct netem_params){.rate_bit_per_s = 8000000};
    assert_int_equal(run(&p, 2000, 0, 1000, first, &s), 1 + NETEM_QUEUE_PACKETS);
}

/* Lengths of runs of lost frames. */
static double mean_burst(const struct arrival *got, uint32_t n, uint32_t sent)
{
    uint32_t bursts = 0, lost = 0, next = 0;
    for (uint32_t i = 0; i <= n; i++) {
        const uint32_t index = i < n ? got[i].index : sent;
        bursts += index > next;
        lost += index - next;
        next = index + 1;
    }
    return (double)lost / bursts;
}

static void drops_come_alone_or_in_bursts(void **state)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct netem_params p = {.drop = .05, .seed = seed};
        uint32_t n = run(&p, MANY, 1, 60, first, NULL);
        assert_in_range(n, .945 * MANY, .955 * MANY);
        double mean = mean_burst(first, n, MANY);
        assert_true(mean > 1.0 && mean < 1.1); /* 1 / (1 - .05) */

        struct netem_stats s;
        p.burst = 4;
        n = run(&p, MANY, 1, 60, first, &s);
        assert_int_equal(n + s.dropped, MANY);
        assert_in_range(n, .94 * MANY, .96 * MANY);
        mean = mean_burst(first, n, MANY);
        assert_true(mean > 3.5 && mean < 4.5);
    }
    struct netem_params p = {.drop = 1, .burst = 4};
    assert_int_equal(run(&p, 1000, 1, 60, first, NULL), 0);
    p = (struct netem_params){
        .drop = .8, .burst = 4, .seed = 1}; /* the most that fits: then 1 passes */
    const uint32_t n = run(&p, MANY, 1, 60, first, NULL);
    assert_in_range(n, .19 * MANY, .21 * MANY);
    for (uint32_t i = 1; i < n; i++)
        assert_true(first[i].index > first[i - 1].index + 1);
}

/* With its Ethernet header a frame is 14 bytes longer; what is lost so takes no time. */
static void longer_than_the_mtu(void **state)
{
    (void)state;
    char err[NETEM_ERR];
    struct netem_params p;
    struct netem_stats s;
    assert_int_equal(netem_parse("mtu=986,rate=8mbit", &p, err), 0);
    assert_true(netem_is_narrow(&p));
    assert_int_equal(run(&p, 20, 0, 1000, first, &s), 20);
    assert_int_equal(s.too_long, 0);
    assert_int_equal(run(&p, 20, 0, 1001, first, &s), 0);
    assert_int_equal(s.too_long, 20);
    assert_int_equal(s.queue_max_packets, 0);
    assert_int_equal(netem_parse("mtu@100ms=985,mtu@150ms=1500", &p, err), 0);
    assert_true(netem_is_narrow(&p) && netem_is_timed(&p));
    assert_int_equal(run(&p, 20, 10 * MS, 1000, first, &s), 15);
    assert_int_equal(first[9].index, 9);
    assert_int_equal(first[10].index, 15);
    assert_int_equal(netem_parse("delay=1ms", &p, err), 0);
    assert_false(netem_is_narrow(&p));
    const char *bad[] = {"mtu=67", "mtu=65536", "mtu=1400B", "mtu=1400,mtu=1400", "mtu@1s=67", "mtu@1=1400"};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(netem_parse(bad[i], &p, err), -EINVAL);
        assert_true(strncmp(err, "netem: ", 7) == 0);
    }
    p = (struct netem_params){.mtu_bytes = 10};
    assert_int_equal(netem_check(&p, err), -EINVAL);
}

/* 1,000 B take 1 ms, then 4; and 10 ms on the way, then 2: order is kept. */
static void rate_and_delay_change(void **state)
{
    (void)state;
    char err[NETEM_ERR];
    struct netem_params p;
    assert_int_equal(
        netem_parse("rate=8mbit,delay=10ms,rate@100ms=2mbit,delay@100ms=2ms,rate@150ms="
                    "8mbit",
                    &p, err),
        0);
    assert_true(netem_is_timed(&p));
    const uint32_t n = run(&p, 20, 10 * MS, 1000, first, NULL);
    assert_int_equal(n, 20);
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t took_ns = first[i].ns - i * 10 * MS;
        assert_int_equal(first[i].index, i);
        assert_true(first[i].ns > (i ? first[i - 1].ns : 0));
        assert_int_equal(took_ns, i < 10 ? 11 * MS : i < 15 ? 6 * MS : 3 * MS);
    }
    const char *bad[] = {"rate@5s=4mbit",
                         "rate=1mbit,rate@=2mbit",
                         "rate=1mbit,rate@5=2mbit",
                         "rate=1mbit,rate@5s=2",
                         "delay@5s=5",
                         "drop@5s=1%",
                         "delay@5s=1ms,delay@4s=1ms",
                         "delay=5ms,jitter=4ms,delay@1s=3ms"};
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(netem_parse(bad[i], &p, err), -EINVAL);
        assert_true(strncmp(err, "netem: ", 7) == 0);
    }
}

/* A lost frame was on the bottleneck all the same. */
static void drops_use_the_rate(void **state)
{
    const struct netem_params p = {
        .rate_bit_per_s = 8000000, .queue_packets = 2000, .drop = .3, .seed = 5};
    const uint32_t n = run(&p, 1000, 0, 1000, first, NULL);
    assert_in_range(n, 600, 800);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(first[i].ns, (first[i].index + 1) * MS);
}

static void duplicates_follow_each_other(void **state)
{
    const struct netem_params p = {.duplicate = .1, .delay_ns = MS, .seed = 2};
    struct netem_stats s;
    const uint32_t n = run(&p, MANY, 1000, 60, first, &s);
    assert_int_equal(n, MANY + s.duplicated);
    assert_in_range(s.duplicated, .09 * MANY, .11 * MANY);
    for (uint32_t i = 1; i < n; i++) {
        assert_in_range(first[i].index - first[i - 1].index, 0, 1);
        assert_int_equal(first[i].ns, first[i].index * 1000 + MS);
    }
}

static void reordered_ones_are_overtaken(void **state)
{
    const struct netem_params p = {
        .reorder = .1, .reorder_depth = 3, .delay_ns = 5 * MS, .jitter_ns = MS, .seed = 9};
    struct netem_stats s;
    uint32_t n = run(&p, MANY, 1000, 60, first, &s);
    assert_int_equal(n, MANY);
    uint32_t late = 0, high = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (first[i].index < high) {
            late++;
            assert_in_range(high - first[i].index, 1, 3);
        }
        high = first[i].index > high ? first[i].index : high;
    }
    assert_in_range(s.reordered, .09 * MANY, .11 * MANY);
    assert_in_range(late, .08 * MANY, s.reordered);

    /* Nobody comes to overtake: it waits for so long and no longer. */
    const struct netem_params all = {.reorder = 1, .delay_ns = 5 * MS};
    assert_int_equal(run(&all, 1, 0, 60, first, NULL), 1);
    assert_int_equal(first[0].ns, 5 * MS + NETEM_REORDER_MAX_NS);

    /* A caller that comes late sees the same order. */
    struct netem_line *l = opened(&p);
    uint8_t frame[60];
    for (uint32_t i = 0; i < 5000; i++) {
        write_frame(frame, sizeof frame, i);
        assert_int_equal(netem_line_put(l, i * 1000, frame, sizeof frame), 0);
    }
    n = collect(l, 1000 * MS, second, 0);
    assert_int_equal(n, 5000);
    netem_line_close(l);
    run(&p, 5000, 1000, 60, first, NULL);
    for (uint32_t i = 0; i + 10 < n; i++) /* the last ones have nobody behind them */
        assert_int_equal(second[i].index, first[i].index);
}

static void one_bit_is_flipped(void **state)
{
    const struct netem_params p = {.corrupt = .1, .seed = 4};
    struct netem_line *l = opened(&p);
    uint32_t hit = 0;
    uint64_t seen = 0; /* which of the bytes, of 64 behind those kept */
    for (uint32_t i = 0; i < MANY; i++) {
        uint8_t frame[KEEP + 64];
        write_frame(frame, sizeof frame, i);
        assert_int_equal(netem_line_put(l, 0, frame, sizeof frame), 0);
        const struct netem_frame *f = netem_line_due(l, 0);
        assert_non_null(f);
        unsigned bits = 0;
        for (uint32_t k = 0; k < f->len; k++) {
            const unsigned flipped = (unsigned)__builtin_popcount(f->bytes[k] ^ frame[k]);
            assert_true(k >= KEEP || !flipped);
            bits += flipped;
            if (flipped)
                seen |= UINT64_C(1) << (k - KEEP);
        }
        assert_in_range(bits, 0, 1);
        hit += bits;
        netem_line_pop(l);
    }
    assert_int_equal(hit, netem_line_stats(l)->corrupted);
    assert_in_range(hit, .09 * MANY, .11 * MANY);
    assert_true(seen == UINT64_MAX);
    /* Nothing behind those kept: as it was. */
    const uint8_t small[KEEP] = {1, 2, 3};
    for (int i = 0; i < 100; i++) {
        assert_int_equal(netem_line_put(l, 0, small, sizeof small), 0);
        assert_memory_equal(netem_line_due(l, 0)->bytes, small, sizeof small);
        netem_line_pop(l);
    }
    netem_line_close(l);
}

static void same_seed_same_fate(void **state)
{
    struct netem_params p = {.drop = .1,
                             .burst = 3,
                             .duplicate = .1,
                             .reorder = .1,
                             .corrupt = .1,
                             .delay_ns = 3 * MS,
                             .jitter_ns = 2 * MS,
                             .rate_bit_per_s = 200000000,
                             .queue_bytes = 20000,
                             .seed = 42};
    struct netem_stats a, b;
    uint32_t n = run(&p, MANY, 5000, 80, first, &a);
    assert_int_equal(run(&p, MANY, 5000, 80, second, &b), n);
    for (uint32_t i = 0; i < n; i++)
        assert_true(first[i].index == second[i].index && first[i].ns == second[i].ns &&
                    first[i].same == second[i].same);
    assert_memory_equal(&a, &b, sizeof a);
    /* Other times and lengths, and no bottleneck: the same frames are lost, doubled, corrupted. */
    p.rate_bit_per_s = p.queue_bytes = 0;
    assert_int_equal(run(&p, MANY, 77777, 500, second, &b), n);
    assert_int_equal(a.dropped, b.dropped);
    assert_int_equal(a.duplicated, b.duplicated);
    assert_int_equal(a.corrupted, b.corrupted);
    static int8_t balance[MANY];
    memset(balance, 0, sizeof balance);
    for (uint32_t i = 0; i < n; i++) {
        balance[first[i].index]++;
        balance[second[i].index]--;
    }
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(balance[i], 0);

    p.seed = 43;
    const uint32_t m = run(&p, MANY, 77777, 500, first, &a);
    bool other = m != n;
    for (uint32_t i = 0; i < n && !other; i++)
        other = first[i].index != second[i].index;
    assert_true(other);
}

static void memory_is_bounded(void **state)
{
    const struct netem_params p = {.delay_ns = NETEM_DELAY_MAX_NS};
    struct netem_line *l = opened(&p);
    static const uint8_t frame[65000];
    for (int i = 0; i < 5000; i++)
        assert_int_equal(netem_line_put(l, 0, frame, sizeof frame), 0);
    const struct netem_stats *s = netem_line_stats(l);
    assert_in_range((5000 - s->overflowed) * sizeof frame, NETEM_HELD_MAX_BYTES - 2 * sizeof frame,
                    NETEM_HELD_MAX_BYTES);
    netem_line_close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delay_is_exact),
        cmocka_unit_test(jitter_stays_in_bounds_and_in_order),
        cmocka_unit_test(rate_is_exact),
        cmocka_unit_test(rate_and_delay_change),
        cmocka_unit_test(longer_than_the_mtu),
        cmocka_unit_test(queue_is_full_where_it_says),
        cmocka_unit_test(drops_come_alone_or_in_bursts),
        cmocka_unit_test(drops_use_the_rate),
        cmocka_unit_test(duplicates_follow_each_other),
        cmocka_unit_test(reordered_ones_are_overtaken),
        cmocka_unit_test(one_bit_is_flipped),
        cmocka_unit_test(same_seed_same_fate),
        cmocka_unit_test(memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
