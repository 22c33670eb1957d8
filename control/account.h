/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One account of a process's memory: what each thing takes now, what it may take at most, and what
 * the kernel says is resident. `ctl memory`, `edge --stats` and --memory-budget read it.
 */
#ifndef ISTHMUS_CONTROL_ACCOUNT_H
#define ISTHMUS_CONTROL_ACCOUNT_H

#include <jansson.h>
#include <stdint.h>

#include "compute/gguf.h"
#include "compute/stage.h"
#include "dataplane/port.h"

enum account_term {
    ACCOUNT_WEIGHTS,
    ACCOUNT_KV,
    ACCOUNT_SCRATCH, /* activations of a run */
    ACCOUNT_LOGITS,  /* and the rows that go between stage and codec */
    ACCOUNT_HISTORY,
    ACCOUNT_PACKETS, /* of ports without DPDK */
    ACCOUNT_DPDK,    /* with its packets */
    ACCOUNT_PROGRAM, /* code, and the tokenizer and tables that were there before the weights */
    ACCOUNT_HEAP,    /* malloc's since, and not in the others: connections, answers, and holes */
    ACCOUNT_REST,    /* resident and none of these */
    ACCOUNT_TERMS
};
const char *account_name(enum account_term t);

struct account {
    uint64_t bytes[ACCOUNT_TERMS];
    uint64_t limits[ACCOUNT_TERMS]; /* 0: as bytes */
    uint64_t resident_bytes, peak_bytes, locked_bytes;
    uint64_t kv_reserved_bytes, kv_shared_bytes;
    uint64_t kv_busy_bytes, history_busy_bytes; /* of sessions that have not ended */
    uint32_t busy;                              /* how many these are */
    enum kv_format kv_format;
    uint64_t budget_bytes; /* --memory-budget; 0: none */
};

/* What is known where it is asked, in the engine's thread. */
struct account_source {
    const struct stage *stage; /* NULL: not loaded yet */
    struct port *const *ports;
    uint32_t n_ports;
    uint64_t history_bytes, history_busy_bytes, history_limit_bytes;
    uint64_t kv_busy_bytes;
    uint32_t busy;
    uint64_t dpdk_bytes; /* port_eal_rss_bytes */
    uint64_t logits_bytes; /* account_logits */
    uint64_t budget_bytes;
};

/* Before weights are loaded: what is resident then is the program. */
void account_begin(void);
/* Of the program, so much was given back since: the file's description. */
void account_less(uint64_t bytes);
void account_take(const struct account_source *s, struct account *a);

/* All terms but the rest. */
uint64_t account_known(const struct account *a);
/* The most that it may come to. */
uint64_t account_most(const struct account *a);

/* {"rss_bytes": .., "items": [{"what", "bytes", "limit_bytes"}, ..]} */
json_t *account_json(const struct account *a);
/* The same for people, lines to stderr. */
void account_print(const struct account *a);

/* --- before there is anything ------------------------------------------------------------------
 */

/* Rows between stage and codec and, of a stage with the head, logits for so many sessions. */
uint64_t account_logits(uint32_t d_model, uint32_t n_vocab, uint32_t max_rows, uint32_t sessions);
/* Hidden states that an edge with the head makes such logits of. */
uint64_t account_hidden(uint32_t d_model, uint32_t max_rows, uint32_t sessions);
/* A number of kB of /proc/self/status, in bytes: "VmRSS", "VmHWM", "RssFile". 0: it is not there. */
uint64_t process_memory(const char *key);

#endif
