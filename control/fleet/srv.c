/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/srv.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SRV_FIXED 6u /* priority, weight, port: before the target's name */

static int by_name_and_port(const void *a, const void *b)
{
    const struct srv_target *x = a, *y = b;
    const int names = strcasecmp(x->name, y->name);
    return names ? names : (int)x->port - (int)y->port;
}

static void least(uint32_t *ttl_s, uint32_t record_s)
{
    if (*ttl_s == 0 || record_s < *ttl_s)
        *ttl_s = record_s ? record_s : 1;
}

/* An A or AAAA record's address; false: it is neither, or of another length. */
static bool address_of(const ns_rr *rr, char address[SRV_ADDRESS])
{
    const bool v4 = ns_rr_type(*rr) == ns_t_a && ns_rr_rdlen(*rr) == 4;
    const bool v6 = ns_rr_type(*rr) == ns_t_aaaa && ns_rr_rdlen(*rr) == 16;
    return (v4 || v6) &&
           inet_ntop(v4 ? AF_INET : AF_INET6, ns_rr_rdata(*rr), address, SRV_ADDRESS) != NULL;
}

static bool read_target(ns_msg *m, const ns_rr *rr, struct srv_target *t)
{
    const uint8_t *data = ns_rr_rdata(*rr);
    if (ns_rr_type(*rr) != ns_t_srv || ns_rr_class(*rr) != ns_c_in || ns_rr_rdlen(*rr) <= SRV_FIXED)
        return false;
    *t = (struct srv_target){.port = ns_get16(data + 4)};
    if (ns_name_uncompress(ns_msg_base(*m), ns_msg_end(*m), data + SRV_FIXED, t->name,
                           sizeof t->name) < 0)
        return false;
    return t->port != 0 && t->name[0] && strcmp(t->name, ".") != 0;
}

/* Addresses that the server gave along with the targets. IPv4 before IPv6, else the first. */
static void read_additional(ns_msg *m, struct srv_answer *a)
{
    for (int i = 0; i < ns_msg_count(*m, ns_s_ar); i++) {
        char address[SRV_ADDRESS];
        ns_rr rr;
        if (ns_parserr(m, ns_s_ar, i, &rr) < 0)
            return;
        if (!address_of(&rr, address))
            continue;
        for (size_t t = 0; t < a->n; t++) {
            struct srv_target *target = &a->targets[t];
            if (strcasecmp(target->name, ns_rr_name(rr)) != 0)
                continue;
            if (!target->address[0] || (strchr(target->address, ':') && !strchr(address, ':')))
                strcpy(target->address, address);
            least(&a->ttl_s, ns_rr_ttl(rr));
        }
    }
}

int srv_parse(const uint8_t *answer, size_t len, struct srv_answer *out)
{
    ns_msg m;
    *out = (struct srv_answer){.n = 0};
    if (len > NS_MAXMSG || ns_initparse(answer, (int)len, &m) < 0)
        return -EINVAL;
    const int n = ns_msg_count(m, ns_s_an);
    out->targets = calloc(n ? (size_t)n : 1, sizeof *out->targets);
    if (!out->targets)
        return -ENOMEM;
    for (int i = 0; i < n && out->n < WORKERS_MAX; i++) {
        ns_rr rr;
        if (ns_parserr(&m, ns_s_an, i, &rr) < 0)
            break;
        if (!read_target(&m, &rr, &out->targets[out->n]))
            continue; /* such as the CNAME on the way */
        out->n++;
        least(&out->ttl_s, ns_rr_ttl(rr));
    }
    qsort(out->targets, out->n, sizeof *out->targets, by_name_and_port);
    size_t kept = 0;
    for (size_t i = 0; i < out->n; i++)
        if (i == 0 || by_name_and_port(&out->targets[i], &out->targets[kept - 1]) != 0)
            out->targets[kept++] = out->targets[i];
    out->n = kept;
    read_additional(&m, out);
    return 0;
}

void srv_free(struct srv_answer *a)
{
    free(a->targets);
    *a = (struct srv_answer){.n = 0};
}

bool srv_parse_address(const uint8_t *answer, size_t len, char address[SRV_ADDRESS],
                       uint32_t *ttl_s)
{
    ns_msg m;
    if (len > NS_MAXMSG || ns_initparse(answer, (int)len, &m) < 0)
        return false;
    for (int i = 0; i < ns_msg_count(m, ns_s_an); i++) {
        ns_rr rr;
        if (ns_parserr(&m, ns_s_an, i, &rr) < 0)
            return false;
        if (address_of(&rr, address)) {
            least(ttl_s, ns_rr_ttl(rr));
            return true;
        }
    }
    return false;
}

/* --- workers
 * --------------------------------------------------------------------------------------
 */

static size_t label(const struct srv_target *t)
{
    return strcspn(t->name, ".");
}

static bool label_shared(const struct srv_answer *a, size_t i)
{
    const size_t n = label(&a->targets[i]);
    for (size_t k = 0; k < a->n; k++)
        if (k != i && label(&a->targets[k]) == n &&
            strncasecmp(a->targets[k].name, a->targets[i].name, n) == 0)
            return true;
    return false;
}

int srv_workers(const struct srv_answer *a, struct workers *out)
{
    *out = (struct workers){.n = 0};
    for (size_t i = 0; i < a->n; i++) {
        const struct srv_target *t = &a->targets[i];
        char name[WORKER_PORT + 8];
        int n = snprintf(name, sizeof name, "%.*s", (int)label(t), t->name);
        if (label_shared(a, i))
            n = snprintf(name, sizeof name, "%s:%u", t->name, t->port);
        /* Of a long name the end tells more. */
        const char *kept = n < (int)WORKER_NAME ? name : name + n - (WORKER_NAME - 1);
        if (!t->address[0] || !worker_name_ok(kept, strlen(kept)) || workers_find(out, kept))
            continue;
        struct worker *w = workers_add(out);
        if (!w) {
            workers_free(out);
            return -ENOMEM;
        }
        strcpy(w->name, kept);
        snprintf(w->port, sizeof w->port, strchr(t->address, ':') ? "udp:[%s]:%u" : "udp:%s:%u",
                 t->address, t->port);
    }
    workers_sort(out);
    return 0;
}
