/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port/rhythm.h"

#include "dataplane/port.h"
#include "dataplane/range.h"

#define SPIN_NS 25000ull
#define LEAD_NS 500000ull /* spin this long before and after a packet is due */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void rhythm_sent(struct rhythm *r, uint64_t now_ns)
{
    r->sent_ns = now_ns;
}

void rhythm_received(struct rhythm *r, uint64_t now_ns)
{
    if (!r->sent_ns)
        return;
    r->gap_ns[1] = r->gap_ns[0];
    r->gap_ns[0] = now_ns > r->sent_ns ? now_ns - r->sent_ns : 0;
    r->sent_ns = 0;
}

static bool spin(const struct rhythm_ops *ops, void *arg, uint64_t *now, uint64_t until)
{
    if (ops->may_spin && !ops->may_spin(arg))
        return ops->look(arg);
    do {
        for (int i = 0; i < 16; i++) {
            if (ops->look(arg))
                return true;
            relax();
        }
        *now = port_now_ns();
    } while (*now < until);
    return false;
}

int rhythm_wait(const struct rhythm *r, const struct rhythm_ops *ops, void *arg, uint64_t *now,
                uint64_t deadline_ns)
{
    uint64_t gap = least(r->gap_ns[0], r->gap_ns[1]);
    uint64_t due = r->sent_ns && gap > LEAD_NS ? r->sent_ns + gap : 0;
    uint64_t awake = due ? due - LEAD_NS : 0;

    if (spin(ops, arg, now, least(*now + SPIN_NS, deadline_ns)))
        return 0;
    if (*now < awake && awake < deadline_ns) {
        int rc = ops->sleep(arg, *now, awake);
        *now = port_now_ns();
        if (rc || ops->look(arg) || *now < awake)
            return rc;
    }
    if (*now >= awake && *now < due + LEAD_NS &&
        spin(ops, arg, now, least(due + LEAD_NS, deadline_ns)))
        return 0;
    return *now < deadline_ns ? ops->sleep(arg, *now, deadline_ns) : 0;
}
