/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the gateway: its thread, connections and exchanges. */
#ifndef ISTHMUS_CONTROL_GATEWAY_IMPL_H
#define ISTHMUS_CONTROL_GATEWAY_IMPL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "control/gateway/completion.h"
#include "control/gateway/gateway.h"
#include "control/gateway/keys.h"

/* --- what is counted ---------------------------------------------------------------------------- */

enum endpoint {
    AT_MODELS,
    AT_COMPLETIONS,
    AT_CHAT,
    AT_HEALTH,
    AT_READY,
    AT_METRICS,
    AT_NOWHERE,
    ENDPOINTS,
};

/* Statuses that are counted by themselves; the last one: the client went before it was answered. */
#define GATEWAY_CODES 13u
extern const unsigned gateway_codes[GATEWAY_CODES];
#define CLIENT_GONE 499u

struct gateway_counts {
    uint64_t requests[ENDPOINTS][GATEWAY_CODES];
    uint64_t connections, timeouts; /* all so far; those closed for being slow */
};

/* --- connections -------------------------------------------------------------------------------- */

enum client_state {
    CLIENT_IDLE,    /* between requests, or in a request's head */
    CLIENT_BODY,    /* its body is read */
    CLIENT_BUSY,    /* its answer is made, or sent */
    CLIENT_REFUSED, /* told so behind MHD's back: to be closed */
};

struct client {
    struct client *next, *prev;
    int fd;
    enum client_state state;
    uint64_t since_ns;    /* of the state; of the last progress when busy */
    uint64_t head_ns;     /* a head began by then; 0: none */
    uint64_t bytes;       /* received before this state; acknowledged when busy */
    struct exchange *exchange;
};

/* --- exchanges: a request and its reply --------------------------------------------------------- */

struct exchange {
    struct exchange *next, *prev; /* all that there are */
    struct gateway *g;
    struct MHD_Connection *connection; /* NULL: over */
    struct client *client;
    enum endpoint at;
    unsigned status; /* 0: not yet replied */
    bool suspended, gone;
    bool watched;  /* by the gateway's epoll, for a client that leaves */
    bool chunked;  /* a stream would be sent in chunks */
    bool direct;   /* a stream whose head is sent: stream.c sends what is new */
    bool ends_unsure; /* where its body ends: the connection ends with it */
    bool blocked;  /* and waits for room in the socket, for the rest of `out` */
    char name[SERVICE_CLIENT];
    struct out body, out;
    size_t n_out;  /* bytes of out that are sent */
    bool answering; /* `completion` was opened */
    bool retry;     /* completion_advance wants to be called again */
    struct exchange *rung_next; /* of those whose answers have rung */
    bool rung;
    struct api_error error; /* status 0: none; else replied to once the body is read */
    enum api_kind kind;
    struct completion completion;
};

/* --- all ---------------------------------------------------------------------------------------- */

struct gateway {
    struct completion_context context; /* first members: what completions need */
    struct chime chime;
    char model_id[GATEWAY_MODEL_ID];
    int64_t created_s;
    char *keys_file;
    pthread_mutex_t keys_lock;
    struct api_keys *keys; /* NULL: anybody */
    struct gateway_limits limits;

    struct MHD_Daemon *daemon;
    int epoll, timer, listener;
    unsigned port;
    pthread_t thread;
    bool started;
    atomic_bool stopping;

    struct client *clients;
    uint32_t n_clients, n_answering;
    struct exchange *exchanges;
    bool retries; /* some want exchange_retry */
    bool mhd_due; /* MHD has something to do at once */
    bool full;    /* it had as many connections as it may have */
    bool sweeping; /* the timer runs */
    struct gateway_counts counts;
};

/* listen.c: whether the address is one, whatever its host is. 0 or -EINVAL with err (200 bytes). */
int gateway_check_address(const char *address, char *err);
/* "HOST:PORT" to a listening socket, and its port. 0 or -errno with err (200 bytes). */
int gateway_listen(const char *address, int backlog, int *fd, unsigned *port, char *err);

/* clients.c */
void clients_on_connection(void *g, struct MHD_Connection *c, void **socket_context,
                           enum MHD_ConnectionNotificationCode code);
void client_enter(struct client *c, enum client_state state, uint64_t now_ns);
/* A reply that MHD cannot give in the middle of a head or a body; the connection ends. */
void client_refuse(struct gateway *g, struct client *c, unsigned status, const char *code,
                   const char *message);
/* Every sweep_ms: those that are too slow. */
void clients_sweep(struct gateway *g, uint64_t now_ns);

/* http.c: MHD's callbacks. */
enum MHD_Result http_on_request(void *g, struct MHD_Connection *c, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *n_upload, void **exchange);
void http_on_completed(void *g, struct MHD_Connection *c, void **exchange,
                       enum MHD_RequestTerminationCode code);

/* exchange.c: requests for answers. */
struct exchange *exchange_new(struct gateway *g, struct MHD_Connection *c, struct client *client);
/* Its body has come whole: replied to, or suspended until there is something to say. */
enum MHD_Result exchange_answer(struct exchange *x);
/* Again after it was suspended. */
enum MHD_Result exchange_resumed(struct exchange *x);
/* Its connection is; freed with the last of its answers. */
void exchange_over(struct exchange *x);
/* All that rang. */
void exchange_take_rungs(struct gateway *g);
/* Its client has left, or its socket has room. */
void exchange_event(struct exchange *x, uint32_t events);
void exchange_gone(struct exchange *x);
/* Answers that the service was too full for. */
void exchange_retry(struct gateway *g);
/* The gateway closes: whether something is still to be sent; then nothing is suspended any more. */
bool exchange_any_sending(const struct gateway *g);
void exchange_drop_all(struct gateway *g);
/* The gateway's thread is no more, nor are connections: the engine frees what it still calls for. */
void exchange_free_all(struct gateway *g);

/* Not read on, until exchange_wake has a reason to. */
void exchange_suspend(struct exchange *x);
void exchange_wake(struct exchange *x);
/* The gateway's epoll tells when its client leaves; with `room`, when the socket takes more, too. */
void exchange_watch(struct exchange *x, bool room);

/* stream.c: the reply of one that streams. */
enum MHD_Result stream_reply(struct exchange *x);
/* One that is direct: what is new goes out. False: MHD has to go on, it ends. */
bool stream_push(struct exchange *x);
/* Its socket has room again. False: the client has left. */
bool stream_go_on(struct exchange *x);

/* Reply with JSON, which is freed. */
enum MHD_Result http_reply(struct exchange *x, unsigned status, struct out *json);
enum MHD_Result http_reply_error(struct exchange *x, const struct api_error *e);

void http_count(struct gateway *g, enum endpoint at, unsigned status);

/* metrics.c: Prometheus text. */
void gateway_metrics(struct gateway *g, struct out *o);

#endif
