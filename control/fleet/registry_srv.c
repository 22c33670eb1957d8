/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS SRV, through the system's resolver (its search list, TCP for long answers) or a name server
 * that is given. A Kubernetes headless Service is asked so:
 * _isthmus._udp.isthmus.NAMESPACE.svc.cluster.local
 */
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netdb.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/fleet/registry_impl.h"
#include "control/fleet/srv.h"

#define ANSWER_BYTES  65535
#define TTL_MIN_S     1u
#define TTL_MAX_S     60u
#define AGAIN_MIN_MS  1000u
#define AGAIN_MAX_MS  30000u
#define ADDRESSES_MAX 256u /* asked for one by one in a look */

struct srv {
    char *name;
    bool has_server;
    struct sockaddr_in server;
    uint32_t again_ms; /* of failures in a row */
    uint8_t answer[ANSWER_BYTES];
};

/* NAME[@ADDRESS[:PORT]] */
static int srv_open(struct registry *r, const char *what, void **source, char *err)
{
    (void)r;
    struct srv *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->name = strdup(what);
    if (!s->name) {
        free(s);
        return -ENOMEM;
    }
    char *server = strchr(s->name, '@');
    bool good = true;
    if (server) {
        *server++ = '\0';
        char *colon = strchr(server, ':'), *end = NULL;
        const unsigned long port = colon ? strtoul(colon + 1, &end, 10) : NS_DEFAULTPORT;
        if (colon)
            *colon = '\0';
        s->server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        s->has_server = true;
        good = inet_pton(AF_INET, server, &s->server.sin_addr) == 1 && !(end && *end) && port > 0 &&
               port < 65536;
    }
    if (!good || !*s->name || strlen(s->name) > NS_MAXDNAME || strpbrk(s->name, " \t\r\n")) {
        snprintf(
            err, WORKERS_ERR,
            "srv:%.200s: srv:NAME, or srv:NAME@ADDRESS[:PORT] with a name server's IPv4 address, "
            "e.g. srv:_isthmus._udp.workers.example.org",
            what);
        free(s->name);
        free(s);
        return -EINVAL;
    }
    *source = s;
    return 0;
}

static void srv_close(void *source)
{
    struct srv *s = source;
    free(s->name);
    free(s);
}

/* The answer's length, or less than 0 with why. */
static int ask(struct srv *s, struct __res_state *resolver, const char *name, ns_type type,
               const char **why)
{
    int n = res_nsearch(resolver, name, ns_c_in, type, s->answer, sizeof s->answer);
    if (n >= 0)
        return n;
    const int error = resolver->res_h_errno;
    *why = error == HOST_NOT_FOUND ? "there is no such name"
           : error == NO_DATA      ? "the name has no records of that kind"
                                   : "no name server answers";
    return n;
}

/* What the answer left out. Targets without an address are left out of the list. */
static void ask_addresses(struct registry *r, struct srv *s, struct __res_state *resolver,
                          struct srv_answer *a)
{
    const char *why;
    unsigned asked = 0;
    for (size_t i = 0; i < a->n && asked < ADDRESSES_MAX && !registry_closing(r); i++) {
        struct srv_target *t = &a->targets[i];
        if (t->address[0])
            continue;
        char name[sizeof t->name + 1];
        snprintf(name, sizeof name, "%s.", t->name); /* whole: nothing to search for */
        asked++;
        int n = ask(s, resolver, name, ns_t_a, &why);
        if (n >= 0 && srv_parse_address(s->answer, (size_t)n, t->address, &a->ttl_s))
            continue;
        n = ask(s, resolver, name, ns_t_aaaa, &why);
        if (n >= 0)
            srv_parse_address(s->answer, (size_t)n, t->address, &a->ttl_s);
    }
}

static uint32_t failed(struct registry *r, struct srv *s, const char *why)
{
    registry_failed(r, "%s", why);
    s->again_ms = s->again_ms ? 2 * s->again_ms : AGAIN_MIN_MS;
    if (s->again_ms > AGAIN_MAX_MS)
        s->again_ms = AGAIN_MAX_MS;
    return s->again_ms;
}

static uint32_t look_with(struct registry *r, struct srv *s, struct __res_state *resolver)
{
    const char *why = "";
    struct srv_answer a;
    struct workers w;
    const int n = ask(s, resolver, s->name, ns_t_srv, &why);
    if (n < 0)
        return failed(r, s, why);
    int rc = srv_parse(s->answer, (size_t)n, &a);
    if (rc < 0)
        return failed(r, s, "an answer that is none");
    ask_addresses(r, s, resolver, &a);
    const size_t n_targets = a.n;
    uint32_t ttl_s = a.ttl_s;
    rc = srv_workers(&a, &w);
    srv_free(&a);
    if (rc < 0)
        return failed(r, s, "out of memory");
    if (n_targets && !w.n) {
        workers_free(&w);
        return failed(r, s, "no target has an address");
    }
    s->again_ms = 0;
    registry_answered(r);
    registry_deliver(r, &w);
    ttl_s = ttl_s < TTL_MIN_S ? TTL_MIN_S : ttl_s > TTL_MAX_S ? TTL_MAX_S : ttl_s;
    return 1000 * ttl_s;
}

static uint32_t srv_look(struct registry *r, void *source)
{
    struct srv *s = source;
    struct __res_state resolver = {.retrans = 0};
    if (res_ninit(&resolver) < 0)
        return failed(r, s, "the resolver can't be set up");
    resolver.retrans = 1; /* seconds, and times: a look is bounded */
    resolver.retry = 2;
    if (s->has_server) {
        resolver.nscount = 1;
        resolver.nsaddr_list[0] = s->server;
    }
    const uint32_t pause_ms = look_with(r, s, &resolver);
    res_nclose(&resolver);
    return pause_ms;
}

const struct registry_kind registry_srv = {"srv:", srv_open, srv_look, srv_close};
