/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cloud's links: one port, one responder's handshake, and a link for each edge that joined. Received
 * frames go to the link of their connection. With encryption an edge joins by its handshake; without,
 * between processes of one host, by the first message of a connection that is not known yet.
 *
 * Each link is on its own: it dies and is ended without the others noticing. What they have in
 * common is the port's pool, of which none gets more than its share.
 */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_LINKS_H
#define ISTHMUS_DATAPLANE_PIPELINE_LINKS_H

#include "dataplane/pipeline/pump.h"

#define LINKS_MAX   256u /* edges at once, at most */
#define LINKS_AWAY  4u   /* places for those that were told to go */
#define LINKS_ENDED 16u  /* connections that ended, without encryption: late frames open none anew */

struct links_params {
    struct port *port;               /* not owned */
    struct link_params link;         /* of each; path, keys, initiator, connection are filled in */
    struct pipeline_security security;
    uint32_t max;                    /* edges at once */
};

struct links_peer {
    struct pump pump;                    /* link NULL: the place is free */
    const struct authorized_peer *who;   /* in security.peers; NULL: not encrypted */
    uint64_t serial;                     /* of the link: no other has had it */
    bool heard;                          /* something true came from it */
    bool leaving;                        /* ended here: all it still does is to repeat its CLOSE */
    bool active;                         /* the owner's: it gets a share of the pool */
    uint64_t joined_ns;
    uint64_t until_ns; /* leaving: then it is forgotten */
};

struct links {
    struct links_params p;
    struct handshake *handshake; /* NULL: not encrypted */
    struct links_peer *peers;    /* [n_places]; those from n_used on are free */
    uint32_t n_places, n_used, n_live, n_active;
    uint64_t n_joined;
    uint32_t first, first_amid;  /* whose turn it is to send, at the end and amid what comes in */
    uint64_t now_ns;
    uint64_t (*clock)(void *arg); /* may be NULL */
    void *clock_arg;
    struct {
        bool pending;
        struct wire_path path;
        uint32_t connection;
        uint16_t epoch;
    } reset; /* without encryption: to whom we know no connection with */
    uint32_t n_resets;
    uint64_t stuck_ns; /* as a pump's, of the reset and of what the handshake has to send */
    uint32_t ended[LINKS_ENDED], n_ended;
    uint64_t turned_away, bad_frames, strangers;
};

/* 0, -EINVAL (pool too small), -ENOMEM. */
int links_open(struct links *l, const struct links_params *p, uint64_t now_ns);
/* Says CLOSE to all as well as one burst can. */
void links_close(struct links *l);

/* Receive, and let time pass. Places may be taken in here and links die (pump.dead); none is given up. */
void links_in(struct links *l, uint64_t now_ns);
void links_out(struct links *l);
/* For stage_set_poll; arg is the links. */
void links_during_run(void *arg);
/* The clock's time, or the latest given. */
uint64_t links_now(struct links *l);
uint64_t links_deadline(const struct links *l);

/* In use and not leaving; dead ones are, until links_end. */
static inline bool links_is_live(const struct links_peer *p)
{
    return p->pump.link && !p->leaving;
}

/* Give the place up. A link that still lives says CLOSE, and repeats it for a while. */
void links_end(struct links *l, struct links_peer *p);
/* Somebody wants what others have: those but `except` that have been silent are asked whether they are
 * still there, and die soon if not. */
void links_contest(struct links *l, const struct links_peer *except);
/* Another list of those admitted, borrowed; who is not on it is dead: "not admitted any more". */
void links_readmit(struct links *l, const struct authorized *peers);
/* Each one's part of `packets` that all share. */
uint32_t links_share(const struct links *l, const struct links_peer *p, uint32_t packets);

#endif
