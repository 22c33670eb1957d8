/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/wait_any.h"

#include <errno.h>
#include <time.h>

#include "dataplane/range.h"

#define PORTS_MAX 64u
#define STEP_NS   1000000u /* between two looks at a port that can't wake us */

struct any {
    struct port *const *ports;
    uint32_t n;
    bool stepped; /* some port has no waiter */
};

static bool look(void *arg)
{
    const struct any *a = arg;

    for (uint32_t i = 0; i < a->n; i++) {
        if (a->ports[i]->waiter && a->ports[i]->waiter->look(a->ports[i]))
            return true;
    }
    return false;
}

static bool may_spin(void *arg)
{
    const struct any *a = arg;

    for (uint32_t i = 0; i < a->n; i++) {
        const struct port_waiter *w = a->ports[i]->waiter;

        if (w && w->may_spin && !w->may_spin(a->ports[i]))
            return false;
    }
    return true;
}

static int sleep_on(struct pollfd *fds, unsigned n, uint64_t now_ns, uint64_t until_ns)
{
    const uint64_t ns = until_ns > now_ns ? until_ns - now_ns : 0;
    const struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u),
                               .tv_nsec = (long)(ns % 1000000000u)};

    return ppoll(fds, n, &t, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

static int nap(void *arg, uint64_t now_ns, uint64_t until_ns)
{
    const struct any *a = arg;
    struct pollfd fds[PORTS_MAX * PORT_DOZE_FDS + 1];
    unsigned at[PORTS_MAX + 1], n = 0;
    int rc = 0;

    if (a->stepped)
        until_ns = least(until_ns, now_ns + STEP_NS);
    for (uint32_t i = 0; i < a->n; i++) {
        at[i] = n;
        if (a->ports[i]->waiter)
            n += a->ports[i]->waiter->doze(a->ports[i], fds + n, now_ns, &until_ns);
    }
    at[a->n] = n;
    fds[n] = (struct pollfd){.fd = port_wake_fd(), .events = POLLIN};
    if (look(arg)) {
        for (unsigned i = 0; i < n; i++)
            fds[i].revents = 0;
    } else {
        rc = sleep_on(fds, n + 1, now_ns, until_ns);
    }
    for (uint32_t i = 0; i < a->n; i++) {
        if (a->ports[i]->waiter)
            a->ports[i]->waiter->woken(a->ports[i], fds + at[i], at[i + 1] - at[i]);
    }
    return rc;
}

/* That of the port whose answer is due next. */
static const struct rhythm *leading(const struct any *a)
{
    static const struct rhythm none;
    const struct rhythm *best = &none;
    uint64_t best_ns = UINT64_MAX;

    for (uint32_t i = 0; i < a->n; i++) {
        const struct port_waiter *w = a->ports[i]->waiter;
        const struct rhythm *r = w ? w->rhythm(a->ports[i]) : NULL;
        const uint64_t due_ns =
            r && r->sent_ns ? r->sent_ns + least(r->gap_ns[0], r->gap_ns[1]) : UINT64_MAX;

        if (due_ns < best_ns) {
            best_ns = due_ns;
            best = r;
        }
    }
    return best;
}

int port_wait_any(struct port *const *ports, uint32_t n, uint64_t deadline_ns)
{
    static const struct rhythm_ops ops = {look, may_spin, nap};
    static bool said;
    struct any a = {.ports = ports, .n = n};
    uint64_t now_ns = port_now_ns();
    bool something = false;

    if (!n)
        return port_rest(deadline_ns);
    if (n == 1)
        return port_wait(ports[0], deadline_ns);
    if (n > PORTS_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < n; i++) {
        const struct port_waiter *w = ports[i]->waiter;

        a.stepped |= !w;
        something |= w && w->begin(ports[i], now_ns);
        if (!w && !said)
            port_tell("port %s can't be waited on with others: it is looked at every millisecond",
                      ports[i]->caps.name);
        said |= !w;
    }
    if (something || deadline_ns <= now_ns || look(&a))
        return 0;
    return rhythm_wait(leading(&a), &ops, &a, &now_ns, deadline_ns);
}
