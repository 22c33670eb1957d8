/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that answers many: one thread owns the engine and runs it; the gateway's and the control
 * socket's threads hand it requests and questions through here.
 *
 *     front_open .. front_join -> service_open -> (gateway, control socket) -> service_run
 *     -> (gateway, control socket closed) -> service_close -> front_close
 *
 * Threads: service_open, service_run and service_close belong to the engine's thread, which is the one
 * that opened the front. Everything else may be called from any thread, callbacks included, unless it
 * says otherwise. Callbacks run in the engine's thread: they must not block.
 */
#ifndef ISTHMUS_CONTROL_SERVICE_SERVICE_H
#define ISTHMUS_CONTROL_SERVICE_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/engine.h"
#include "control/front.h"

#define SERVICE_CLIENT 64u /* bytes of a client's name, with the zero */

struct service;

struct service_params {
    struct front *front;       /* joined or local; not owned */
    uint32_t max_waiting;      /* requests that wait for a session; beyond: -EAGAIN */
    uint64_t request_timeout_ns; /* from asked_ns to the end, which is EDGE_REFUSED then; 0: no
                                  * limit */
    uint64_t drain_timeout_ns; /* after SIGTERM: how long answers may take to end; 0: no limit */
};

/* EXIT_OK or an exit code, the error said. */
int service_open(const struct service_params *p, struct service **out);

/*
 * Run the engine until SIGTERM or SIGINT came and all answers have ended (a second signal ends them
 * at once), or the engine failed. SIGHUP calls what service_on_reload was given. EXIT_OK, or
 * EXIT_FAILED with the error said.
 */
int service_run(struct service *s);

/* Ends what still runs: EDGE_CANCELLED. */
void service_close(struct service *s);

/* What SIGHUP does, in the engine's thread. Before service_run. */
void service_on_reload(struct service *s, void (*reload)(void *arg), void *arg);

/* What else is due in the engine's thread, in every turn of its loop; returns when it must be called
 * again at the latest. Before service_run. */
void service_on_tick(struct service *s, uint64_t (*tick)(void *arg, uint64_t now_ns), void *arg);

/* What is called when the callbacks of a step's answers were called, in the engine's thread: so that
 * what they have to tell is told at once for all. NULL: nothing. In the engine's thread. */
void service_on_told(struct service *s, void (*told)(void *arg), void *arg);

/* --- answers ------------------------------------------------------------------------------------ */

struct service_request {
    const int32_t *prompt_ids; /* copied */
    uint32_t n_prompt, n_predict;
    struct sampler_params sampler;
    uint32_t n_top;                  /* alternatives with each id: as edge_request's */
    bool ignore_eos;                 /* go on after an end-of-generation id */
    struct codec_rate_target target; /* CODEC_RATE_NONE: the service's */
    uint32_t context_tokens; /* that it was promised by service_context_tokens; 0: as of now */
    uint64_t asked_ns; /* port_now_ns: request_timeout_ns counts from then; 0: from now */
    bool comes_again;  /* after -EAGAIN, which is no rejection then */
    const char *client;              /* who asks, for lists and logs; copied, cut to SERVICE_CLIENT */
    void (*on_token)(void *arg, const struct token_sample *t);
    void (*on_done)(void *arg, const struct edge_result *r); /* once, the last */
    void *arg;
};

/*
 * Queue a request. 0 with *id > 0 (in lists, for service_cancel), or
 *   -ERANGE     the prompt leaves no room in the context (service_context_tokens)
 *   -ENOSPC     more cache than the budget has, even alone
 *   -EINVAL     no prompt, an id outside the vocabulary, a sampler or n_top out of range, no curve
 *               for target
 *   -EAGAIN     max_waiting wait already
 *   -ESHUTDOWN  draining, or closed
 *   -ETIMEDOUT  it was asked for longer ago than a request may take
 *   -ENOMEM
 * n_predict is cut to what the context leaves. No callback is called before this returns, nor at
 * all where it fails.
 */
int service_submit(struct service *s, const struct service_request *r, uint64_t *id);

/* What it is told then, as one that is ended by it later. */
#define SERVICE_TIMED_OUT "the request took longer than --request-timeout allows"

/* Ends it soon with EDGE_CANCELLED; nothing where it has ended. */
void service_cancel(struct service *s, uint64_t id);
/* The same, since it has all that is wanted, as a stop string: it ends EDGE_STOP. */
void service_stop(struct service *s, uint64_t id);

