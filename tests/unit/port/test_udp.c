/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel UDP between two ports of this process, by both engines and both families. */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <cmocka.h>

#include "dataplane/port.h"

#define MS       1000000ull
#define LIMIT_NS (60000 * MS) /* tells a hang from a slow machine, and nothing else */
#define MTU      1500u
#define BODY     (MTU + 14u - OUTER_BYTES) /* longest datagram of IPv4 */

static char news[PORT_ERR];

static void hear(const char *line)
{
    snprintf(news, sizeof(news), "%s", line);
}

static bool binds(int family, unsigned number)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6,
                               .sin6_addr = IN6ADDR_ANY_INIT,
                               .sin6_port = htons((uint16_t)number)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    bool v6 = family == AF_INET6;
    int fd = socket(family, SOCK_DGRAM, 0);
    bool free = fd < 0 ||
                bind(fd, v6 ? (void *)&six : (void *)&four, v6 ? sizeof(six) : sizeof(four)) == 0 ||
                errno != EADDRINUSE;
    if (fd >= 0)
        close(fd);
    return free;
}

/* A number nobody listens at, and that no client is given by the kernel meanwhile: below those. */
static unsigned free_port(void)
{
    static unsigned next;
    unsigned number;
    do
        number = 20000 + ((unsigned)getpid() * 61 + next++ * 7) % 12000;
    while (!binds(AF_INET, number) || !binds(AF_INET6, number));
    return number;
}

static struct port *must_open(const char *uri, enum port_role role)
{
    char err[PORT_ERR] = "";
    struct port *p;
    const uint64_t until = port_now_ns() + 5000 * MS;
    int rc;
    /* Another test that runs beside this one may have taken the number for a moment. */
    while ((rc = port_open(uri, role, &p, err)) == -EADDRINUSE && port_now_ns() < until)
        usleep(20000);
    if (rc == -EADDRINUSE)
        print_message("a client may be given such a number where net.ipv4.ip_local_port_range "
                      "begins below 32000\n");
    if (rc < 0)
        fail_msg("port_open(%s): %d, %s", uri, rc, err);
    return p;
}

struct pair {
    struct port *server, *client;
    char uri[96];
};

/* Not every host, least of all every container, has IPv6. */
static bool has_family(const char *host)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd, rc;
    if (host[0] != '[')
        return true;
    fd = socket(AF_INET6, SOCK_DGRAM, 0);
    rc = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&sa, sizeof(sa));
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        print_message("no IPv6 here: not tried\n");
    return rc == 0;
}

static void pair_open(struct pair *t, const char *host, const char *options)
{
    snprintf(t->uri, sizeof(t->uri), "udp:%s:%u%s", host, free_port(), options);
    t->server = must_open(t->uri, PORT_SERVER);
    t->client = must_open(t->uri, PORT_CLIENT);
    assert_true(t->server->caps.same_host && t->client->caps.same_host);
    assert_false(t->server->caps.tells_loss);
}

static void pair_close(struct pair *t)
{
    port_close(t->client);
    port_close(t->server);
}

static struct pkt *frame(struct port *p, const struct wire_path *path, uint32_t bytes, uint8_t fill)
{
    struct pkt *o = pkt_alloc(p->pool);
    assert_non_null(o);
    assert_true(OUTER_BYTES + bytes <= o->room);
    outer_write(o->data, path, (uint16_t)(8 + bytes));
    for (uint32_t i = 0; i < bytes; i++)
        o->data[OUTER_BYTES + i] = (uint8_t)(fill + i);
    o->len = OUTER_BYTES + bytes;
    return o;
}

static void send_all(struct port *p, struct pkt **pkts, int n)
{
    const uint64_t until = port_now_ns() + LIMIT_NS;
    for (int done = 0; done < n;) {
        int k = port_tx(p, pkts + done, n - done);
        done += k;
        if (!k)
            port_wait(p, port_now_ns() + MS);
        assert_true(port_now_ns() < until);
    }
}

static struct pkt *receive(struct port *p)
{
    const uint64_t until = port_now_ns() + LIMIT_NS;
    struct pkt *in;
    while (port_rx(p, &in, 1) == 0) {
        assert_true(port_now_ns() < until);
        port_wait(p, port_now_ns() + 100 * MS);
    }
    return in;
}

