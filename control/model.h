/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a model file for a command: GGUF, layers, tokenizer, with errors said on stderr. */
#ifndef ISTHMUS_CONTROL_MODEL_H
#define ISTHMUS_CONTROL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/stage.h"
#include "compute/stage_file.h"
#include "compute/team.h"
#include "compute/tokenizer.h"
#include "control/need.h"
#include "control/options.h"

struct model {
    const char *path;
    struct gguf *gguf;      /* NULL after model_drop_file */
    struct gguf *back;      /* of MODEL_PAIR: the cloud half, gguf the edge's; else NULL */
    struct tokenizer *tok;  /* NULL when not asked for */
    uint32_t n_layers;      /* of the whole model */
    struct stage_file half; /* which half gguf is, where it is one */
    char *named;            /* path, where it is not the caller's */
};

/* What a command can do with. All take a whole model; where a half is taken, the path may be of the
 * directory that `isthmus quantize` made of both. */
enum model_kind {
    MODEL_WHOLE,
    MODEL_EDGE,  /* or the edge half */
    MODEL_CLOUD, /* or the cloud half */
    MODEL_PAIR,  /* or both halves, by their directory */
};

/* EXIT_OK, or the exit code with the error already said. */
int model_open(const char *path, bool want_tokenizer, struct model *m);
int model_open_as(enum model_kind kind, const char *path, bool want_tokenizer, struct model *m);

/* Sessions at once, at most; with those that linger no more than a stage takes. */
#define SESSIONS_MAX 4000u
/* Rows of a run, for a chunk of a prompt and a row of each session: of more than 256 that decode at
 * once not all are in a run, for a larger one is no faster and takes memory (a row of logits each). */
#define RUN_SESSIONS 256u
static inline uint32_t model_run_rows(uint32_t chunk_tokens, uint32_t sessions)
{
    return chunk_tokens + (sessions < RUN_SESSIONS ? sessions : RUN_SESSIONS);
}

/* Once the stages are loaded the file's metadata need not stay resident. */
void model_drop_file(struct model *m);
void model_close(struct model *m);

/* The thread team of options, or of these defaults where none were given (with --cpus: a thread on
 * each), and the memory of what is loaded from then on beside its cores, locked with --mlock. Said
 * on stderr when fewer cores are allowed than asked for. near_numa_node: of the network card, whose
 * cores are preferred; -1: none. EXIT_OK or an exit code. */
int model_team_near(const struct model_options *o, unsigned default_threads, int default_first_core,
                    int near_numa_node, struct team **team);
int model_team(const struct model_options *o, unsigned default_threads, int default_first_core,
               struct team **team);

/* Threads of both halves on one host and where they are pinned: side by side, or on the same cores
 * where there are not enough for both. */
struct model_halves {
    unsigned threads; /* of each */
    int edge_core, cloud_core;
};
/* EXIT_OK or an exit code. */
int model_place_halves(const struct model_options *o, struct model_halves *h);

/* For --check-config: whether they name CPUs, or a node, that may be used, and how many threads the
 * team of model_team would have. EXIT_OK or an exit code. */
int model_check_team(const struct model_options *o, unsigned default_threads, uint32_t *threads);

/* team_params of options, all threads and first cores as they are given. */
struct team_params model_team_params(const struct model_options *o);

/* What a stage for so many busy sessions is to have of sequences and, if budget_bytes is not 0, of
 * cache, in p; linger: and for some that have ended, which others may begin like. What else p says
 * is there already: a stage that the model has not, and a budget that has no room for the smallest
 * session, are said. EXIT_OK or an exit code. */
int model_cache(const struct model *m, uint32_t sessions, bool linger, uint64_t budget_bytes,
                struct stage_params *p);

/* For two halves on this host: each looks whether its own layers fit, and would not see that those
 * of both don't. EXIT_OK, or an exit code with the need said. */
int model_check_halves(const struct model *m, const struct stage_params *edge,
                       const struct need_process *edge_with, const struct stage_params *cloud,
                       const struct need_process *cloud_with);

/* stage_open, its error said; refused if there is not memory enough for the process, and of a cache
 * without a budget no more than there is; its progress on stderr when it takes long. Said once
 * each: that the kernel gives it no huge pages, and that weights cannot be locked where the team's
 * options ask for it. EXIT_OK or an exit code. */
int model_open_stage(const struct model *m, const struct stage_params *params,
                     const struct need_process *with, struct team *team, struct stage **stage);

/* Ids of a prompt, BOS first when the model wants one. malloc'd; NULL: said on stderr. */
int32_t *model_encode_prompt(const struct model *m, const char *text, size_t len, uint32_t *n);

#endif
