/* SPDX-License-Identifier: Apache-2.0 */
/* One thread on several ports of all kinds: an echo of another process wakes it whichever it is. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/port.h"
#include "tests/unit/port/peer.h"

#define MS       1000000ull
#define PORTS    4u
#define PROMPT   (400 * MS) /* far below what a wake-up that was missed costs */
#define LIMIT_NS (20000 * MS)

static struct port *ports[PORTS];
static pid_t peers[PORTS];
static char news[PORT_ERR];

static void hear(const char *line)
{
    snprintf(news, sizeof(news), "%s", line);
}

static struct port *client_of(const char *uri)
{
    char err[PORT_ERR] = "";
    struct port *p;
    if (port_open(uri, PORT_CLIENT, &p, err) < 0)
        fail_msg("%s: %s", uri, err);
    return p;
}

static void open_all(void)
{
    static unsigned again; /* a killed peer's number is not free at once */
    struct netem_params delay;
    char uri[PORTS][80], err[NETEM_ERR];
    unsigned number = 20000 + ((unsigned)getpid() * 61 + PORTS * again++) % 12000;
    snprintf(uri[0], sizeof(uri[0]), "memif:@wait-any-%u-%u", (unsigned)getpid(), again);
    snprintf(uri[1], sizeof(uri[1]), "udp:127.0.0.1:%u", number);
    snprintf(uri[2], sizeof(uri[2]), "udp:127.0.0.1:%u,io=syscalls", number + 1);
    snprintf(uri[3], sizeof(uri[3]), "udp:127.0.0.1:%u", number + 2);
    for (unsigned i = 0; i < PORTS; i++) {
        peers[i] = peer_start("echo", PORT_SERVER, uri[i]);
        ports[i] = client_of(uri[i]);
    }
    assert_int_equal(netem_parse("delay=5ms", &delay, err), 0);
    assert_int_equal(port_netem(ports[3], &delay, &ports[3]), 0);
    assert_true(peer_await(ports[0], 1, 10000));
}

static void close_all(void)
{
    for (unsigned i = 0; i < PORTS; i++) {
        peer_kill(peers[i]);
        port_close(ports[i]);
    }
}

static void send_one(struct port *p)
{
    static const struct wire_path any = {.dst_port = 1};
    struct pkt *o = pkt_alloc(p->pool);
    outer_write(o->data, p->path ? p->path : &any, 8 + 40);
    memset(o->data + OUTER_BYTES, 7, 40);
    o->len = OUTER_BYTES + 40;
    assert_int_equal(port_tx(p, &o, 1), 1);
    pkt_unref(o);
}

/* Which port has something; asleep until then. UINT32_MAX: none has, and the wait is over. */
static uint32_t next_arrival(uint64_t deadline_ns)
{
    do {
        for (uint32_t i = 0; i < PORTS; i++) {
            struct pkt *in;
            if (port_rx(ports[i], &in, 1) == 1) {
                pkt_unref(in);
                return i;
            }
        }
        port_wait_any(ports, PORTS, deadline_ns);
    } while (port_now_ns() < deadline_ns);
    return UINT32_MAX;
}

/* What a peer that is just starting misses is sent again. */
static void echo_on(uint32_t i)
{
    const uint64_t until = port_now_ns() + LIMIT_NS;
    do {
        send_one(ports[i]);
        assert_true(port_now_ns() < until);
    } while (next_arrival(port_now_ns() + 100 * MS) != i);
    while (next_arrival(port_now_ns() + 100 * MS) == i)
        ; /* those that came late */
}