static void check_frame(const struct pkt *in, uint32_t bytes, uint8_t fill)
{
    size_t udp_bytes;
    assert_int_equal(in->len, OUTER_BYTES + bytes);
    assert_true(outer_check(in->data, in->len, &udp_bytes));
    assert_int_equal(udp_bytes, 8 + bytes);
    for (uint32_t i = 0; i < bytes; i++)
        assert_int_equal(in->data[OUTER_BYTES + i], (uint8_t)(fill + i));
}

/* There, and back to where it came from. */
static void bounce(struct pair *t, uint32_t bytes, uint8_t fill)
{
    struct wire_path back;
    struct pkt *o = frame(t->client, t->client->path, bytes, fill), *in;
    uint8_t before[OUTER_BYTES];
    memcpy(before, o->data, sizeof(before));
    send_all(t->client, &o, 1);
    in = receive(t->server);
    check_frame(in, bytes, fill);
    assert_memory_equal(o->data, before, sizeof(before));
    pkt_unref(o);
    outer_way_back(in->data, &back);
    outer_readdress(in->data, &back);
    send_all(t->server, &in, 1);
    pkt_unref(in);
    in = receive(t->client);
    check_frame(in, bytes, fill);
    pkt_unref(in);
}

/* All sizes in bursts, equal ones in rows as UDP_SEGMENT likes them; no burst is more than the
 * smallest usual receive buffer (208 kB) holds. */
static void burst(struct pair *t, unsigned step)
{
    enum { N = 64 };
    struct pkt *out[N];
    uint32_t bytes = 1;
    for (int i = 0; i < 3 * N; i++) {
        if (i % (int)step == 0)
            bytes = 1 + (uint32_t)(i * 977 + 13) % BODY;
        uint32_t n = i % (int)step == (int)step - 1 ? 1 + bytes / 2 : bytes; /* a shorter last */
        if (n > t->client->caps.mtu_bytes + 14 - OUTER_BYTES)
            n = t->client->caps.mtu_bytes + 14 - OUTER_BYTES;
        out[i % N] = frame(t->client, t->client->path, n, (uint8_t)i);
        if (i % N != N - 1)
            continue;
        send_all(t->client, out, N);
        for (int k = 0; k < N; k++) {
            struct pkt *in = receive(t->server);
            check_frame(in, out[k]->len - OUTER_BYTES, (uint8_t)(i - N + 1 + k));
            pkt_unref(in);
            pkt_unref(out[k]);
        }
    }
}

static const struct {
    const char *host, *options;
} kinds[] = {
    {"127.0.0.1", ""}, {"127.0.0.1", ",io=syscalls"}, {"[::1]", ""}, {"[::1]", ",io=syscalls"}};

static void frames_cross_both_ways(void **state)
{
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
        struct pair t;
        if (!has_family(kinds[k].host))
            continue;
        pair_open(&t, kinds[k].host, kinds[k].options);
        print_message("%s, MTU %u\n", t.server->caps.how, t.server->caps.mtu_bytes);
        if (kinds[k].options[0])
            assert_non_null(strstr(t.server->caps.how, "sendmmsg"));
        for (uint32_t bytes = 1; bytes <= t.client->caps.mtu_bytes + 14 - OUTER_BYTES; bytes += 97)
            bounce(&t, bytes, (uint8_t)bytes);
        bounce(&t, t.client->caps.mtu_bytes + 14 - OUTER_BYTES, 3);
        for (unsigned step = 1; step <= 64; step = step * 2 + 1)
            burst(&t, step);
        assert_int_equal(t.server->stats.foreign, 0);
        assert_int_equal(t.client->stats.tx_failed, 0);
        pair_close(&t);
    }
}

/* To listen anywhere takes both families. */
static void any_address_takes_all(void **state)
{
    char uri[64];
    unsigned number = free_port();
    snprintf(uri, sizeof(uri), "udp:*:%u", number);
    struct pair t = {.server = must_open(uri, PORT_SERVER)};
    assert_false(t.server->caps.same_host);
    assert_int_equal(t.server->caps.mtu_bytes - t.server->caps.mtu_sure_bytes, 1500 - 1280);
    const char *hosts[] = {"127.0.0.1", "[::1]"};
    for (int i = 0; i < 2; i++) {
        if (!has_family(hosts[i]))
            continue;
        snprintf(uri, sizeof(uri), "udp:%s:%u", hosts[i], number);
        t.client = must_open(uri, PORT_CLIENT);
        bounce(&t, 100, 9);
        port_close(t.client);
    }
    port_close(t.server);
}

