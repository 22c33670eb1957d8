/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service's inside: queue.c (requests until the engine has them, and lists of them), run.c (the
 * engine's thread), stats.c (what is counted).
 *
 * One lock guards everything that other threads see. It is never held while a callback or the engine
 * runs, so that callbacks may submit and cancel. Jobs are freed by the engine's thread alone, which
 * therefore may keep and read one without the lock; it writes to them, and walks their list, with it.
 */
#ifndef ISTHMUS_CONTROL_SERVICE_SERVICE_IMPL_H
#define ISTHMUS_CONTROL_SERVICE_SERVICE_IMPL_H

#include <pthread.h>

#include "control/service/service.h"

/* One request, from service_submit to its on_done. */
struct service_job {
    struct service *service;
    struct service_job *prev, *next; /* oldest first */
    struct service_request r;        /* prompt_ids: a copy of ours, until the engine has one */
    struct service_session shown;
    uint64_t client;                 /* a hash of its name */
    int64_t session;                 /* the engine's; 0: it waits */
    bool cancelled, cancel_passed;
    bool expired; /* cancelled since it took too long: it ends EDGE_REFUSED */
    bool enough; /* cancelled since it has all that was wanted: it ends EDGE_STOP */
};

struct service_asked { /* service_call */
    void (*fn)(void *arg, struct front *f);
    void *arg;
    bool done, refused;
    struct service_asked *next;
};

enum service_phase { SERVICE_OPENED, SERVICE_RUNNING, SERVICE_ENDED };

struct service {
    struct front *front;
    const struct stage_info *info; /* what does not change of it */
    int wake_fd;                   /* ends the engine thread's sleep */
    void (*reload)(void *arg);
    void *reload_arg;
    uint64_t (*tick)(void *arg, uint64_t now_ns);
    void *tick_arg;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t answered;
    enum service_phase phase;
    struct service_job *first, *last;
    uint64_t last_id;
    bool draining;  /* service_drain */
    bool stopping;  /* a signal came */
    bool ever_ready;
    uint32_t context; /* of new requests, at most: service_set_limits */
    bool holds;       /* they wait while others run */
    enum kv_format kv; /* of those that begin: service_set_kv */
    struct service_asked *asked, **asked_end;
    uint64_t request_timeout_ns, drain_timeout_ns;
    struct codec_rate_target target; /* of requests that have none; NONE: the engine's */
    struct service_stats stats;      /* health and KV: filled in when asked for */

    /* the engine thread's own */
    struct service_job *chosen; /* the next to begin; it stays that until there is room */
    bool full;                  /* there was none; until a job ends */
    bool cancels;               /* under the lock: some job's is to be passed on */
    uint64_t stop_by_ns;        /* 0: no limit, or not stopping */
    bool stopped;               /* everything was cancelled */
    uint64_t looked_ns;         /* when stats.engine was taken */
};

/* queue.c, in the engine's thread */
void service_pass_cancels(struct service *s);
/* Cancels those whose time is up. When the next one's is. */
uint64_t service_expire(struct service *s, uint64_t now_ns);
void service_begin_waiting(struct service *s); /* as many as there is room for */
void service_cancel_all(struct service *s);
/* All that still wait end so; running ones are the engine's. */
void service_end_waiting(struct service *s, enum edge_finish how, const char *error);

/* stats.c; the lock is held */
void service_stats_begin(struct service *s, uint64_t now_ns);
void service_stats_token(struct service *s, const struct service_job *j, uint64_t now_ns);
void service_stats_done(struct service *s, const struct service_job *j,
                        const struct edge_result *r, uint64_t now_ns);
enum service_health service_health_now(const struct service *s, const char **why);
/* stats.c; it is not. Ask the engine how it is. */
void service_look(struct service *s, uint64_t now_ns);
/* What the engine says of one. The lock is held, in the engine's thread: this question calls nobody
 * back. */
void service_look_at(struct service *s, struct service_job *j);

#endif
