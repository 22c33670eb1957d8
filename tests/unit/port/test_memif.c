/* SPDX-License-Identifier: Apache-2.0 */
/* memif between this process and others of this same executable. */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/port/peer.h"

#define MS 1000000ull

static char folder[] = "/tmp/isthmus-test-XXXXXX";
static char path_uri[64], abstract_uri[64];
static uint64_t seed;

static const char *socket_path(void)
{
    return path_uri + strlen("memif:");
}

static void assert_folder_empty(void)
{
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            fail_msg("%s was left behind", e->d_name);
    closedir(d);
}

static struct port *must_open(const char *uri, enum port_role role)
{
    char err[PORT_ERR] = "";
    struct port *p;
    int rc = port_open(uri, role, &p, err);
    if (rc < 0)
        fail_msg("port_open(%s): %d, %s", uri, rc, err);
    assert_non_null(strstr(p->caps.how, "a ring of 1024 buffers of 1664 bytes each way"));
    return p;
}

static int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* Send `total` random frames against an echo and check that each comes back once, in order, with
 * its bytes; every packet is sent by a reference that we keep, every third one twice. */
static void check_echo(struct port *p, int total)
{
    enum { FLIGHT = 128 };
    struct pkt *sent[FLIGHT]; /* ring of what is to come back */
    int head = 0, in_flight = 0, to_send = total, to_come = total;
    const uint64_t until = port_now_ns() + 20000 * MS;
    while (to_come > 0) {
        assert_true(port_now_ns() < until);
        assert_int_equal(port_alive(p), 1);
        while (to_send > 0 && in_flight < FLIGHT) {
            struct pkt *o = pkt_alloc(p->pool);
            assert_non_null(o);
            assert_true(o->room >= 1514);
            o->len = 1 + (uint32_t)(random_u64(&seed) % 1514);
            for (uint32_t i = 0; i < o->len; i++)
                o->data[i] = (uint8_t)random_u64(&seed);
            int copies = to_send % 3 == 0 && to_send > 1 && in_flight + 1 < FLIGHT ? 2 : 1;
            int taken = 0;
            for (int i = 0; i < copies; i++)
                taken += port_tx(p, &o, 1);
            for (int i = 0; i < taken; i++)
                sent[(head + in_flight++) % FLIGHT] = pkt_ref(o);
            pkt_unref(o);
            to_send -= taken;
            if (taken < copies)
                break;
        }
        struct pkt *in[64];
        int n = port_rx(p, in, 64);
        for (int i = 0; i < n; i++) {
            struct pkt *want = sent[head];
            assert_true(in_flight > 0);
            assert_int_equal(in[i]->len, want->len);
            assert_memory_equal(in[i]->data, want->data, want->len);
            pkt_unref(in[i]);
            pkt_unref(want);
            head = (head + 1) % FLIGHT;
            in_flight--;
            to_come--;
        }
        if (n == 0)
            port_wait(p, port_now_ns() + 100 * MS);
    }
    assert_int_equal(in_flight, 0);
}

static void frames_cross_both_ways_unchanged(void **state)
{
    struct port *p = must_open(path_uri, PORT_SERVER);
    assert_string_equal(p->caps.name, "memif");
    struct pkt *none;
    assert_int_equal(port_alive(p), 0);
    assert_int_equal(port_rx(p, &none, 1), 0);
    pid_t pid = peer_start("echo", PORT_CLIENT, path_uri);
    assert_true(peer_await(p, 1, 10000));
    check_echo(p, 20000);
    assert_int_equal(p->stats.tx_packets, 20000);
    assert_int_equal(p->stats.rx_packets, 20000);
    assert_int_equal(p->stats.tx_bytes, p->stats.rx_bytes);
    assert_in_range(port_eal_rss_bytes(), 1 << 20, 24 << 20);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
    assert_folder_empty();
}