/* Not one that is still being checked for duplicates. */
static bool usable(const struct sockaddr_in6 *six)
{
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    bool good = fd >= 0 && bind(fd, (const void *)six, sizeof(*six)) == 0;
    if (fd >= 0)
        close(fd);
    return good;
}

/* "[fe80::1%eth0]" of this host, if it has one. */
static bool link_local_host(char *host, size_t room)
{
    struct ifaddrs *all, *a;
    char text[INET6_ADDRSTRLEN];
    bool found = false;
    if (getifaddrs(&all) < 0)
        return false;
    for (a = all; a && !found; a = a->ifa_next) {
        const struct sockaddr_in6 *six = (const void *)a->ifa_addr;
        found = six && six->sin6_family == AF_INET6 && a->ifa_flags & IFF_UP &&
                IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr) && usable(six) &&
                inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof(text));
        if (found)
            snprintf(host, room, "[%s%%%s]", text, a->ifa_name);
    }
    freeifaddrs(all);
    return found;
}

/* Such an address means something on its interface only: the answer goes out by the one that its
 * frame came by, whoever else was heard since. */
static void link_local_peers_are_answered(void **state)
{
    char host[80], uri[128];
    unsigned number = free_port();
    if (!link_local_host(host, sizeof(host))) {
        print_message("no link-local address here: not tried\n");
        return;
    }
    snprintf(uri, sizeof(uri), "udp:*:%u", number);
    struct pair t = {.server = must_open(uri, PORT_SERVER)};
    snprintf(uri, sizeof(uri), "udp:%s:%u", host, number);
    print_message("%s\n", uri);
    t.client = must_open(uri, PORT_CLIENT);
    bounce(&t, 100, 9);
    burst(&t, 7);
    pair_close(&t);
}

/* Frames that can't be sent are taken and lost; the others of the burst go. */
static void wrong_frames_vanish(void **state)
{
    struct pair t;
    pair_open(&t, "127.0.0.1", "");
    const struct wire_path nowhere = {0}, six = {.dst_mac = {0x20, 1}, .dst_port = 9};
    struct pkt *o[] = {frame(t.client, t.client->path, 50, 1),
                       frame(t.client, &nowhere, 50, 2),
                       frame(t.client, &six, 50, 3),
                       frame(t.client, t.client->path, 50, 4),
                       frame(t.client, t.client->path, BODY + 1, 5),
                       frame(t.client, t.client->path, 50, 6),
                       frame(t.client, t.client->path, 0, 7)};
    assert_int_equal(port_tx(t.client, o, 7), 7);
    for (int i = 0; i < 6; i += i ? 2 : 3) {
        struct pkt *in = receive(t.server);
        check_frame(in, 50, (uint8_t)(i + 1));
        pkt_unref(in);
    }
    for (int i = 0; i < 7; i++)
        pkt_unref(o[i]);
    pair_close(&t);
}

/* Datagrams longer than any of ours, and empty ones. */
static void foreign_datagrams_are_dropped(void **state)
{
    static char big[20000];
    struct pair t;
    pair_open(&t, "127.0.0.1", "");
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons(t.client->path->dst_port)};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (int i = 0; i < 200; i++) { /* more than there are buffers */
        struct pkt *none;
        assert_true(
            sendto(fd, big, i % 2 ? sizeof(big) : 0, 0, (struct sockaddr *)&sa, sizeof(sa)) >= 0);
        assert_int_equal(port_rx(t.server, &none, 1), 0);
    }
    close(fd);
    bounce(&t, 100, 1);
    assert_true(t.server->stats.foreign > 0);
    pair_close(&t);
}

/* A call returns though nothing but junk comes: who asks for packets has other work. */
static void a_flood_of_junk_is_looked_at_in_parts(void **state)
{
    for (int k = 0; k < 2; k++) {
        struct pair t;
        struct pkt *none;
        uint64_t before = 0;
        pair_open(&t, kinds[k].host, kinds[k].options);
        struct sockaddr_in sa = {.sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons(t.client->path->dst_port)};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        for (int i = 0; i < 40; i++)
            assert_true(sendto(fd, "", 0, 0, (struct sockaddr *)&sa, sizeof(sa)) >= 0);
        close(fd);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(port_rx(t.server, &none, 1), 0);
            assert_in_range(t.server->stats.foreign - before, 0, 8);
            before = t.server->stats.foreign;
        }
        assert_true(before > 0);
        bounce(&t, 100, 1);
        pair_close(&t);
    }
}

