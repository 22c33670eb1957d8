/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages between edge and cloud, version 7, big-endian. docs/wire.md has the byte tables.
 *
 * OPEN and CLOSE travel as the link's session 0, so that they keep their order among each other: a
 * place given up by a CLOSE is free when the next OPEN comes. So do STATUS and ASK, of no session.
 * All others travel as their session.
 * Readers take any bytes: 0, or -EBADMSG for wrong length, reserved bits or values out of range.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_PROTO_H
#define ISTHMUS_DATAPLANE_PIPELINE_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/codec.h"
#include "compute/kernels/attend.h"
#include "compute/sampler.h"
#include "dataplane/link.h"

#define PROTO_VERSION        7u
#define PROTO_DRAFTS_MAX     15u
#define PROTO_TEXT_MAX       224u
#define PROTO_OPEN_BYTES     104u
#define PROTO_OPENED_BYTES   16u
#define PROTO_ROWS_BYTES     12u /* and 4 a draft, and the tile */
#define PROTO_ROWS_BYTES_MAX (PROTO_ROWS_BYTES + 4u * PROTO_DRAFTS_MAX)
#define PROTO_TOKENS_BYTES   8u /* and proto_token_bytes each */
#define PROTO_HIDDEN_BYTES   8u /* and the values of its rows, over as many packets as needed */
#define PROTO_CLOSE_BYTES    8u
#define PROTO_TEXT_BYTES     4u /* REFUSED and ERROR: and the text */
#define PROTO_CODEC_TEXT_MAX 48u
#define PROTO_SMALL_MAX      256u /* any message but ROWS, IDS, HIDDEN, and TOKENS with alternatives */
#define PROTO_TOKENS_MAX                                                                           \
    (PROTO_TOKENS_BYTES + (PROTO_DRAFTS_MAX + 1u) * 8u * (1u + SAMPLER_TOP_MAX))
#define PROTO_IDS_BYTES      8u   /* and 4 an id */
#define PROTO_IDS_MAX        256u
#define PROTO_STATUS_BYTES   68u
#define PROTO_ASK_BYTES      4u

/* What a packet with rows can carry of a tile beside the largest heads, so that a row is cut alike
 * in all messages; 0: nothing. payload_bytes: wire_payload_max. */
static inline size_t proto_tile_capacity(size_t payload_bytes)
{
    const size_t heads = LINK_REPLY_PREFIX_BYTES + PROTO_ROWS_BYTES_MAX;

    return payload_bytes > heads ? payload_bytes - heads : 0;
}

/* What an id takes of a TOKENS message, with so many alternatives. */
static inline size_t proto_token_bytes(uint32_t n_top)
{
    return 8u * (1u + (size_t)n_top);
}

/* Ids that find room, with so many alternatives each, in a TOKENS message that one packet carries:
 * at least one. payload_bytes: wire_payload_max, with room for small messages. */
static inline uint32_t proto_tokens_that_fit(size_t payload_bytes, uint32_t n_top)
{
    const size_t n =
        (payload_bytes - LINK_REPLY_PREFIX_BYTES - PROTO_TOKENS_BYTES) / proto_token_bytes(n_top);

    return n > PROTO_DRAFTS_MAX ? PROTO_DRAFTS_MAX + 1u : n ? (uint32_t)n : 1u;
}

/* Rows of one run of which something is wanted, at most: one of each of so many sessions, or all of
 * one message. */
static inline uint32_t proto_wanted_rows(uint32_t sessions, uint32_t max_rows)
{
    const uint32_t n = sessions > PROTO_DRAFTS_MAX ? sessions : PROTO_DRAFTS_MAX + 1u;

    return n < max_rows ? n : max_rows;
}