static void the_client_may_come_first(void **state)
{
    struct port *p = must_open(abstract_uri, PORT_CLIENT);
    assert_false(peer_await(p, 1, 30));
    pid_t pid = peer_start("echo", PORT_SERVER, abstract_uri);
    assert_true(peer_await(p, 1, 10000));
    check_echo(p, 2000);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
}

static void peers_die_and_others_come(enum port_role role)
{
    struct port *p = must_open(path_uri, role);
    int fds = 0;
    for (int i = 0; i < 4; i++) {
        pid_t pid = peer_start("echo", role == PORT_SERVER ? PORT_CLIENT : PORT_SERVER, path_uri);
        assert_true(peer_await(p, 1, 10000));
        check_echo(p, 500);
        uint64_t killed_ns = port_now_ns();
        peer_kill(pid);
        assert_true(peer_await(p, -EPIPE, 1000));
        assert_true(port_now_ns() - killed_ns < 500 * MS);
        struct pkt *o = pkt_alloc(p->pool);
        o->len = 60;
        assert_int_equal(port_tx(p, &o, 1), 0);
        pkt_unref(o);
        assert_true(peer_await(p, 0, 1000));
        assert_int_equal(p->stats.peers_lost, i + 1);
        assert_int_equal(p->pool->n_free, p->pool->n_total);
        if (role == PORT_CLIENT)
            assert_folder_empty(); /* the survivor cleans up */
        if (i == 0)
            fds = open_fds();
        else
            assert_int_equal(open_fds(), fds);
    }
    port_close(p);
    assert_folder_empty();
}

static void servers_die_and_others_come(void **state)
{
    peers_die_and_others_come(PORT_CLIENT);
}

static void clients_die_and_others_come(void **state)
{
    peers_die_and_others_come(PORT_SERVER);
}

static void last_words_are_heard(void **state)
{
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    pid_t pid = peer_start("echo", PORT_CLIENT, abstract_uri);
    assert_true(peer_await(p, 1, 10000));
    struct pkt *o = pkt_alloc(p->pool), *in = NULL;
    memset(o->data, 9, 60);
    o->len = 60;
    assert_int_equal(port_tx(p, &o, 1), 1);
    pkt_unref(o);
    usleep(100000); /* the echo stands in the ring */
    peer_kill(pid);
    while (port_alive(p) == 1)
        usleep(1000);
    assert_int_equal(port_alive(p), -EPIPE);
    assert_int_equal(port_rx(p, &in, 1), 1);
    assert_int_equal(in->data[59], 9);
    pkt_unref(in);
    port_close(p);
}

static void one_name_one_server_one_client(void **state)
{
    const char *uris[] = {path_uri, abstract_uri};
    for (int i = 0; i < 2; i++) {
        struct port *p = must_open(uris[i], PORT_SERVER), *q = NULL;
        char err[PORT_ERR] = "";
        assert_int_equal(port_open(uris[i], PORT_SERVER, &q, err), -EADDRINUSE);
        assert_non_null(strstr(err, uris[i]));
        pid_t pid = peer_start("echo", PORT_CLIENT, uris[i]);
        assert_true(peer_await(p, 1, 10000));
        pid_t second = peer_start("idle", PORT_CLIENT, uris[i]);
        check_echo(p, 5000);
        usleep(200000); /* the second one knocks */
        check_echo(p, 5000);
        peer_kill(second);
        port_close(p);
        assert_int_equal(peer_end(pid), 0);
        assert_folder_empty();
    }
}

/* Whoever never calls port_alive still gets the next peer, and sleeps meanwhile. */
static void a_loss_nobody_asks_about_passes(void **state)
{
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    pid_t pid = peer_start("idle", PORT_CLIENT, abstract_uri);
    assert_true(peer_await(p, 1, 10000));
    peer_kill(pid);
    pid = peer_start("echo", PORT_CLIENT, abstract_uri);
    const uint64_t until = port_now_ns() + 1500 * MS;
    int waits = 0;
    for (struct pkt *in; port_now_ns() < until; waits++) {
        assert_int_equal(port_rx(p, &in, 1), 0);
        port_wait(p, port_now_ns() + 20 * MS);
    }
    assert_in_range(waits, 1, 400);
    assert_int_equal(p->stats.peers_lost, 1);
    assert_true(peer_await(p, 1, 10000));
    check_echo(p, 100);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
}