/* With all packets out nothing is lost but what the socket's buffer can't hold. */
static void an_empty_pool_waits(void **state)
{
    static struct pkt *held[16384];
    struct pair t;
    int n = 0;
    pair_open(&t, "127.0.0.1", "");
    while ((held[n] = pkt_alloc(t.server->pool)))
        n++;
    struct pkt *o = frame(t.client, t.client->path, 99, 42), *in;
    send_all(t.client, &o, 1);
    pkt_unref(o);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(port_rx(t.server, &in, 1), 0);
        port_wait(t.server, port_now_ns() + 5 * MS);
    }
    while (n)
        pkt_unref(held[--n]);
    in = receive(t.server);
    check_frame(in, 99, 42);
    pkt_unref(in);
    pair_close(&t);
}

static void on_alarm(int sig)
{
    (void)sig;
}

static void signals_and_deadlines_end_waits(void **state)
{
    for (int k = 0; k < 2; k++) {
        struct pair t;
        pair_open(&t, kinds[k].host, kinds[k].options);
        uint64_t begin = port_now_ns();
        assert_int_equal(port_wait(t.server, begin + 30 * MS), 0);
        assert_in_range(port_now_ns() - begin, 29 * MS, LIMIT_NS);

        struct sigaction sa = {.sa_handler = on_alarm};
        sigaction(SIGALRM, &sa, NULL);
        /* Again and again: one signal alone could come before the wait has begun. */
        const struct itimerval each_20_ms = {{.tv_usec = 20000}, {.tv_usec = 20000}}, none = {0};
        setitimer(ITIMER_REAL, &each_20_ms, NULL);
        begin = port_now_ns();
        int rc = port_wait(t.server, begin + LIMIT_NS);
        setitimer(ITIMER_REAL, &none, NULL);
        assert_int_equal(rc, -EINTR);
        assert_true(port_now_ns() - begin < LIMIT_NS);
        pair_close(&t);
    }
}

/* Does the kernel say that nobody listens at a port of this host? A firewall may drop such news. */
static bool tells_refusal(const char *host)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6,
                               .sin6_addr = IN6ADDR_LOOPBACK_INIT,
                               .sin6_port = htons((uint16_t)free_port())};
    struct sockaddr_in four = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                               .sin_port = six.sin6_port};
    const bool v6 = host[0] == '[';
    const uint64_t until = port_now_ns() + 5000 * MS;
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    bool told = false;
    assert_true(fd >= 0);
    assert_int_equal(
        connect(fd, v6 ? (void *)&six : (void *)&four, v6 ? sizeof(six) : sizeof(four)), 0);
    while (!told && port_now_ns() < until) {
        char none;
        told = send(fd, "", 1, 0) < 0 && errno == ECONNREFUSED;
        usleep(1000);
        told = told || (recv(fd, &none, 1, 0) < 0 && errno == ECONNREFUSED);
    }
    close(fd);
    if (!told)
        print_message("%s: no news of closed ports (ICMP is dropped): not tried\n", host);
    return told;
}

/* The kernel tells when the other end's program is gone; before it was ever there it does not
 * count. */
static void the_end_of_the_peer_is_seen(void **state)
{
    for (int k = 0; k < 4; k++) {
        struct pair t;
        if (!has_family(kinds[k].host) || !tells_refusal(kinds[k].host))
            continue;
        pair_open(&t, kinds[k].host, kinds[k].options);
        port_close(t.server);
        for (int gone = 0; gone < 2; gone++) {
            struct pkt *o = frame(t.client, t.client->path, 10, 1), *none;
            const uint64_t until = port_now_ns() + LIMIT_NS; /* kernels ration such news */
            int alive = 1;
            for (int i = 0; alive == 1 && (gone ? port_now_ns() < until : i < 20); i++) {
                (void)port_tx(t.client, &o, 1);
                port_wait(t.client, port_now_ns() + 2 * MS);
                assert_int_equal(port_rx(t.client, &none, 1), 0);
                alive = port_alive(t.client);
            }
            pkt_unref(o);
            assert_int_equal(alive, gone ? -EPIPE : 1);
            if (gone)
                break;
            t.server = must_open(t.uri, PORT_SERVER);
            bounce(&t, 10, 5);
            port_close(t.server);
        }
        assert_int_equal(port_alive(t.client), 1); /* said once */
        t.server = must_open(t.uri, PORT_SERVER);
        bounce(&t, 10, 6);
        pair_close(&t);
    }
}

