/* SPDX-License-Identifier: Apache-2.0 */
/* A peer that moves, and peers that vanish from a port that doesn't tell. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/link.h"

#define MS   1000000ull
#define ROOM 700u

static struct pkt_pool *pool;
static uint64_t now;

static struct link *open_edge(const struct wire_path *path, uint32_t connection)
{
    struct link_params p = {.path = path, .initiator = true, .connection = connection};
    struct link *l;

    assert_int_equal(link_open(&p, now, &l), 0);
    return l;
}

/* As on a port that doesn't tell when a peer is gone. */
static struct link *open_cloud(void)
{
    static const struct wire_path nowhere = {.src_port = 7300};
    struct link_params p = {
        .path = &nowhere, .idle_ping_ns = 5000 * MS, .idle_dead_after_ns = 15000 * MS};
    struct link *l;

    assert_int_equal(link_open(&p, now, &l), 0);
    return l;
}

static void say(struct link *l)
{
    struct pkt *p = pkt_alloc(pool);
    uint16_t bytes = 8;

    memset(p->data + WIRE_PAYLOAD_AT, 7, 20);
    assert_true(link_send(l, 1, WIRE_DECODE, -1, &p, &bytes, 1) > 0);
}

/* The next frame of l; NULL: none. */
static struct pkt *next(struct link *l)
{
    struct pkt *p = NULL;
    uint64_t deadline;

    (void)link_tick(l, now, &deadline);
    (void)link_output(l, &p, 1, pool, now);
    return p;
}

static struct pkt *copy(const struct pkt *p)
{
    struct pkt *c = pkt_alloc(pool);

    memcpy(c->data, p->data, p->len);
    c->len = p->len;
    return c;
}

/* All that waits, as it is on the wire; how many. The last one's way is kept. */
static unsigned carry(struct link *from, struct link *to, struct wire_path *last)
{
    struct pkt *p;
    unsigned n = 0;

    for (; (p = next(from)); n++) {
        if (last) { /* as the sender wrote it */
            outer_way_back(p->data, last);
            *last = (struct wire_path){.src_ip = last->dst_ip,
                                       .dst_ip = last->src_ip,
                                       .src_port = last->dst_port,
                                       .dst_port = last->src_port};
        }
        if (to)
            (void)link_input(to, copy(p), now);
        pkt_unref(p);
    }
    return n;
}

static void take_all(struct link *l)
{
    struct link_message m;

    while (link_recv(l, &m))
        link_message_free(&m);
}

static int setup(void **state)
{
    pool = pkt_pool_heap(512, ROOM);
    now = 1000 * MS;
    return 0;
}

static int teardown(void **state)
{
    if (pool->n_free != pool->n_total) /* a failed test, or a leak */
        return 1;
    pkt_pool_heap_close(pool);
    return 0;
}

/* A NAT in between gives the edge another address: the cloud's frames go there, also those that
 * were sent to the old one before. An old frame from elsewhere changes nothing. */