static void make_stale_socket(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", socket_path());
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
}

static void stale_sockets_go_other_files_stay(void **state)
{
    char err[PORT_ERR];
    struct port *p;
    make_stale_socket();
    p = must_open(path_uri, PORT_SERVER);
    struct stat st;
    assert_int_equal(stat(socket_path(), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    port_close(p);
    assert_folder_empty();

    FILE *f = fopen(socket_path(), "w");
    fclose(f);
    assert_int_equal(port_open(path_uri, PORT_SERVER, &p, err), -EADDRINUSE);
    p = must_open(path_uri, PORT_CLIENT); /* a server may still come */
    assert_int_equal(port_alive(p), 0);
    port_close(p);
    assert_int_equal(access(socket_path(), F_OK), 0);
    unlink(socket_path());

    make_stale_socket();
    pid_t pid = peer_start("idle", PORT_SERVER, path_uri);
    p = must_open(path_uri, PORT_CLIENT);
    assert_true(peer_await(p, 1, 10000));
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
    assert_folder_empty();
}

static void bad_names_are_refused(void **state)
{
    char too_long[200];
    memset(too_long, 'x', sizeof(too_long));
    memcpy(too_long, "memif:/", 7);
    too_long[sizeof(too_long) - 1] = '\0';
    const char *bad[] = {"",
                         "memif",
                         "memif:",
                         "memif:@",
                         "udp:1.2.3.4",
                         "loop",
                         too_long,
                         "memif:/no-such-folder/x",
                         "memif:/dev/null/x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char err[PORT_ERR] = "";
        struct port *p;
        if (port_open(bad[i], PORT_SERVER, &p, err) != -EINVAL)
            fail_msg("'%s' was accepted", bad[i]);
        assert_true(strlen(err) > 10);
    }
}

/* More than a core keeps by itself go and come: else a stream would go through all there are. */
static void what_was_used_last_is_used_next(void **state)
{
    enum { N = 300 };
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    const uint32_t all = p->pool->n_total;
    struct pkt *used[N];
    const uint8_t *low = NULL, *high = NULL;
    uint32_t rounds = 0;
    (void)state;
    assert_true(all > 4 * N);
    for (; rounds < all / N + 2; rounds++) {
        for (int i = 0; i < N; i++) {
            used[i] = pkt_alloc(p->pool);
            assert_non_null(used[i]);
            low = !low || used[i]->data < low ? used[i]->data : low;
            high = used[i]->data > high ? used[i]->data : high;
        }
        for (int i = 0; i < N; i++)
            pkt_unref(used[i]);
    }
    /* All lie side by side. */
    assert_true((size_t)(high - low) < (size_t)all / 2 * p->pool->room);
    port_close(p);
}

/* A name with what would be arguments in DPDK's eyes is just a name. */
static void odd_names_are_just_names(void **state)
{
    char uri[160];
    snprintf(uri, sizeof(uri), "memif:%s/a,role=client socket=b", folder);
    struct port *p = must_open(uri, PORT_SERVER);
    pid_t pid = peer_start("echo", PORT_CLIENT, uri);
    assert_true(peer_await(p, 1, 10000));
    check_echo(p, 100);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
    assert_folder_empty();
}

/* What is not a frame of the right length neither goes out nor harms. */
static void wrong_lengths_vanish(void **state)
{
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    pid_t pid = peer_start("echo", PORT_CLIENT, abstract_uri);
    assert_true(peer_await(p, 1, 10000));
    struct pkt *o[3];
    for (int i = 0; i < 3; i++)
        o[i] = pkt_alloc(p->pool);
    o[0]->len = 0;
    o[1]->len = 1515;
    o[2]->len = 1;
    assert_int_equal(port_tx(p, o, 3), 3);
    assert_int_equal(p->stats.tx_packets, 1);
    struct pkt *in;
    while (port_rx(p, &in, 1) == 0)
        assert_int_equal(port_wait(p, port_now_ns() + 100 * MS), 0);
    assert_int_equal(in->len, 1);
    pkt_unref(in);
    for (int i = 0; i < 3; i++)
        pkt_unref(o[i]);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
}

/* Strangers on the rendezvous socket: nonsense, silence, half a hello. The port serves on. */
static void strangers_are_turned_away(void **state)
{
    struct port *p = must_open(path_uri, PORT_SERVER);
    for (int i = 0; i < 20; i++) {
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", socket_path());
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
        char junk[300];
        for (size_t k = 0; k < sizeof(junk); k++)
            junk[k] = (char)random_u64(&seed);
        if (i % 2)
            assert_true(send(fd, junk, 1 + random_u64(&seed) % sizeof(junk), 0) > 0);
        for (int k = 0; k < 10; k++)
            assert_int_equal(port_alive(p), 0);
        close(fd);
        for (int k = 0; k < 10; k++)
            assert_int_equal(port_alive(p), 0);
    }
    pid_t pid = peer_start("echo", PORT_CLIENT, path_uri);
    assert_true(peer_await(p, 1, 10000));
    check_echo(p, 100);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
}

/* And a server that is none of ours: the client must survive its hello. */
static void false_servers_are_left(void **state)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", socket_path());
    int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(listener, 4), 0);
    struct port *p = must_open(path_uri, PORT_CLIENT);
    int fds = open_fds();
    for (int i = 0; i < 20; i++) {
        int fd = accept(listener, NULL, NULL);
        assert_true(fd >= 0);
        struct {
            char magic[8], name[64];
        } hello = {"isthmus", "isthmus00,role=server"};
        hello.magic[7] = '1';
        struct iovec iov = {&hello, i % 4 == 3 ? 20 : sizeof(hello)};
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int) * 3)];
        } control = {.bytes = {0}};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        int sent[3] = {listener, listener, listener};
        if (i % 2) { /* descriptors, but not a sealed page */
            msg.msg_control = control.bytes;
            msg.msg_controllen = sizeof(control.bytes);
            struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
            c->cmsg_level = SOL_SOCKET;
            c->cmsg_type = SCM_RIGHTS;
            c->cmsg_len = CMSG_LEN(sizeof(sent));
            memcpy(CMSG_DATA(c), sent, sizeof(sent));
        }
        assert_true(sendmsg(fd, &msg, MSG_NOSIGNAL) > 0);
        for (int k = 0; k < 20; k++) {
            assert_int_equal(port_alive(p), 0);
            port_wait(p, port_now_ns() + MS);
        }
        close(fd);
    }
    assert_in_range(open_fds(), fds - 2, fds + 2);
    port_close(p);
    close(listener);
    unlink(socket_path());
}