enum proto_kind {
    PROTO_OPEN = 1,
    PROTO_OPENED = 2,
    PROTO_REFUSED = 3,
    PROTO_ROWS = 4,
    PROTO_TOKENS = 5,
    PROTO_CLOSE = 6,
    PROTO_ERROR = 7,
    PROTO_IDS = 8,
    PROTO_STATUS = 9,
    PROTO_ASK = 10,
    PROTO_HIDDEN = 11,
};

/* Why a session was refused or broken off. */
enum proto_reason {
    PROTO_BAD_VERSION = 1,
    PROTO_BAD_MODEL = 2,
    PROTO_BAD_SPLIT = 3,
    PROTO_BAD_CODEC = 4,
    PROTO_BAD_NUMERICS = 5,
    PROTO_BAD_REQUEST = 6,
    PROTO_NO_ROOM = 7,
    PROTO_BAD_ROWS = 8,
    PROTO_FAILED = 9,
    PROTO_BUSY = 10, /* no room now: the same OPEN may be sent again */
    PROTO_BAD_HEAD = 11, /* neither half has one */
};

struct proto_open {
    uint8_t version;
    uint8_t n_top; /* alternatives that are wanted of each id: to SAMPLER_TOP_MAX */
    bool has_head; /* the edge has: it wants hidden states instead of ids, and tells none; n_top 0 */
    uint32_t session;
    uint8_t fingerprint[16];
    uint32_t split, n_layers, d_model, n_vocab;
    uint32_t codec_id, numerics_id;
    uint8_t profile[16]; /* codec_params_profile */
    uint32_t max_tokens; /* longest the session gets, prompt included */
    struct sampler_params sampler;
    uint32_t like;       /* a session of this connection, open or lingering; 0: none */
    uint32_t n_like;     /* tokens of it that this one begins with */
};

struct proto_opened {
    uint32_t max_rows;      /* rows of one ROWS message at most */
    uint32_t max_fragments; /* packets of one message at most */
    uint32_t n_like;        /* rows that the session has of the other: all asked for, or 0 */
};

/* The head of a ROWS message. The last n_logits rows want logits, or where the edge has the head the
 * hidden states that these are made of: none inside a prompt, else one and one for each draft. Row
 * n_rows - n_drafts + i is that of drafts[i]; an edge that has the head names no drafts. */
struct proto_rows {
    uint32_t position; /* of the first row */
    uint16_t n_rows, n_logits;
    uint8_t n_drafts;
    int32_t drafts[PROTO_DRAFTS_MAX];
};

/* ids[i] has position + i. The last of them is in no cache yet. */
struct proto_tokens {
    uint32_t position;
    uint8_t n, n_top; /* n_top: alternatives of each, what the session wants; n 0: 0 */
    int32_t ids[PROTO_DRAFTS_MAX + 1];
    float logprobs[PROTO_DRAFTS_MAX + 1];
    struct sampler_top top[PROTO_DRAFTS_MAX + 1][SAMPLER_TOP_MAX];
};

/* The last n rows of a message as they are behind the last layer, the first of them that of the id
 * before `position`. The values follow, row by row. */
struct proto_hidden {
    uint32_t position; /* of the id that is made of the first one */
    uint8_t n;         /* from 1 to PROTO_DRAFTS_MAX + 1 */
};

/* Ids that an earlier connection gave the session, for the sampler to know. */
struct proto_ids {
    uint32_t first; /* so many came before these */
    uint16_t n;
    int32_t ids[PROTO_IDS_MAX];
};

/*
 * What a cloud is, and has left for this edge: when an edge has joined, when it changes, about every
 * second while the edge has sessions, and as the answer to ASK. As session 0, so that an edge that
 * does not know it takes it for one of a session that has ended, and ignores it.
 */