/* Who knocks and goes away, so that the answer finds nobody, is not the peer that was lost. */
static void strangers_end_nothing(void **state)
{
    for (int k = 0; k < 4; k++) {
        struct port *stranger;
        struct wire_path back;
        struct pkt *o, *in;
        struct pair t;
        if (!has_family(kinds[k].host))
            continue;
        pair_open(&t, kinds[k].host, kinds[k].options);
        bounce(&t, 10, 1);
        stranger = must_open(t.uri, PORT_CLIENT);
        o = frame(stranger, stranger->path, 10, 2);
        send_all(stranger, &o, 1);
        pkt_unref(o);
        in = receive(t.server);
        port_close(stranger);
        outer_way_back(in->data, &back);
        outer_readdress(in->data, &back);
        for (int i = 0; i < 20; i++) {
            struct pkt *none;
            send_all(t.server, &in, 1);
            port_wait(t.server, port_now_ns() + 2 * MS);
            assert_int_equal(port_rx(t.server, &none, 1), 0);
            assert_int_equal(port_alive(t.server), 1);
        }
        pkt_unref(in);
        bounce(&t, 10, 3);
        assert_int_equal(t.server->stats.peers_lost, 0);
        pair_close(&t);
    }
}

static struct {
    atomic_int waiting; /* who looks up a host of .slow.test */
    atomic_bool answer; /* they get one */
} name_server;

/* In place of the C library's, which it calls: two.test has an address of each family, a.slow.test and so on
 * have one when the name server answers, but for none.slow.test. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    int (*right)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(
            RTLD_NEXT, __func__);
    bool two = name && strcmp(name, "two.test") == 0;
    if (name && strstr(name, ".slow.test")) {
        name_server.waiting++;
        while (!name_server.answer)
            usleep(1000);
        name_server.waiting--;
        if (strncmp(name, "none", 4) == 0)
            return EAI_NONAME;
        name = "127.0.0.1";
    }
    int rc = right ? right(two ? "::1" : name, service, hints, found) : EAI_SYSTEM;
    if (rc == 0 && two)
        rc = right("127.0.0.1", service, hints, &(*found)->ai_next);
    return rc;
}

static void until_looked_up(const char *uri)
{
    const uint64_t until = port_now_ns() + 20000 * MS;
    while (!port_looked_up(uri)) {
        assert_true(port_now_ns() < until);
        usleep(1000);
    }
}

/* Names are looked up beside who opens ports: all at once, however long their server takes. */
static void names_are_looked_up_beside(void **state)
{
    static const char *const at_once[] = {"udp:127.0.0.1:7300", "udp:[::1]:7300", "memif:@x", "no port"};
    const uint64_t began = port_now_ns();
    char err[PORT_ERR] = "";
    struct port *p;
    for (unsigned i = 0; i < sizeof at_once / sizeof at_once[0]; i++)
        assert_true(port_looked_up(at_once[i]));
    name_server.answer = false;
    for (unsigned i = 0; i < 3; i++) {
        assert_false(port_looked_up("udp:a.slow.test:7300"));
        assert_false(port_looked_up("udp:a.slow.test:7301"));
        assert_false(port_looked_up("udp:none.slow.test:7300"));
    }
    while (name_server.waiting < 3)
        assert_true(port_now_ns() < began + 20000 * MS);
    until_looked_up("udp:localhost:7300");
    assert_int_equal(name_server.waiting, 3);
    p = must_open("udp:localhost:7300", PORT_CLIENT);
    port_close(p);

    name_server.answer = true;
    until_looked_up("udp:a.slow.test:7300");
    until_looked_up("udp:a.slow.test:7301");
    until_looked_up("udp:none.slow.test:7300");
    name_server.answer = false; /* so that who asked again would wait for ever */
    assert_true(port_lookup_failed("udp:none.slow.test:7300"));
    assert_false(port_lookup_failed("udp:a.slow.test:7300"));
    assert_false(port_lookup_failed("udp:127.0.0.1:7300"));
    for (unsigned i = 0; i < 2; i++) {
        char uri[64], peer[64];
        snprintf(uri, sizeof(uri), "udp:a.slow.test:%u", 7300 + i);
        snprintf(peer, sizeof(peer), "127.0.0.1:%u", 7300 + i);
        p = must_open(uri, PORT_CLIENT);
        assert_string_equal(p->caps.peer, peer);
        port_close(p);
        assert_false(port_looked_up(uri)); /* it is used up: the next time it may be another */
    }
    assert_int_equal(port_open("udp:none.slow.test:7300", PORT_CLIENT, &p, err), -EINVAL);
    assert_non_null(strstr(err, "'none.slow.test' is not known"));
    name_server.answer = true;
    until_looked_up("udp:a.slow.test:7300");
    until_looked_up("udp:a.slow.test:7301");

    /* No more than some at once; others have their turn then. */
    name_server.answer = false;
    for (unsigned i = 0; i < 40; i++) {
        char uri[64];
        snprintf(uri, sizeof(uri), "udp:n%u.slow.test:7300", i);
        assert_false(port_looked_up(uri));
    }
    while (name_server.waiting < 16)
        assert_true(port_now_ns() < began + 20000 * MS);
    usleep(50000);
    assert_in_range(name_server.waiting, 16, 32);
    assert_false(port_looked_up("udp:n39.slow.test:7300"));
    name_server.answer = true;
    while (name_server.waiting)
        assert_true(port_now_ns() < began + 20000 * MS);
    usleep(50000);
}