static void move(bool astray)
{
    struct link *edge = open_edge(&wire_path_edge, 7), *cloud = open_cloud();
    struct wire_path way = wire_path_edge, to;
    struct pkt *p, *first;

    say(edge);
    p = next(edge);
    first = copy(p);
    (void)link_input(cloud, copy(p), now);
    pkt_unref(p);
    take_all(cloud);
    assert_int_equal(link_path(cloud)->dst_ip, wire_path_edge.src_ip);
    assert_int_equal(link_path(cloud)->src_ip, wire_path_edge.dst_ip);

    say(cloud); /* lost on the way */
    assert_true(carry(cloud, NULL, &to) >= 1);
    assert_int_equal(to.dst_port, wire_path_edge.src_port);

    way.src_ip = 0x01020304;
    way.src_port = 40000;
    say(edge);
    p = next(edge);
    outer_readdress(p->data, &way);
    (void)link_input(cloud, copy(p), now);
    pkt_unref(p);
    struct link_stats s;
    assert_int_equal(link_path(cloud)->dst_ip,
                     wire_path_edge.src_ip); /* who knows who sent it from there */
    unsigned asked = 0;
    while ((p = next(cloud))) {
        struct wire_path back;
        bool challenge = (p->data[WIRE_L2L4_BYTES] & 15) == WIRE_CHALLENGE;

        outer_way_back(p->data, &back);
        assert_int_equal(back.src_ip, challenge ? way.src_ip : wire_path_edge.src_ip);
        asked += challenge;
        if (challenge)
            (void)link_input(edge, copy(p), now);
        pkt_unref(p);
    }
    assert_int_equal(asked, 1);
    p = next(edge); /* the answer: from elsewhere it proves nothing, and neither does an old one */
    assert_int_equal(p->data[WIRE_L2L4_BYTES] & 15, WIRE_ANSWER);
    struct pkt *elsewhere = copy(p);
    way.src_port++;
    outer_readdress(elsewhere->data, &way);
    way.src_port--;
    outer_readdress(p->data, &way);
    if (astray) {
        (void)link_input(cloud, copy(elsewhere), now);
        assert_int_equal(link_path(cloud)->dst_ip, wire_path_edge.src_ip);
        pkt_unref(elsewhere);
        pkt_unref(p);
        pkt_unref(first);
        link_close(edge);
        link_close(cloud);
        return;
    }
    pkt_unref(elsewhere);
    (void)link_input(cloud, copy(p), now);
    (void)link_input(cloud, copy(p), now);
    pkt_unref(p);
    link_stats(cloud, &s);
    assert_int_equal(s.moves, 1);
    assert_int_equal(link_path(cloud)->dst_ip, way.src_ip);
    assert_int_equal(link_path(cloud)->dst_port, way.src_port);

    now += 400 * MS; /* the lost one again, and the acknowledgement: to the new place */
    unsigned n = 0;
    while ((p = next(cloud))) {
        struct wire_path back;

        outer_way_back(p->data, &back);
        assert_int_equal(back.src_ip, way.src_ip);
        assert_int_equal(back.src_port, way.src_port);
        (void)link_input(edge, copy(p), now);
        pkt_unref(p);
        n++;
    }
    assert_true(n >= 2);
    take_all(edge);
    take_all(cloud);

    way.src_ip = 0x05060708;
    outer_readdress(first->data, &way); /* someone repeats what the edge once said */
    (void)link_input(cloud, first, now);
    assert_int_equal(link_path(cloud)->dst_ip, 0x01020304);
    link_stats(cloud, &s);
    assert_int_equal(s.moves, 1);
    link_close(edge);
    link_close(cloud);
}

static void the_peer_moves(void **state)
{
    move(false);
}

static void an_answer_from_elsewhere_proves_nothing(void **state)
{
    move(true);
}

/* Who is not known is answered where it is, not where the peer is. */
static void strangers_are_answered_at_their_place(void **state)
{
    struct wire_path other = wire_path_edge, to;
    other.src_ip = 0x0a490009;
    struct link *edge = open_edge(&wire_path_edge, 7), *cloud = open_cloud(),
                *stranger = open_edge(&other, 8);

    say(edge);
    carry(edge, cloud, NULL);
    take_all(cloud);
    now += 20 * MS;
    carry(cloud, edge, NULL);
    say(stranger);
    carry(stranger, cloud, NULL);
    now++;
    /* The cloud asks its edge whether it is there, and it is. */
    carry(cloud, edge, &to);
    assert_int_equal(to.dst_ip, wire_path_edge.src_ip);
    carry(edge, cloud, NULL);
    now += 400 * MS;
    carry(stranger, cloud, NULL);
    assert_int_equal(carry(cloud, stranger, &to), 1);
    assert_int_equal(to.dst_ip, other.src_ip);
    uint64_t deadline;
    assert_int_equal(link_tick(stranger, now, &deadline), -EPIPE);
    assert_int_equal(link_tick(cloud, now, &deadline), 0);
    assert_int_equal(link_path(cloud)->dst_ip, wire_path_edge.src_ip);
    link_close(edge);
    link_close(cloud);
    link_close(stranger);
}

/* An edge that died is given up soon when another one comes, idle or not. */
static void the_dead_make_room(void **state)
{
    for (int idle = 0; idle < 2; idle++) {
        struct link *edge = open_edge(&wire_path_edge, 7), *cloud = open_cloud(),
                    *second = open_edge(&wire_path_edge, 8);
        uint64_t deadline, begin;

        say(edge);
        carry(edge, cloud, NULL);
        take_all(cloud);
        link_set_idle(cloud, idle);
        say(second);
        begin = now;
        while (link_tick(cloud, now, &deadline) == 0) {
            carry(second, cloud, NULL);
            carry(cloud, NULL, NULL); /* to a dead one */
            assert_int_equal(link_tick(second, now, &deadline), 0);
            now += 50 * MS;
        }
        assert_in_range(now - begin, 1900 * MS, 2200 * MS);
        link_close(cloud);
        cloud = open_cloud();
        now += 300 * MS;
        carry(second, cloud, NULL);
        take_all(cloud);
        assert_true(link_heard(cloud));
        link_close(edge);
        link_close(cloud);
        link_close(second);
    }
}

