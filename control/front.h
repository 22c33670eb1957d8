/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What faces the user in `run` and `edge`: prompts in, answers out, whatever engine makes them.
 *
 *     front_open -> (the command may start a cloud) -> front_join or front_local -> front_answer
 *     -> front_close
 */
#ifndef ISTHMUS_CONTROL_FRONT_H
#define ISTHMUS_CONTROL_FRONT_H

#include <stdbool.h>

#include "control/account.h"
#include "control/adapt/steer.h"
#include "control/child.h"
#include "control/engine.h"
#include "control/fleet/fleet.h"
#include "control/model.h"
#include "control/options.h"
#include "control/port_arg.h"
#include "control/privileges.h"
#include "control/requests.h"
#include "control/security_arg.h"
#include "control/split_plan.h"
#include "dataplane/port.h"

struct front_options {
    struct model_options model;
    struct split_options split;
    enum head_place head;
    struct sampler_params sampler;
    struct adapt_options adapt;
    const char *prompt;        /* NULL: a chat */
    const char *requests;      /* file of requests, or NULL */
    const char *chat_template; /* NULL: the one that the file's is recognised as */
    uint32_t parallel;    /* sessions at once */
    uint32_t n_predict;
    uint32_t top_logprobs; /* alternatives of each id that --json and --requests show; 0: none */
    uint32_t chunk_tokens; /* of prefill */
    struct netem_options netem;
    bool json, ignore_eos;
    bool serves;              /* others bring requests: neither prompt, requests nor a chat */
    bool both_halves;         /* of a model in two files, both are run here */
    bool no_prefix;           /* sessions share no cache */
    uint64_t kv_budget_bytes; /* 0: not given */
    uint64_t memory_budget_bytes; /* of this process in all; 0: none */
    uint32_t kv_least; /* 1 + the coarsest enum kv_format of new sessions; 0: not given */
    bool stats;                   /* print the account of memory at the end */
};
/* All of the above, for a command's argp as a child. */
extern const struct argp front_argp;

/* Where the clouds are, and how much is done to keep one. */
struct join_options {
    struct port_options at;
    const char *workers; /* instead: the registry that has them */
    uint32_t max_uplinks; /* of these */
    uint64_t connect_ns;   /* how long to look for the first */
    uint64_t reconnect_ns; /* how long answers wait for another when it is lost; 0: they end */
    size_t history_bytes;  /* memory for what it is told then */
    struct privileges rights; /* to be given up when it is joined; but for the ports */
};

struct front {
    const struct front_options *o;
    struct join_options join; /* at.n 0: local */
    unsigned address;                /* of join.at: the one that port is of */
    uint64_t name_ns;                /* when the wait for the next one's name began */
    struct model model;
    char *prompt; /* of -p, or read from stdin */
    size_t prompt_bytes;
    struct requests requests;
    struct team *team;
    struct stage *stage;
    struct security security; /* closed by front_close */
    struct port *port;   /* NULL: the fleet's */
    struct fleet *fleet; /* NULL: no registry */
    struct engine *engine;
    struct steer *steer; /* of the engine; NULL: its quality does not change */
    struct split_plan plan; /* split 0: local */
    struct child cloud;     /* pid 0: not ours */
};

/* Read and check everything that can be wrong before a stage is loaded. EXIT_OK or an exit code,
 * the error said; front_close is due in either case. */
int front_open(struct front *f, const struct front_options *o);
/* The coarsest keys and values that sessions may get, by the ladder of --memory-budget or because
 * their cloud asks for them; where it does not serve, its own. */
enum kv_format front_kv_least(const struct front *f);

/*
 * For --check-config: all of the above, the cut, the cache, the budget and the cores, as they would
 * be found wrong at the start; stdin is not read. Whether there is memory enough is left to it:
 * what serves now may take it. local: nothing is cut; join NULL: both halves are run here. EXIT_OK
 * or an exit code, the error said.
 */
int front_check(const struct front_options *o, const struct join_options *join, bool local);

/* Load the whole model. */
int front_local(struct front *f);

/* Decide where to cut and what carries the rows: f->plan. */
int front_plan(struct front *f);

/* What a stage of these layers is to be, and what its process has beside it, both halves of a split
 * alike. */
struct stage_params front_stage(const struct front *f, uint32_t first_layer, uint32_t end_layer);
struct need_process front_process(const struct front *f, const struct stage_params *p,
                                  uint32_t threads);

/* Load layers [0, f->plan.split) and join a cloud, as f->security says; the names of j->at stay until
 * front_close. The threads and first core are those of the options, or else the ones given. Stopped
 * by a signal before the cloud was there: 128 and its number. */
int front_join(struct front *f, const struct join_options *j, unsigned threads, int first_core);

/* The engine has failed: say why, as exactly as can be known. */
void front_say_lost(struct front *f);

/* Answer the prompt, the requests or the chat. */
int front_answer(struct front *f);

/* Where this process's memory is, in the engine's thread. */
void front_account(const struct front *f, struct account *a);

void front_close(struct front *f);

#endif