/* A name's next address has its turn where the last one gave nothing, and none where it did. */
static void names_addresses_take_turns(void **state)
{
    char uri[64], listen[96], first[64], second[64];
    unsigned number = free_port();
    struct pair t;
    snprintf(uri, sizeof(uri), "udp:two.test:%u", number);
    if (!has_family("[::1]"))
        return;
    t.client = must_open(uri, PORT_CLIENT);
    assert_int_equal(t.client->caps.addresses, 2);
    uint32_t mtu = t.client->caps.mtu_bytes;
    snprintf(first, sizeof(first), "%s", t.client->caps.peer);
    port_close(t.client);
    t.client = must_open(uri, PORT_CLIENT);
    snprintf(second, sizeof(second), "%s", t.client->caps.peer);
    print_message("%s, then %s\n", first, second);
    assert_string_not_equal(first, second);
    assert_int_equal(t.client->caps.mtu_bytes, mtu);
    snprintf(listen, sizeof(listen), "udp:%s", second);
    t.server = must_open(listen, PORT_SERVER);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(t.client->caps.peer, second);
        bounce(&t, 100, 1);
        port_close(t.client);
        t.client = must_open(uri, PORT_CLIENT);
    }
    pair_close(&t);
}

/* A label may have 63 letters: no resolver is asked for one of 64, so none can be slow or make up
 * an answer. */
#define NO_SUCH_HOST "no-such-host-of-a-name-that-is-longer-than-any-label-may-ever-be"
_Static_assert(sizeof(NO_SUCH_HOST) == 64 + 1, "one letter more than a label may have");

static bool foreign_addresses_bind(void)
{
    char c = '0';
    FILE *f = fopen("/proc/sys/net/ipv4/ip_nonlocal_bind", "r");
    if (f) {
        c = (char)fgetc(f);
        fclose(f);
    }
    return c == '1';
}

static void an_address_still_in_use_is_waited_for(void **state)
{
    const unsigned number = free_port();
    const struct sockaddr_in here = {.sin_family = AF_INET,
                                     .sin_addr = {htonl(INADDR_LOOPBACK)},
                                     .sin_port = htons((uint16_t)number)};
    const int held = socket(AF_INET, SOCK_DGRAM, 0);
    char uri[64], err[PORT_ERR] = "";
    struct port *p;
    int status;

    assert_int_equal(bind(held, (const void *)&here, sizeof(here)), 0);
    const pid_t holder = fork();
    if (holder == 0) {
        usleep(200000);
        _exit(0);
    }
    assert_true(holder > 0);
    close(held);
    snprintf(uri, sizeof(uri), "udp:127.0.0.1:%u", number);
    news[0] = 0;
    assert_int_equal(port_open(uri, PORT_SERVER, &p, err), 0);
    assert_non_null(strstr(news, "in use: waiting"));
    port_close(p);
    assert_int_equal(waitpid(holder, &status, 0), holder);
    (void)state;
}

