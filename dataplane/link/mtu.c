/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a packet the path takes (after RFC 8899). Some sizes are usual: Ethernet's, what tunnels
 * leave of it, those of jumbo frames. The greatest that the port has is tried first, so that a path
 * that takes it costs one round trip; if that is lost some times over, those between by halves. The
 * greatest that was answered is the known one: messages are made of packets no longer.
 *
 * What the path took it may not take for ever, and routers that drop long packets may not say so
 * (nor may just anybody be believed that says so). So when a long packet was lost again and again,
 * the known size is tried once more. If only that is lost, while the peer is heard, the path has
 * become narrower: from then on the sure size is the known one, until others have been tried anew.
 */
#include "dataplane/link/impl.h"

#include <errno.h>

#include "dataplane/link/bytes.h"

#define MS_NS     1000000ull
#define TRIES     3u
#define ANSWER_NS (100 * MS_NS)           /* a PROBE is given that long, or four round trips */
#define RAISE_NS  (600ull * 1000 * MS_NS) /* until it and greater sizes are tried again */
#define DOUBT_NS  (1000 * MS_NS)          /* between two doubts */

/* Above the sure size, which of IPv4 and of IPv6 is 1,280: 1400, 1420 (WireGuard), 1440, 1450
 * (VXLAN), 1460, 1480 (a tunnel's header), 1492 (PPPoE), 1500, 2000, 4352, 8000, 8900, 8950. */
static const uint16_t above[] = {0,   120, 140, 160,  170,  180,  200,
                                 212, 220, 720, 3072, 6720, 7620, 7670};

#define N_ABOVE ((uint32_t)(sizeof above / sizeof above[0]))

static uint32_t size_of(const struct link *l, uint32_t i)
{
    return i < l->mtu.n ? l->p.mtu_sure_bytes + above[i] : l->p.mtu_bytes;
}

static void know(struct link *l, uint32_t i)
{
    struct mtu *m = &l->mtu;

    m->low = i;
    m->known = size_of(l, i);
    m->frame_max = m->known + OUTER_ETHERNET_BYTES;
}

static void try_size(struct mtu *m, uint32_t i)
{
    m->at = i;
    m->tries = 0;
    m->first_number = m->number = 0;
    m->waiting = false;
    m->pending = true;
}

static void rest(struct mtu *m, uint64_t until_ns)
{
    m->pending = m->waiting = false;
    m->due_ns = until_ns;
}

/* The next size, or none for a while. */
static void go_on(struct link *l)
{
    struct mtu *m = &l->mtu;

    if (m->low < m->n && m->high > m->n)
        try_size(m, m->n);
    else if (m->low < m->n && m->high - m->low > 1)
        try_size(m, (m->low + m->high) / 2);
    else
        rest(m, l->now_ns + RAISE_NS);
}

static void begin(struct link *l)
{
    l->mtu.high = l->mtu.n + 1;
    l->mtu.doubting = l->mtu.raising = false;
    go_on(l);
}

void mtu_init(struct link *l)
{
    struct mtu *m = &l->mtu;

    *m = (struct mtu){.due_ns = UINT64_MAX};
    if (!l->p.mtu_sure_bytes)
        l->p.mtu_sure_bytes = l->p.mtu_bytes;
    if (!l->p.mtu_bytes) {
        m->known = m->frame_max = m->frame_sure = UINT32_MAX;
        return;
    }
    while (m->n < N_ABOVE && l->p.mtu_sure_bytes + above[m->n] < l->p.mtu_bytes)
        m->n++;
    m->frame_sure = l->p.mtu_sure_bytes + OUTER_ETHERNET_BYTES;
    know(l, 0);
    m->high = m->n + 1;
    if (m->n)
        m->due_ns = 0; /* as soon as the peer was heard */
}

void mtu_moved(struct link *l)
{
    if (!l->mtu.n)
        return;
    know(l, 0);
    loss_too_long(l);
    begin(l);
}

void mtu_doubt(struct link *l)
{
    struct mtu *m = &l->mtu;

    if (!m->low || m->doubting || (m->doubted_ns && l->now_ns - m->doubted_ns < DOUBT_NS))
        return;
    m->doubting = true;
    m->doubted_ns = l->now_ns;
    try_size(m, m->low);
    l->ping_pending = true;
}

uint32_t link_mtu(const struct link *l)
{
    return l->mtu.known;
}

bool link_mtu_settled(const struct link *l)
{
    const struct mtu *m = &l->mtu;

    return !m->n || (!m->pending && !m->waiting && m->due_ns);
}

/* --- probes ----------------------------------------------------------------------------------- */

uint32_t mtu_probe_bytes(const struct link *l)
{
    return wire_payload_max(size_of(l, l->mtu.at));
}

void mtu_probe_sent(struct link *l)
{
    struct mtu *m = &l->mtu;
    const uint64_t wait_ns = 4 * l->srtt_ns > ANSWER_NS ? 4 * l->srtt_ns : ANSWER_NS;

    m->number = l->control_number;
    if (!m->first_number)
        m->first_number = m->number;
    m->waiting = true;
    m->heard = false;
    m->due_ns = l->now_ns + wait_ns;
    l->stats.mtu_probes++;
}

int mtu_read_probed(struct link *l, const uint8_t *payload, size_t n)
{
    struct mtu *m = &l->mtu;
    uint32_t number;

    if (n != PROBED_BYTES)
        return -EBADMSG;
    number = get_be32(payload);
    if (!m->first_number || number < m->first_number || number > m->number)
        return 0; /* of a size that is not tried any more */
    if (m->doubting) {
        m->doubting = false; /* the packets were lost by chance, or it was only asked again */
        m->doubted_ns = l->now_ns;
    } else {
        know(l, m->at);
    }
    m->first_number = 0;
    if (m->raising)
        begin(l);
    else
        go_on(l);
    return 0;
}

/* --- time ------------------------------------------------------------------------------------- */

static void failed(struct link *l)
{
    struct mtu *m = &l->mtu;

    if (!m->doubting) {
        m->high = m->at;
        go_on(l);
    } else {
        l->stats.mtu_falls++;
        know(l, 0);
        loss_too_long(l);
        begin(l);
    }
}

/* An idle link sends nothing long, so that it would not see that its path has become narrower. */
static void look_anew(struct link *l)
{
    struct mtu *m = &l->mtu;

    if (!m->low) {
        begin(l);
        return;
    }
    m->doubting = m->raising = true;
    try_size(m, m->low);
}

void mtu_tick(struct link *l)
{
    struct mtu *m = &l->mtu;

    if (l->now_ns < mtu_deadline(l))
        return;
    if (!m->waiting) {
        look_anew(l);
        return;
    }
    m->waiting = false;
    m->tries += m->heard; /* else nothing gets through, or the peer is busy */
    if (m->tries == TRIES) {
        failed(l);
    } else {
        m->pending = true;
        l->ping_pending = true; /* is it the size? */
    }
}

uint64_t mtu_deadline(const struct link *l)
{
    return l->heard && !l->mtu.pending ? l->mtu.due_ns : UINT64_MAX;
}