/* Without a newcomer an idle connection lives as long as the peer answers, and not much longer. */
static void idle_peers_are_asked(void **state)
{
    struct link *edge = open_edge(&wire_path_edge, 7), *cloud = open_cloud();
    uint64_t deadline, begin;
    unsigned packets = 0;

    say(edge);
    carry(edge, cloud, NULL);
    take_all(cloud);
    now += 20 * MS;
    carry(cloud, edge, NULL);
    link_set_idle(cloud, true);
    link_set_idle(edge, true);
    begin = now;
    while (now < begin + 120000 * MS) {
        assert_int_equal(link_tick(cloud, now, &deadline), 0);
        packets += carry(cloud, edge, NULL) + carry(edge, cloud, NULL);
        now = deadline < now + 100 * MS ? now + 100 * MS : deadline;
        assert_true(deadline < begin + 200000 * MS);
    }
    assert_in_range(packets, 40, 60); /* a question and its answer every five seconds */
    begin = now;
    while (link_tick(cloud, now, &deadline) == 0) {
        carry(cloud, NULL, NULL);
        now += 200 * MS;
    }
    assert_in_range(now - begin, 9000 * MS, 16000 * MS);
    assert_non_null(strstr(link_why_dead(cloud), "silent"));
    link_close(edge);
    link_close(cloud);
}

#define WAY_MAX 128u

/* Frames on the way to one side. */
struct line {
    uint64_t delay;
    struct pkt *pkt[WAY_MAX];
    uint64_t at[WAY_MAX];
    unsigned first, n;
};

static void arrive(struct line *line, struct link *to)
{
    for (; line->n && line->at[line->first] <= now; line->n--) {
        (void)link_input(to, line->pkt[line->first], now);
        line->first = (line->first + 1) % WAY_MAX;
    }
}

/* The flip-th frame gets another bit at that byte. Returns how many challenges went. */
static unsigned depart(struct line *line, struct link *from, unsigned *count, unsigned flip,
                       unsigned byte)
{
    unsigned challenges = 0;
    struct pkt *p;

    for (; (p = next(from)); (*count)++) {
        challenges += (p->data[WIRE_L2L4_BYTES] & 15) == WIRE_CHALLENGE;
        struct pkt *c = copy(p); /* what is sent again is as it was */
        pkt_unref(p);
        if (*count == flip)
            c->data[byte] ^= 4;
        assert_true(line->n < WAY_MAX);
        line->pkt[(line->first + line->n) % WAY_MAX] = c;
        line->at[(line->first + line->n++) % WAY_MAX] = now + line->delay;
    }
    return challenges;
}

/* The tag doesn't cover the outer headers: a bit that flips in one frame's MAC, and gets through for
 * nobody looks at MACs, leaves two peers that find each other, and stop asking. */
static void a_wrong_mac_is_forgotten(void **state)
{
    for (unsigned i = 0; i < 40 * 2 * 4; i++) {
        static const uint64_t delays[] = {0, 1 * MS, 5 * MS, 60 * MS};
        const unsigned flip = i / 8, byte = i / 4 % 2 * 6;
        struct link *edge = open_edge(&wire_path_edge, 7), *cloud = open_cloud();
        struct line to_edge = {delays[i % 4]}, to_cloud = {delays[i % 4]};
        unsigned count = 0, challenges = 0;
        const uint64_t begin = now;

        for (; now < begin + 4000 * MS; now += MS) {
            if ((now - begin) % (10 * MS) == 0 && now < begin + 3000 * MS) {
                say(edge);
                if (link_heard(cloud))
                    say(cloud);
            }
            arrive(&to_edge, edge);
            arrive(&to_cloud, cloud);
            take_all(edge);
            take_all(cloud);
            if (now == begin + 2000 * MS)
                challenges = 0;
            challenges += depart(&to_cloud, edge, &count, flip, byte);
            challenges += depart(&to_edge, cloud, &count, flip, byte);
        }
        if (challenges)
            fail_msg("frame %u, byte %u, %u ms: %u challenges in the last 2 s", flip, byte,
                     (unsigned)(to_edge.delay / MS), challenges);
        now += to_edge.delay;
        arrive(&to_edge, edge);
        arrive(&to_cloud, cloud);
        link_close(edge);
        link_close(cloud);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_peer_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(an_answer_from_elsewhere_proves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(strangers_are_answered_at_their_place, setup, teardown),
        cmocka_unit_test_setup_teardown(the_dead_make_room, setup, teardown),
        cmocka_unit_test_setup_teardown(idle_peers_are_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wrong_mac_is_forgotten, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
