/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/bridge.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "dataplane/port.h"

struct way {
    struct netem_line *line;
    struct rawif *from, *to;
    uint64_t now_ns;  /* of the burst that is received */
    uint64_t no_room; /* frames lost for want of memory */
    uint64_t lateness_max_ns;
    bool blocked; /* the kernel takes no more */
};

struct bridge {
    struct rawif *interfaces[2];
    struct way ways[2];
};

int bridge_open(const char *a, const char *b, const struct netem_params *p, struct bridge **out,
                char *err)
{
    const char *names[2] = {a, b};
    struct bridge *bridge = calloc(1, sizeof *bridge);
    int rc = bridge ? 0 : -ENOMEM;
    snprintf(err, BRIDGE_ERR, "out of memory");
    if (rc == 0)
        rc = netem_check(p, err);
    for (int i = 0; i < 2 && rc == 0; i++) {
        struct netem_params own = *p;
        own.seed += (uint64_t)i; /* each way its own fate */
        /* A bit of an Ethernet address is no bit of a packet: a network card would see to it. */
        rc = netem_line_open(&own, ETH_HLEN, &bridge->ways[i].line);
        if (rc == 0)
            rc = rawif_open(names[i], &bridge->interfaces[i], err);
    }
    if (rc < 0) {
        bridge_close(bridge);
        return rc;
    }
    for (int i = 0; i < 2; i++) {
        bridge->ways[i].from = bridge->interfaces[i];
        bridge->ways[i].to = bridge->interfaces[1 - i];
    }
    /* Sleep to the microsecond, not to the 50 that the kernel rounds up to. */
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
    *out = bridge;
    return 0;
}

void bridge_close(struct bridge *b)
{
    if (!b)
        return;
    for (int i = 0; i < 2; i++) {
        netem_line_close(b->ways[i].line);
        rawif_close(b->interfaces[i]);
    }
    free(b);
}

static void put(void *arg, const uint8_t *frame, uint32_t len)
{
    struct way *w = arg;
    if (netem_line_put(w->line, w->now_ns, frame, len) < 0)
        w->no_room++;
}

static void send_due(struct way *w)
{
    w->blocked = false;
    for (;;) {
        const uint64_t now_ns = port_now_ns(), due_ns = netem_line_next_ns(w->line);
        const struct netem_frame *f = netem_line_due(w->line, now_ns);
        if (!f)
            return;
        if (rawif_send(w->to, f->bytes, f->len) < 0) {
            w->blocked = true;
            return;
        }
        if (now_ns - due_ns > w->lateness_max_ns)
            w->lateness_max_ns = now_ns - due_ns;
        netem_line_pop(w->line);
    }
}

static void wait_for_more(const struct bridge *b, uint64_t deadline_ns)
{
    struct pollfd fds[4];
    for (int i = 0; i < 2; i++) {
        const struct way *w = &b->ways[i];
        const uint64_t due_ns = netem_line_next_ns(w->line);
        fds[i] = (struct pollfd){.fd = rawif_receive_fd(w->from), .events = POLLIN};
        fds[2 + i] =
            (struct pollfd){.fd = w->blocked ? rawif_send_fd(w->to) : -1, .events = POLLOUT};
        if (!w->blocked && due_ns < deadline_ns)
            deadline_ns = due_ns;
    }
    const uint64_t now_ns = port_now_ns();
    const uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
    const struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000u),
                                  .tv_nsec = (long)(left_ns % 1000000000u)};
    ppoll(fds, 4, &left, NULL);
}

int bridge_poll(struct bridge *b, uint64_t deadline_ns)
{
    bool more = false;
    for (int i = 0; i < 2; i++) {
        struct way *w = &b->ways[i];
        w->now_ns = port_now_ns();
        const int n = rawif_receive(w->from, put, w);
        if (n < 0)
            return n;
        more = more || n > 0;
        send_due(w);
    }
    if (!more)
        wait_for_more(b, deadline_ns);
    return 0;
}

void bridge_stats(struct bridge *b, int way, struct bridge_stats *s)
{
    const struct way *w = &b->ways[way];
    struct rawif_stats from, to;
    rawif_stats(w->from, &from);
    rawif_stats(w->to, &to);
    *s = (struct bridge_stats){.path = *netem_line_stats(w->line),
                               .super_frames = from.super_frames,
                               .unreadable = from.unreadable,
                               .kernel_dropped = from.kernel_dropped + w->no_room,
                               .send_failed = to.send_failed,
                               .lateness_max_ns = w->lateness_max_ns};
}