/* Of a new request, now; and when memory is not short. */
uint32_t service_context_tokens(const struct service *s);
uint32_t service_context_most(const struct service *s);

/* --- the engine's thread, for others ------------------------------------------------------------ */

/* Run fn in the engine's thread, between two steps, and wait for it: some milliseconds. Not from a
 * callback. 0, or -ESHUTDOWN when the service no longer runs. */
int service_call(struct service *s, void (*fn)(void *arg, struct front *f), void *arg);

/* No new answers: service_submit says -ESHUTDOWN; those that run go on. False: again. */
void service_drain(struct service *s, bool drain);

/* The engine's thread has a turn, soon. */
void service_wake(struct service *s);

/* What a reload may change; of requests from now on, but for timeouts, which are of all. */
void service_set_max_waiting(struct service *s, uint32_t max_waiting);
void service_set_request_timeout(struct service *s, uint64_t timeout_ns);
void service_set_drain_timeout(struct service *s, uint64_t timeout_ns);
/* For service_stats; name: a static string. */
void service_set_memory_step(struct service *s, const char *name, uint64_t steps);
/* Of requests from now on: a context of so many tokens at most. hold: none begins while others run,
 * they wait for that, as far as max_waiting allows. */
void service_set_limits(struct service *s, uint32_t context_tokens, bool hold);
/* Of those that begin from now on: the format of their keys and values, at both halves. The stage
 * has it. */
void service_set_kv(struct service *s, enum kv_format f);
/* Of requests that have none of their own. 0, or -EINVAL: no curve for it. */
int service_set_target(struct service *s, struct codec_rate_target target);

/* Another target for a session that runs or waits. 0, -ENOENT, -EINVAL, or as service_call, whose
 * rules are its own. */
int service_retarget(struct service *s, uint64_t id, struct codec_rate_target target);

/* --- what is going on --------------------------------------------------------------------------- */

enum service_health { SERVICE_STARTING, SERVICE_READY, SERVICE_DRAINING, SERVICE_CLOUD_LOST };
/* Ready: a cloud is there (or none is needed) and requests are taken. Why not, for people, in *why (a
 * static string, "" when ready); why may be NULL. */
enum service_health service_health(const struct service *s, const char **why);

struct service_session {
    uint64_t id;
    char client[SERVICE_CLIENT];
    bool running;          /* else it waits for a session */
    uint32_t n_prompt, n_shared, n_predict, n_generated;
    uint64_t submitted_ns, first_token_ns, last_token_ns; /* port_now_ns; 0: not yet */
    uint64_t tile_bytes_up, rows_up;
    enum kv_format kv;     /* of its keys and values, once it is running */
    double parameter;      /* of its codec now, under a target; 0: the service's own */
    char worker[64];       /* the cloud that it is at; "" when local or none */
};
/* Up to max of them, oldest first; returns how many there are. */
uint32_t service_sessions(struct service *s, struct service_session *list, uint32_t max);

/* Buckets of a Prometheus histogram: counts[i] of values <= bounds_s[i], not cumulated; the last, of
 * larger ones. */
#define SERVICE_BUCKETS 16u
struct service_histogram {
    double bounds_s[SERVICE_BUCKETS];
    uint64_t counts[SERVICE_BUCKETS + 1];
    uint64_t n;
    double sum_s;
};

struct service_stats {
    uint64_t started_ns; /* port_now_ns */
    uint64_t requests, finished[EDGE_LOST + 1], rejected; /* rejected: -EAGAIN unless it
                                                                * comes again, -ENOSPC, -ERANGE */
    uint64_t prompt_tokens, shared_tokens, generated_tokens;
    uint32_t waiting, running, max_sessions, max_waiting;
    uint64_t kv_bytes, kv_budget_bytes; /* of this process's stage: held now, and at most */
    struct service_histogram ttft, inter_token, end_to_end;
    struct engine_stats engine; /* as of the last step, at most a tenth of a second ago */
    struct fleet_counts fleet;  /* as engine */
    enum service_health health;
    uint32_t context_tokens;  /* that a new request may have, now */
    enum kv_format kv;        /* and the format of its keys and values */
    const char *memory_step;  /* of the ladder that keeps --memory-budget; NULL: none */
    uint64_t memory_steps;    /* taken so far */
};
void service_stats(struct service *s, struct service_stats *out);

#endif