/* Ping-pong in which both sides fall asleep at random: a lost wake-up would cost a whole wait. */
static void no_wakeup_is_lost(void **state)
{
    const char *env = getenv("ISTHMUS_TEST_PINGPONGS");
    const int rounds = env ? atoi(env) : 20000;
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    pid_t pid = peer_start("nap", PORT_CLIENT, abstract_uri);
    assert_true(peer_await(p, 1, 10000));
    struct pkt *o = pkt_alloc(p->pool), *in = NULL;
    o->len = 60;
    for (int i = 0; i < rounds; i++) {
        memcpy(o->data, &i, sizeof(i));
        assert_int_equal(port_tx(p, &o, 1), 1);
        if (random_u64(&seed) % 4 == 0) {
            const uint64_t until = port_now_ns() + random_u64(&seed) % 40000;
            while (port_now_ns() < until)
                continue;
        }
        const uint64_t sent_ns = port_now_ns();
        while (port_rx(p, &in, 1) == 0) {
            assert_int_equal(port_alive(p), 1);
            port_wait(p, sent_ns + 30000 * MS);
        }
        /* Were a wake lost, only the end of our or the peer's wait would go on: 1 s, 100 ms. */
        if (port_now_ns() - sent_ns > 99 * MS)
            print_message("[ slow     ] round %d took %llu ms\n", i,
                          (unsigned long long)((port_now_ns() - sent_ns) / MS));
        assert_true(port_now_ns() - sent_ns < 900 * MS);
        assert_memory_equal(in->data, &i, sizeof(i));
        pkt_unref(in);
    }
    assert_true(p->stats.sleeps > 0 && p->stats.wakeups > 0);
    print_message("[ measured ] %d ping-pongs, %llu sleeps, %llu woken\n", rounds,
                  (unsigned long long)p->stats.sleeps, (unsigned long long)p->stats.wakeups);
    pkt_unref(o);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
}