static void any_wakes_it(void **state)
{
    uint64_t seed = 7, late = 0, worst = 0, sleeps = 0;
    open_all();
    for (uint32_t i = 0; i < PORTS; i++)
        echo_on(i);
    for (int k = 0; k < 300; k++) {
        const uint32_t i = (uint32_t)(random_u64(&seed) % PORTS);
        if (k % 3 == 0)
            usleep((useconds_t)(random_u64(&seed) % 3000)); /* the echo sleeps, too */
        const uint64_t sent_ns = port_now_ns();
        send_one(ports[i]);
        assert_int_equal(next_arrival(sent_ns + LIMIT_NS), i);
        const uint64_t took = port_now_ns() - sent_ns;
        late += took > PROMPT;
        worst = took > worst ? took : worst;
    }
    for (uint32_t i = 0; i < PORTS; i++)
        sleeps += ports[i]->stats.sleeps;
    print_message("longest echo %.1f ms, %u sleeps\n", (double)worst * 1e-6, (unsigned)sleeps);
    assert_true(late <= 3); /* a busy machine, not a rule */
    assert_true(sleeps > 50);
    close_all();
}

static void nothing_ends_at_the_deadline(void **state)
{
    open_all();
    for (uint32_t i = 0; i < PORTS; i++)
        echo_on(i);
    for (int k = 0; k < 5; k++) {
        const uint64_t from = port_now_ns();
        assert_int_equal(next_arrival(from + 30 * MS), UINT32_MAX);
        assert_true(port_now_ns() >= from + 30 * MS);
    }
    assert_int_equal(port_wait_any(ports, PORTS, 0), 0);
    close_all();
}

static void a_death_wakes_it(void **state)
{
    open_all();
    echo_on(0);
    kill(peers[0], SIGKILL);
    const uint64_t from = port_now_ns();
    while (port_alive(ports[0]) == 1 && port_now_ns() < from + LIMIT_NS)
        port_wait_any(ports, PORTS, from + LIMIT_NS);
    assert_int_equal(port_alive(ports[0]), -EPIPE);
    assert_true(port_now_ns() - from < 900 * MS);
    close_all();
}

static void *ring_later(void *arg)
{
    const uint64_t one = 1;
    usleep(30000);
    assert_int_equal(write(*(int *)arg, &one, sizeof(one)), sizeof(one));
    return NULL;
}

static void another_thread_wakes_it(void **state)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t count;
    pthread_t thread;
    open_all();
    echo_on(1);
    port_wake_on(fd);
    const uint64_t from = port_now_ns();
    assert_int_equal(pthread_create(&thread, NULL, ring_later, &fd), 0);
    while (read(fd, &count, sizeof(count)) < 0 && port_now_ns() < from + LIMIT_NS)
        port_wait_any(ports, PORTS, from + LIMIT_NS);
    assert_in_range(port_now_ns() - from, 30 * MS, 5000 * MS);
    pthread_join(thread, NULL);
    port_wake_on(-1);
    close(fd);
    close_all();
}

/* A port that can't wake us is looked at often, and that is said. */
static void one_without_a_bell(void **state)
{
    struct port *two[2], *other;
    struct pkt *in;
    open_all();
    two[0] = ports[1];
    assert_int_equal(port_loop_pair(16, 16, 1500, &two[1], &other), 0);
    port_on_news(hear);
    send_one(other);
    const uint64_t from = port_now_ns();
    while (port_rx(two[1], &in, 1) == 0 && port_now_ns() < from + LIMIT_NS)
        port_wait_any(two, 2, from + LIMIT_NS);
    pkt_unref(in);
    assert_true(port_now_ns() - from < PROMPT);
    port_wait_any(two, 2, port_now_ns() + 5 * MS);
    assert_non_null(strstr(news, "port loop can't be waited on with others"));
    port_on_news(NULL);
    port_close(two[1]);
    port_close(other);
    close_all();
}

int main(int argc, char **argv)
{
    peer_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_wakes_it),       cmocka_unit_test(nothing_ends_at_the_deadline),
        cmocka_unit_test(a_death_wakes_it),   cmocka_unit_test(another_thread_wakes_it),
        cmocka_unit_test(one_without_a_bell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