static void bad_ports_are_named(void **state)
{
    char uri[64], err[PORT_ERR] = "";
    struct port *p, *q;
    snprintf(uri, sizeof(uri), "udp:127.0.0.1:%u", free_port());
    p = must_open(uri, PORT_SERVER);
    assert_int_equal(port_open(uri, PORT_SERVER, &q, err), -EADDRINUSE);
    assert_non_null(strstr(err, "another program"));
    port_close(p);
    assert_true(port_open("udp:" NO_SUCH_HOST ":7300", PORT_CLIENT, &q, err) < 0);
    assert_non_null(strstr(err, NO_SUCH_HOST));
    if (foreign_addresses_bind()) {
        print_message("net.ipv4.ip_nonlocal_bind is set: a foreign address is not tried\n");
    } else {
        assert_int_equal(port_open("udp:192.0.2.1:7300", PORT_SERVER, &q, err), -EADDRNOTAVAIL);
        assert_non_null(strstr(err, "no such address"));
    }
    assert_int_equal(port_open("udp:*:7300", PORT_CLIENT, &q, err), -EINVAL);
    assert_non_null(strstr(err, "needs the cloud's host"));
}

static void long_packets_go_where_asked_for(void **state)
{
    struct pair t;
    pair_open(&t, "127.0.0.1", ",mtu=9000");
    assert_int_equal(t.client->caps.mtu_bytes, 9000);
    assert_int_equal(t.client->caps.mtu_sure_bytes, 0); /* loopback takes it */
    bounce(&t, 9000 + 14 - OUTER_BYTES, 1);
    pair_close(&t);
}

#define NO_NAMESPACE 78

/* This process is a host of its own, of one interface, which is this address'. */
static void become_host(struct ifreq *lo)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(0x0a4d0001)}};
    const int fd = unshare(CLONE_NEWNET) < 0 ? -1 : socket(AF_INET, SOCK_DGRAM, 0);
    bool up;

    *lo = (struct ifreq){.ifr_name = "lo"};
    memcpy(&lo->ifr_addr, &address, sizeof(address));
    up = fd >= 0 && ioctl(fd, SIOCSIFADDR, lo) == 0;
    lo->ifr_flags = IFF_UP;
    if (!up || ioctl(fd, SIOCSIFFLAGS, lo) < 0)
        _exit(NO_NAMESPACE);
    close(fd);
}

static void set_mtu(struct ifreq *lo, int mtu)
{
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    lo->ifr_mtu = mtu;
    assert_int_equal(ioctl(fd, SIOCSIFMTU, lo), 0);
    close(fd);
}

static void send_like(struct port *p, int n, uint32_t mtu)
{
    struct pkt *out[8];
    for (int i = 0; i < n; i++)
        out[i] = frame(p, p->path, mtu + 14 - OUTER_BYTES, (uint8_t)i);
    send_all(p, out, n);
    for (int i = 0; i < n; i++)
        pkt_unref(out[i]);
}

static void arrive(struct pair *t, int n, uint32_t mtu)
{
    for (int i = 0; i < n; i++) {
        struct pkt *in = receive(t->server);
        check_frame(in, mtu + 14 - OUTER_BYTES, (uint8_t)i);
        pkt_unref(in);
    }
}

/* The interface comes to take less: what is longer is lost, one by one or many at once, and nothing
 * is fragmented; the rest goes on, by UDP_SEGMENT too. */
static void in_a_narrow_host(const char *io)
{
    struct ifreq lo;
    struct pair t;
    char uri[64];

    become_host(&lo);
    set_mtu(&lo, 1500);
    t.server = must_open("udp:*:7300", PORT_SERVER);
    snprintf(uri, sizeof(uri), "udp:10.77.0.1:7300,io=%s", io);
    t.client = must_open(uri, PORT_CLIENT);
    assert_int_equal(t.client->caps.mtu_bytes, 1500);
    assert_int_equal(t.client->caps.mtu_sure_bytes, 1280);
    send_like(t.client, 8, 1500);
    arrive(&t, 8, 1500);
    set_mtu(&lo, 1400);
    for (int n = 1; n <= 8; n += 7) {
        send_like(t.client, n, 1401);
        send_like(t.client, n, 1400);
        arrive(&t, n, 1400);
        assert_true(t.client->stats.tx_failed >= (n > 1 ? 2 : 1));
    }
    assert_string_equal(news, "");
    port_close(t.client);
    port_close(t.server);
}

