/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames in pieces: those that were sealed when the path took longer ones, and that hold what can't
 * be made anew, as a history's tiles. A piece is a control frame with a number of its own; a frame
 * is lost with any of its pieces, and acknowledged as ever. All copies of a frame are cut alike, so
 * one fills the gaps that another has left.
 */
#include "dataplane/link/impl.h"

#include <errno.h>
#include <string.h>

#include "dataplane/link/bytes.h"

#define UDP_BYTES 8u

static uint32_t pieces_of(uint32_t bytes)
{
    return (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
}

static uint32_t piece_bytes(uint32_t bytes, uint32_t i)
{
    const uint32_t left = bytes - i * PIECE_BYTES;

    return left < PIECE_BYTES ? left : PIECE_BYTES;
}

bool piece_takes(const struct link *l, uint32_t payload_bytes)
{
    return l->mtu.frame_sure >= PIECE_FRAME_MAX &&
           WIRE_HEADER_BYTES + payload_bytes + WIRE_TAG_BYTES <= PIECES_MAX * PIECE_BYTES;
}

uint32_t piece_count(const struct pkt *frame)
{
    return pieces_of(frame->len - WIRE_L2L4_BYTES);
}

/* --- out -------------------------------------------------------------------------------------- */

static void queue(struct link *l, struct pkt *p)
{
    if (l->n_pieces == PIECES_QUEUE) { /* lost, as on the way */
        pkt_unref(p);
        return;
    }
    l->pieces[(l->next_piece + l->n_pieces++) % PIECES_QUEUE] = p;
}

void piece_cut(struct link *l, const struct pkt *frame, struct pkt_pool *pool)
{
    const uint8_t *from = frame->data + WIRE_L2L4_BYTES;
    const uint32_t bytes = frame->len - WIRE_L2L4_BYTES, n = pieces_of(bytes);

    l->stats.cut++;
    l->stats.copied_bytes[from[21] % N_CLASSES] += bytes - WIRE_HEADER_BYTES - WIRE_TAG_BYTES;
    for (uint32_t i = 0; i < n && l->control_number < UINT32_MAX; i++) {
        const uint32_t part = piece_bytes(bytes, i);
        struct pkt *p = pool->room >= PIECE_FRAME_MAX ? pkt_alloc(pool) : NULL;
        uint8_t *to;

        if (!p)
            return;
        to = p->data + WIRE_PAYLOAD_AT;
        memcpy(to, from + 8, 4);      /* its message */
        memcpy(to + 4, from + 12, 2); /* and fragment */
        put_be16(to + 6, (uint16_t)bytes);
        put_be16(to + 8, (uint16_t)i);
        memcpy(to + PIECE_HEAD_BYTES, from + (size_t)i * PIECE_BYTES, part);
        if (link_seal_control(l, p, WIRE_PIECE, (uint16_t)(PIECE_HEAD_BYTES + part)))
            pkt_unref(p);
        else
            queue(l, p);
    }
}

int piece_output(struct link *l, struct pkt **out, int n)
{
    int count = 0;

    for (; count < n && l->n_pieces; count++) {
        out[count] = l->pieces[l->next_piece];
        l->next_piece = (l->next_piece + 1) % PIECES_QUEUE;
        l->n_pieces--;
    }
    return count;
}

void piece_refused(struct link *l, struct pkt *p)
{
    if (l->end == LINK_ALIVE)
        queue(l, p);
    else
        pkt_unref(p);
}

void piece_drop_queued(struct link *l)
{
    struct pkt *p;

    while (piece_output(l, &p, 1))
        pkt_unref(p);
}

/* --- in --------------------------------------------------------------------------------------- */

static void forget(struct partial *a)
{
    if (a->pkt)
        pkt_unref(a->pkt);
    *a = (struct partial){0};
}

void piece_drop_partial(struct link *l)
{
    for (uint32_t i = 0; i < PARTIAL_MAX; i++)
        forget(&l->partials[i]);
}

static uint64_t order(uint32_t message, uint16_t fragment)
{
    return (uint64_t)message << 16 | fragment;
}

/* Nothing waits for it: it is free, or the frame has come otherwise. */
static bool is_idle(struct link *l, const struct partial *a)
{
    const struct wire_header h = {.message = a->message, .fragment = a->fragment};

    return !a->pkt || !receive_is_new(l, &h);
}

/* The frame's place, or one for it, at the cost of the newest frame if need be: so the oldest gets
 * through. NULL: it is the newest itself, or there is no memory. */
static struct partial *place(struct link *l, uint32_t message, uint16_t fragment, uint16_t bytes)
{
    struct partial *at = NULL;
    uint64_t newest = order(message, fragment);

    for (uint32_t i = 0; i < PARTIAL_MAX; i++) {
        struct partial *a = &l->partials[i];
        const uint64_t n = is_idle(l, a) ? UINT64_MAX : order(a->message, a->fragment);

        if (a->pkt && a->message == message && a->fragment == fragment && a->bytes == bytes)
            return a;
        if (n > newest || (n == newest && a->bytes != bytes)) {
            at = a;
            newest = n;
        }
    }
    if (!at)
        return NULL;
    forget(at);
    *at = (struct partial){.pkt = pkt_lone(WIRE_L2L4_BYTES + bytes),
                           .message = message,
                           .fragment = fragment,
                           .bytes = bytes};
    return at->pkt ? at : NULL;
}

/* From where its last piece came. */
static struct pkt *finish(struct partial *a, const uint8_t *frame)
{
    struct pkt *p = a->pkt;
    struct wire_path path;

    p->len = WIRE_L2L4_BYTES + a->bytes;
    outer_way_back(frame, &path);
    outer_write(p->data, &path, (uint16_t)(UDP_BYTES + a->bytes));
    outer_way_back(p->data, &path);
    outer_write(p->data, &path, (uint16_t)(UDP_BYTES + a->bytes));
    *a = (struct partial){0};
    return p;
}

int piece_read(struct link *l, const uint8_t *frame, const uint8_t *payload, size_t n,
               struct pkt **whole)
{
    struct wire_header h = {0};
    struct partial *a;
    uint32_t i;
    uint16_t bytes;

    if (n < PIECE_HEAD_BYTES)
        return -EBADMSG;
    h.message = get_be32(payload);
    h.fragment = get_be16(payload + 4);
    bytes = get_be16(payload + 6);
    i = get_be16(payload + 8);
    if (bytes <= WIRE_HEADER_BYTES + WIRE_TAG_BYTES || bytes > PIECES_MAX * PIECE_BYTES ||
        i >= pieces_of(bytes) || n != PIECE_HEAD_BYTES + piece_bytes(bytes, i))
        return -EBADMSG;
    if (!receive_is_new(l, &h)) {
        l->ack_now = true; /* its acknowledgement was lost, or is late */
        return 0;
    }
    a = place(l, h.message, h.fragment, bytes);
    if (!a)
        return 0; /* it will be sent again */
    memcpy(a->pkt->data + WIRE_L2L4_BYTES + (size_t)i * PIECE_BYTES, payload + PIECE_HEAD_BYTES,
           n - PIECE_HEAD_BYTES);
    a->have |= 1u << i;
    if (a->have == (1u << pieces_of(bytes)) - 1)
        *whole = finish(a, frame);
    return 0;
}
