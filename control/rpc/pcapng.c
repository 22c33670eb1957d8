/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/pcapng.h"

#include <string.h>

enum { INTERFACE = 1, STATISTICS = 5, PACKET = 6, SECTION = 0x0a0d0d0a };
enum {
    END = 0,
    USER_APPL = 4,
    IF_NAME = 2,
    IF_TSRESOL = 9,
    EPB_FLAGS = 2,
    ISB_IFRECV = 4,
    ISB_IFDROP = 5
};

#define BYTE_ORDER_MAGIC  0x1a2b3c4du
#define LINKTYPE_ETHERNET 1u
#define SECTION_UNKNOWN   UINT64_MAX /* its length: until the next, or the end */
#define NANOSECONDS       9u
#define NAME_MAX_BYTES    128u

/* Writes as long as there is room; at > room: it did not fit. */
struct writer {
    uint8_t *to;
    size_t room, at;
};

static void put(struct writer *w, const void *bytes, size_t n)
{
    if (w->at <= w->room && n <= w->room - w->at)
        memcpy(w->to + w->at, bytes, n);
    w->at += n;
}

static void put_le(struct writer *w, uint64_t v, unsigned bytes)
{
    uint8_t le[8];
    for (unsigned i = 0; i < bytes; i++)
        le[i] = (uint8_t)(v >> 8 * i);
    put(w, le, bytes);
}

static void put_padded(struct writer *w, const void *bytes, size_t n)
{
    put(w, bytes, n);
    put(w, "\0\0\0", (4 - n % 4) % 4);
}

static void put_option(struct writer *w, unsigned code, const void *bytes, size_t n)
{
    put_le(w, code, 2);
    put_le(w, n, 2);
    put_padded(w, bytes, n);
}

static void put_option_le(struct writer *w, unsigned code, uint64_t v, unsigned bytes)
{
    put_le(w, code, 2);
    put_le(w, bytes, 2);
    put_le(w, v, bytes);
}

static struct writer begin(uint8_t *to, size_t room, uint32_t type)
{
    struct writer w = {to, room, 0};
    put_le(&w, type, 4);
    put_le(&w, 0, 4); /* the length, known at the end */
    return w;
}

static size_t end(struct writer *w)
{
    const size_t bytes = w->at + 4;
    put_le(w, bytes, 4);
    if (w->at > w->room)
        return 0;
    struct writer length = {w->to, w->room, 4};
    put_le(&length, bytes, 4);
    return bytes;
}

static size_t text_bytes(const char *text)
{
    return strnlen(text, NAME_MAX_BYTES);
}

size_t pcapng_section(uint8_t *to, size_t room, const char *program)
{
    struct writer w = begin(to, room, SECTION);
    put_le(&w, BYTE_ORDER_MAGIC, 4);
    put_le(&w, 1, 2); /* version 1.0 */
    put_le(&w, 0, 2);
    put_le(&w, SECTION_UNKNOWN, 8);
    put_option(&w, USER_APPL, program, text_bytes(program));
    put_option(&w, END, "", 0);
    return end(&w);
}

size_t pcapng_interface(uint8_t *to, size_t room, const char *name, uint32_t snap_bytes)
{
    struct writer w = begin(to, room, INTERFACE);
    put_le(&w, LINKTYPE_ETHERNET, 2);
    put_le(&w, 0, 2);
    put_le(&w, snap_bytes, 4);
    put_option(&w, IF_NAME, name, text_bytes(name));
    put_option(&w, IF_TSRESOL, &(uint8_t){NANOSECONDS}, 1);
    put_option(&w, END, "", 0);
    return end(&w);
}

static void put_time(struct writer *w, uint64_t wall_ns)
{
    put_le(w, wall_ns >> 32, 4);
    put_le(w, wall_ns & 0xffffffffu, 4);
}

size_t pcapng_packet(uint8_t *to, size_t room, uint32_t interface, uint64_t wall_ns, bool sent,
                     const uint8_t *frame, uint32_t kept_bytes, uint32_t frame_bytes)
{
    struct writer w = begin(to, room, PACKET);
    put_le(&w, interface, 4);
    put_time(&w, wall_ns);
    put_le(&w, kept_bytes, 4);
    put_le(&w, frame_bytes, 4);
    put_padded(&w, frame, kept_bytes);
    put_option_le(&w, EPB_FLAGS, sent ? 2 : 1, 4);
    put_option(&w, END, "", 0);
    return end(&w);
}

size_t pcapng_statistics(uint8_t *to, size_t room, uint32_t interface, uint64_t wall_ns,
                         uint64_t received, uint64_t dropped)
{
    struct writer w = begin(to, room, STATISTICS);
    put_le(&w, interface, 4);
    put_time(&w, wall_ns);
    put_option_le(&w, ISB_IFRECV, received, 8);
    put_option_le(&w, ISB_IFDROP, dropped, 8);
    put_option(&w, END, "", 0);
    return end(&w);
}