struct proto_status {
    bool draining;          /* it takes no new sessions, and those that it has should move */
    bool headless;          /* only edges that have the head */
    enum kv_format kv_asked; /* new sessions should have it, or a coarser one; KV_F16: any */
    uint32_t sessions_free; /* that this edge may open now, as far as their number goes */
    uint32_t tokens_free;   /* that find room in its cache now, in all */
    uint32_t tokens_total;  /* of its cache */
    uint32_t tokens_max;    /* of one session */
    uint32_t sessions_open; /* of all edges */
    uint32_t split, codec_id, numerics_id; /* as in OPEN: what it serves */
    uint8_t fingerprint[16], profile[16];
};

struct proto_text { /* REFUSED, ERROR */
    uint8_t reason;
    char text[PROTO_TEXT_MAX + 1]; /* printable ASCII, 0-terminated */
};

/* What of a codec must be the same at both ends, for people: its mode, or an id of none that is
 * known, and its profile's hash. Returns buf. */
const char *proto_codec_text(uint32_t codec_id, const uint8_t profile[16],
                             char buf[PROTO_CODEC_TEXT_MAX]);

/* The kind of a message, 0 when it is empty. */
static inline uint8_t proto_kind(const uint8_t *p, size_t len)
{
    return len ? p[0] : 0;
}

/* Writers return the bytes written: at most PROTO_SMALL_MAX, or PROTO_ROWS_BYTES_MAX for rows,
 * PROTO_IDS_BYTES + 4 an id, PROTO_TOKENS_MAX for tokens. */
size_t proto_write_open(uint8_t *p, const struct proto_open *m);
size_t proto_write_opened(uint8_t *p, const struct proto_opened *m);
size_t proto_write_rows(uint8_t *p, const struct proto_rows *m);
size_t proto_write_tokens(uint8_t *p, const struct proto_tokens *m);
size_t proto_write_hidden(uint8_t *p, const struct proto_hidden *m); /* the values: proto_put_values */
size_t proto_write_close(uint8_t *p, uint32_t session, bool linger);
size_t proto_write_ids(uint8_t *p, uint32_t first, const int32_t *ids, uint16_t n);
size_t proto_write_status(uint8_t *p, const struct proto_status *m);
size_t proto_write_ask(uint8_t *p);
size_t proto_write_text(uint8_t *p, enum proto_kind kind, enum proto_reason reason,
                        const char *text);

/* An OPEN of another version gives 0 with version and session set only. */
int proto_read_open(const uint8_t *p, size_t len, struct proto_open *m);
int proto_read_opened(const uint8_t *p, size_t len, struct proto_opened *m);
/* *tile_at: where the tile begins. */
int proto_read_rows(const uint8_t *p, size_t len, struct proto_rows *m, size_t *tile_at);
int proto_read_tokens(const uint8_t *p, size_t len, struct proto_tokens *m);
/* Of a message's first packet: values follow. */
int proto_read_hidden(const uint8_t *p, size_t len, struct proto_hidden *m);
/* linger: its rows may be wanted by sessions that begin like it. */
int proto_read_close(const uint8_t *p, size_t len, uint32_t *session, bool *linger);
int proto_read_ids(const uint8_t *p, size_t len, struct proto_ids *m);
int proto_read_status(const uint8_t *p, size_t len, struct proto_status *m);
int proto_read_ask(const uint8_t *p, size_t len);
int proto_read_text(const uint8_t *p, size_t len, struct proto_text *m);

/* Values of HIDDEN, 4 bytes each; no packet has a part of one. */
void proto_put_values(uint8_t *p, const float *values, size_t n);
void proto_get_values(const uint8_t *p, float *values, size_t n);

/* Packets that a HIDDEN message of so many values takes, part_bytes of it in each: what is left of a
 * packet's payload, rounded down. */
static inline size_t proto_hidden_part(size_t payload_bytes)
{
    return (payload_bytes - LINK_REPLY_PREFIX_BYTES) / 4 * 4;
}

static inline size_t proto_hidden_packets(size_t n_values, size_t part_bytes)
{
    return (PROTO_HIDDEN_BYTES + 4 * n_values + part_bytes - 1) / part_bytes;
}

#endif