static void on_alarm(int sig)
{
}

static void signals_end_a_wait(void **state)
{
    struct port *p = must_open(abstract_uri, PORT_SERVER);
    struct sigaction sa = {.sa_handler = on_alarm}, before;
    sigaction(SIGALRM, &sa, &before);
    for (int connected = 0; connected < 2; connected++) {
        pid_t pid = 0;
        if (connected) {
            pid = peer_start("idle", PORT_CLIENT, abstract_uri);
            assert_true(peer_await(p, 1, 10000));
        }
        struct itimerval in_50_ms = {.it_value = {.tv_usec = 50000}};
        setitimer(ITIMER_REAL, &in_50_ms, NULL);
        int rc = 0;
        const uint64_t from = port_now_ns();
        while (rc == 0 && port_now_ns() < from + 5000 * MS)
            rc = port_wait(p, UINT64_MAX);
        assert_int_equal(rc, -EINTR);
        if (connected)
            peer_kill(pid);
    }
    sigaction(SIGALRM, &before, NULL);
    port_close(p);
}

static void starting_changes_nothing_of_ours(void **state)
{
    cpu_set_t now;
    sigset_t mask;
    sched_getaffinity(0, sizeof(now), &now);
    assert_memory_equal(&now, *state, sizeof(now));
    sigprocmask(SIG_BLOCK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGINT), 0);
    assert_string_equal(getenv("RUNTIME_DIRECTORY"), folder); /* and nothing was made there */
    assert_folder_empty();
}

/* kill -9 in the midst of traffic, again and again, on both sides of the port. */
static void death_under_fire(enum port_role role, int times)
{
    struct port *p = must_open(path_uri, role);
    struct pkt *o = pkt_alloc(p->pool), *in[32];
    o->len = 1514;
    memset(o->data, 0x5a, o->len);
    for (int i = 0; i < times; i++) {
        pid_t pid = peer_start("flood", role == PORT_SERVER ? PORT_CLIENT : PORT_SERVER, path_uri);
        assert_true(peer_await(p, 1, 20000));
        const uint64_t kill_ns = port_now_ns() + random_u64(&seed) % (3 * MS);
        bool killed = false;
        int alive;
        while ((alive = port_alive(p)) == 1) {
            for (int k = 0; k < 8; k++)
                port_tx(p, &o, 1);
            int n = port_rx(p, in, 32);
            for (int k = 0; k < n; k++) {
                assert_int_equal(in[k]->len, 1514);
                assert_int_equal(in[k]->data[1513], 0xa5);
                pkt_unref(in[k]);
            }
            if (!killed && port_now_ns() > kill_ns) {
                kill(pid, SIGKILL);
                killed = true;
            }
            assert_true(port_now_ns() < kill_ns + 2000 * MS);
        }
        assert_true(killed);
        assert_int_equal(alive, -EPIPE);
        peer_end(pid);
        assert_true(peer_await(p, 0, 1000));
        assert_int_equal(p->pool->n_free, p->pool->n_total - 1);
    }
    pkt_unref(o);
    port_close(p);
    assert_folder_empty();
}

