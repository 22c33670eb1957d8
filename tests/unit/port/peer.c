/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/port/peer.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull

uint64_t random_u64(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

pid_t peer_start(const char *play, enum port_role role, const char *uri)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", "peer", play, role == PORT_SERVER ? "server" : "client", uri,
              (char *)NULL);
        _exit(127);
    }
    return pid;
}

void peer_kill(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

int peer_end(pid_t pid)
{
    int status = 0;
    for (int i = 0; i < 1000; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        nanosleep(&(struct timespec){.tv_nsec = 10 * MS}, NULL);
    }
    peer_kill(pid);
    return -SIGKILL;
}

bool peer_await(struct port *p, int want, unsigned ms)
{
    const uint64_t until = port_now_ns() + ms * MS;
    int alive;
    while ((alive = port_alive(p)) != want && port_now_ns() < until)
        if (alive == -EPIPE) { /* drained, it can take the next peer */
            struct pkt *in[32];
            for (int i = 0, n = port_rx(p, in, 32); i < n; i++)
                pkt_unref(in[i]);
        } else {
            port_wait(p, port_now_ns() + 5 * MS);
        }
    return alive == want;
}

static void nap(uint64_t *seed)
{
    uint64_t r = random_u64(seed);
    if (r % 8 == 0) {
        nanosleep(&(struct timespec){.tv_nsec = (long)(r >> 8) % 60000}, NULL);
    } else if (r % 8 < 4) {
        const uint64_t until = port_now_ns() + (r >> 8) % 40000;
        while (port_now_ns() < until)
            continue;
    }
}

/* A frame with addresses goes back to where it came from; any other bytes stay as they are. */
static void turn_round(struct pkt *p)
{
    struct wire_path back;
    size_t bytes;
    if (!outer_check(p->data, p->len, &bytes))
        return;
    outer_way_back(p->data, &back);
    outer_readdress(p->data, &back);
}

static int echo(struct port *p, bool naps)
{
    uint64_t seed = (uint64_t)getpid();
    int alive;
    while ((alive = port_alive(p)) >= 0) {
        struct pkt *in[32];
        int n = port_rx(p, in, 32);
        for (int i = 0; i < n; i++)
            turn_round(in[i]);
        for (int done = 0; done < n && port_alive(p) == 1;)
            done += port_tx(p, in + done, n - done);
        for (int i = 0; i < n; i++)
            pkt_unref(in[i]);
        if (naps)
            nap(&seed);
        if (n == 0)
            port_wait(p, port_now_ns() + 100 * MS);
    }
    return 0;
}

static _Noreturn void flood(struct port *p)
{
    struct pkt *out = pkt_alloc(p->pool), *in[32];
    memset(out->data, 0xa5, 1514);
    out->len = 1514;
    for (;;) {
        for (int i = 0; i < 8; i++)
            port_tx(p, &out, 1);
        for (int i = 0, n = port_rx(p, in, 32); i < n; i++)
            pkt_unref(in[i]);
        port_alive(p);
    }
}

static int idle(struct port *p)
{
    for (;;)
        if (port_alive(p) == -EPIPE)
            return 0;
        else
            port_wait(p, port_now_ns() + 100 * MS);
}

void peer_main(int argc, char **argv)
{
    if (argc != 4 || strcmp(argv[0], "peer") != 0)
        return;
    char err[PORT_ERR];
    struct port *p;
    enum port_role role = strcmp(argv[2], "server") == 0 ? PORT_SERVER : PORT_CLIENT;
    if (port_open(argv[3], role, &p, err) < 0) {
        fprintf(stderr, "peer: %s\n", err);
        exit(3);
    }
    int rc = 4;
    if (!strcmp(argv[1], "echo") || !strcmp(argv[1], "nap"))
        rc = echo(p, argv[1][0] == 'n');
    else if (!strcmp(argv[1], "flood"))
        flood(p);
    else if (!strcmp(argv[1], "idle"))
        rc = idle(p);
    port_close(p);
    exit(rc);
}