static void what_is_too_long_is_lost(void **state)
{
    const char *ios[] = {"io_uring", "syscalls"};
    for (int i = 0; i < 2; i++) {
        int status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            news[0] = '\0';
            in_a_narrow_host(ios[i]);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == NO_NAMESPACE)
            print_message("no network namespace may be made here: not tried\n");
        else
            assert_int_equal(status, 0);
    }
}

#define NO_SECCOMP 77

/* As containers do: io_uring may not be used. Then the plain calls are, which is said. */
static void deny_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(NO_SECCOMP);
}

static void without_io_uring_it_works_too(void **state)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct pair t;
        char err[PORT_ERR] = "";
        struct port *p;
        deny_io_uring();
        pair_open(&t, "127.0.0.1", "");
        bounce(&t, 500, 1);
        bool said = strstr(t.client->caps.how, "sendmmsg") && strstr(t.client->caps.how, "forbids");
        pair_close(&t);
        bool refused = port_open("udp:127.0.0.1:7300,io=io_uring", PORT_CLIENT, &p, err) == -EPERM;
        _exit(!said || !refused || !strstr(err, "forbids"));
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_SECCOMP)
        print_message("this kernel takes no filter of calls: not tried\n");
    else
        assert_int_equal(status, 0);
}

/* A budget's ports have fewer packets: all of them together take no more than it says. */
static void packets_are_limited(void **state)
{
    const uint64_t limit = 700000;
    struct pkt *all[8191];
    struct pair t;

    port_packets_limit(limit);
    pair_open(&t, "127.0.0.1", "");
    struct pkt_pool *pool = t.client->pool;
    const uint32_t n = pool->n_free, most = pool->n_total;
    assert_true(most > limit / 2000 && most < limit / 1500);
    const size_t before = mallinfo2().uordblks;
    for (uint32_t i = 0; i < n; i++)
        assert_non_null(all[i] = pkt_alloc(pool));
    assert_null(pkt_alloc(pool));
    assert_true(mallinfo2().uordblks - before <= limit);
    for (uint32_t i = 0; i < n; i++)
        pkt_unref(all[i]);
    bounce(&t, 500, 1);
    pair_close(&t);

    port_packets_limit(1);
    pair_open(&t, "127.0.0.1", "");
    assert_int_equal(t.client->pool->n_total, 128);
    bounce(&t, 100, 1);
    pair_close(&t);

    port_packets_limit(UINT64_MAX);
    pair_open(&t, "127.0.0.1", "");
    assert_int_equal(t.client->pool->n_total, 8191);
    pair_close(&t);
    port_packets_limit(0);
    pair_open(&t, "127.0.0.1", "");
    assert_int_equal(t.client->pool->n_total, 8191);
    pair_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_cross_both_ways),
        cmocka_unit_test(any_address_takes_all),
        cmocka_unit_test(link_local_peers_are_answered),
        cmocka_unit_test(wrong_frames_vanish),
        cmocka_unit_test(foreign_datagrams_are_dropped),
        cmocka_unit_test(a_flood_of_junk_is_looked_at_in_parts),
        cmocka_unit_test(an_empty_pool_waits),
        cmocka_unit_test(packets_are_limited),
        cmocka_unit_test(signals_and_deadlines_end_waits),
        cmocka_unit_test(the_end_of_the_peer_is_seen),
        cmocka_unit_test(strangers_end_nothing),
        cmocka_unit_test(names_addresses_take_turns),
        cmocka_unit_test(names_are_looked_up_beside),
        cmocka_unit_test(without_io_uring_it_works_too),
        cmocka_unit_test(an_address_still_in_use_is_waited_for),
        cmocka_unit_test(bad_ports_are_named),
        cmocka_unit_test(long_packets_go_where_asked_for),
        cmocka_unit_test(what_is_too_long_is_lost),
    };

    port_on_news(hear);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
