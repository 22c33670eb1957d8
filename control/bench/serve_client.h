/* SPDX-License-Identifier: Apache-2.0 */
/* Many requests at once to an OpenAI server, by one thread and libcurl; when each piece of each
 * answer came. */
#ifndef ISTHMUS_CONTROL_BENCH_SERVE_CLIENT_H
#define ISTHMUS_CONTROL_BENCH_SERVE_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum call_outcome {
    CALL_OK,
    CALL_UNDER_WAY, /* cut off by client_cut_off */
    CALL_CONNECT,   /* no connection, or lost before the answer began */
    CALL_BUSY,      /* HTTP 429 or 503 */
    CALL_REFUSED,   /* another HTTP status than 200 */
    CALL_SERVER,    /* the server said in its answer that it failed */
    CALL_CUT,       /* the answer ended before its end */
    CALL_MALFORMED, /* no server-sent events with such JSON */
    CALL_TIMEOUT,
    CALL_OUTCOMES
};

/* Those from CALL_CONNECT on are errors, which results name: "errors_connect". NULL for the others.
 */
const char *call_outcome_name(enum call_outcome o);

/* Times are port_now_ns. */
struct call_result {
    enum call_outcome outcome;
    unsigned kind;                      /* as the caller gave it */
    uint64_t due_ns;                    /* as the caller gave it */
    uint64_t first_ns, last_ns, end_ns; /* of text; first_ns 0: none came */
    int64_t prompt_tokens;              /* -1: not said */
    uint64_t tokens;                    /* what usage says, else the pieces that came */
    const uint64_t *gaps_ns;            /* between pieces; the caller's during the call */
    size_t n_gaps;
    const char *why; /* of an error, for people */
};

struct client_params {
    const char *url;  /* http://HOST:PORT, without what follows */
    const char *key;  /* NULL: none */
    double timeout_s; /* of each request */
    void (*on_end)(void *arg, const struct call_result *r); /* in client_step and client_cut_off */
    void *arg;
};

struct client;

/* After libcurl_load. p's strings stay the caller's, until client_close. 0 or -ENOMEM. */
int client_open(const struct client_params *p, struct client **out);
void client_close(struct client *c); /* what runs is given up, without on_end */

/* Ask; body (malloc'd, JSON) is taken over, whatever comes of it. 0 or -ENOMEM. */
int client_ask(struct client *c, unsigned kind, uint64_t due_ns, bool chat, char *body, size_t len);

/* Let answers come until some ended, a signal came or until_ns. 0 or -EIO. */
int client_step(struct client *c, uint64_t until_ns);

/* What came until now is taken in, then all that is under way ends as CALL_UNDER_WAY. 0 or -EIO. */
int client_cut_off(struct client *c);

/* Requests under way. */
unsigned client_busy(const struct client *c);

/* The first model that the server has, malloc'd. NULL: why. */
char *client_first_model(struct client *c, char *why, size_t room);

#endif
