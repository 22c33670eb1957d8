/* SPDX-License-Identifier: Apache-2.0 */
/* A link, by messages over the port that edge and cloud would have. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/bench/transport_load.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/measure/measure.h"
#include "control/privileges.h"

#define MEET_NS    UINT64_C(10000000000)
#define SMALL      128u /* bytes of a message: about an id's answer */
#define STREAMS    64u
#define HEAD_BYTES 82.0 /* of a packet (dataplane/wire.h) */

struct probe {
    struct port *port;
    struct security security;
    struct asker *asker;
    const char *why;
};

static const char *not_gone(void *arg)
{
    (void)arg;
    return NULL;
}

static int lost(const struct measure_link_params *p, int rc, const char *why)
{
    log_error("%s: %s: is `isthmus bench transport --listen --port` running there?", p->uri,
              why ? why : strerror(-rc));
    return EXIT_FAILED;
}

static int meet(const struct measure_link_params *p, struct probe *b)
{
    struct transport_told told;
    int rc = security_open(p->security, false, &b->security);

    if (rc == EXIT_OK)
        rc = port_arg_open(p->uri, PORT_CLIENT, &b->security, p->netem, &b->port);
    if (rc == EXIT_OK)
        rc = privileges_drop_brief(p->uri, b->security.user);
    if (rc != EXIT_OK)
        return rc;
    rc = asker_open(b->port, &b->security, true, &b->asker);
    if (rc == 0)
        rc = asker_ask(b->asker, MEET_NS, not_gone, NULL, &told, &b->why);
    return rc ? lost(p, rc, b->why) : EXIT_OK;
}

/* Bits a second of frames that n messages of `bytes` came to. */
static double bits(double messages, uint32_t bytes, double ns)
{
    return ns > 0 ? messages * (bytes + HEAD_BYTES) * 8 * 1e9 / ns : 0;
}

/* Three kinds of load: one small message at a time, for the round trip; many long ones, one way and
 * back, for the rates; packets without the link, which are not sent again, for the loss. */
static int probe(const struct measure_link_params *p, struct probe *b, struct plan_link *l)
{
    const struct load_env env = {.asker = b->asker, .gone = not_gone, .arg = NULL};
    struct way *link = asker_way(b->asker, TRANSPORT_LINK),
               *raw = asker_way(b->asker, TRANSPORT_RAW);
    const struct load small = {SMALL, 1, 0}, some = {SMALL, 8, 0};
    struct load full = {0, STREAMS, 0};
    uint32_t packet;
    const uint64_t time_ns = (uint64_t)(p->time_s * 1e9);
    struct load_result *r = calloc(4, sizeof(*r));
    int rc = r ? 0 : -ENOMEM;

    if (rc == 0)
        rc = load_round_trips(link, &small, time_ns, &env, &r[0], &b->why);
    packet = full.size_bytes = asker_packet_bytes(b->asker); /* the path is known by now */
    if (rc == 0)
        rc = load_one_way(link, &full, time_ns, &env, &r[1], &b->why);
    if (rc == 0)
        rc = load_round_trips(link, &full, time_ns, &env, &r[2], &b->why);
    if (rc == 0) {
        asker_settle(b->asker);
        rc = load_round_trips(raw, &some, time_ns, &env, &r[3], &b->why);
    }
    if (rc == 0) {
        const double trips = (double)(r[3].round_trips + r[3].lost);
        l->up_bits_per_s = bits((double)r[1].messages, packet, (double)r[1].message_ns);
        l->down_bits_per_s = fmin(
            l->up_bits_per_s, bits((double)r[2].round_trips, packet, (double)r[2].round_trip_ns));
        /* Without what the message itself takes on the way. */
        const double own_s =
            (SMALL + HEAD_BYTES) * 8 * (1 / l->up_bits_per_s + 1 / l->down_bits_per_s);
        l->rtt_s = fmax(0, histogram_at(&r[0].rtt, .5) * 1e-9 - own_s);
        l->loss = trips > 0 ? 1 - sqrt(1 - (double)r[3].lost / trips) : 0;
        l->mtu_bytes = asker_mtu(b->asker);
        if (!(l->up_bits_per_s >= 1) || !(l->down_bits_per_s >= 1) || !isfinite(l->rtt_s) ||
            l->loss > .9)
            rc = -EPROTO;
    }
    free(r);
    return rc ? lost(p, rc, rc == -EPROTO ? "too little came back" : b->why) : EXIT_OK;
}

int measure_link(const struct measure_link_params *p, struct plan_link *l)
{
    struct probe b = {.port = NULL};
    struct plan_host us;

    memset(l, 0, sizeof(*l));
    measure_names(&us);
    strcpy(l->host, us.host);
    strcpy(l->version, us.version);
    strcpy(l->commit, us.commit);
    snprintf(l->peer, sizeof l->peer, "%.*s", (int)sizeof l->peer - 1, p->uri);
    int rc = meet(p, &b);
    if (rc == EXIT_OK)
        rc = probe(p, &b, l);
    asker_close(b.asker);
    port_close(b.port);
    security_close(&b.security);
    return rc;
}