/* Also while it starts, joins or leaves. */
static void death_at_any_moment(enum port_role role, int times)
{
    struct port *p = must_open(path_uri, role);
    const enum port_role other = role == PORT_SERVER ? PORT_CLIENT : PORT_SERVER;
    for (int i = 0; i < times; i++) {
        pid_t pid = peer_start("echo", other, path_uri);
        const uint64_t until = port_now_ns() + random_u64(&seed) % (300 * MS);
        for (struct pkt *in; port_now_ns() < until;) {
            port_alive(p);
            assert_int_equal(port_rx(p, &in, 1), 0);
            port_wait(p, until);
        }
        peer_kill(pid);
    }
    assert_true(peer_await(p, 0, 5000));
    if (role == PORT_CLIENT) {
        usleep(20000);
        port_alive(p);
        assert_folder_empty();
    }
    pid_t pid = peer_start("echo", other, path_uri);
    assert_true(peer_await(p, 1, 20000));
    check_echo(p, 100);
    port_close(p);
    assert_int_equal(peer_end(pid), 0);
    assert_folder_empty();
}

static void kills_at_any_moment(void **state)
{
    death_at_any_moment(PORT_SERVER, 10);
    death_at_any_moment(PORT_CLIENT, 10);
}

static void kills_under_traffic(void **state)
{
    const char *env = getenv("ISTHMUS_TEST_KILLS");
    const int times = env ? atoi(env) : 50;
    death_under_fire(PORT_SERVER, times / 2);
    death_under_fire(PORT_CLIENT, times - times / 2);
}

int main(int argc, char **argv)
{
    peer_main(argc, argv);
    seed = port_now_ns();
    const char *env = getenv("ISTHMUS_TEST_SEED");
    if (env)
        seed = strtoull(env, NULL, 0);
    print_message("[ seed     ] ISTHMUS_TEST_SEED=%llu\n", (unsigned long long)seed);
    if (!mkdtemp(folder))
        return 1;
    snprintf(path_uri, sizeof(path_uri), "memif:%s/port", folder);
    snprintf(abstract_uri, sizeof(abstract_uri), "memif:@isthmus-test-%d", (int)getpid());
    setenv("RUNTIME_DIRECTORY", folder, 1);
    static cpu_set_t cpus;
    sched_getaffinity(0, sizeof(cpus), &cpus);

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_names_are_refused),
        cmocka_unit_test(frames_cross_both_ways_unchanged),
        cmocka_unit_test_prestate(starting_changes_nothing_of_ours, &cpus),
        cmocka_unit_test(the_client_may_come_first),
        cmocka_unit_test(servers_die_and_others_come),
        cmocka_unit_test(clients_die_and_others_come),
        cmocka_unit_test(last_words_are_heard),
        cmocka_unit_test(one_name_one_server_one_client),
        cmocka_unit_test(a_loss_nobody_asks_about_passes),
        cmocka_unit_test(stale_sockets_go_other_files_stay),
        cmocka_unit_test(what_was_used_last_is_used_next),
        cmocka_unit_test(odd_names_are_just_names),
        cmocka_unit_test(wrong_lengths_vanish),
        cmocka_unit_test(strangers_are_turned_away),
        cmocka_unit_test(false_servers_are_left),
        cmocka_unit_test(no_wakeup_is_lost),
        cmocka_unit_test(signals_end_a_wait),
        cmocka_unit_test(kills_at_any_moment),
        cmocka_unit_test(kills_under_traffic),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return rc;
}
