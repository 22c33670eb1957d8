/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The OpenAI-compatible HTTP gateway over a service (docs/api.md). One thread of its own serves all
 * connections; answers come to it from the engine's thread, which it never makes wait.
 *
 *     service_open -> gateway_open -> service_run -> gateway_close -> service_close
 *
 * All of these in the engine's thread.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_H
#define ISTHMUS_CONTROL_GATEWAY_H

#include <stddef.h>
#include <stdint.h>

#include "control/model.h"
#include "control/service/service.h"

#define GATEWAY_MODEL_ID 128u /* bytes of a model's name, with the zero; a longer one is cut */

struct gateway;

/* What one client may take. Zero: the default. */
struct gateway_limits {
    uint32_t connections;   /* 4,096; more wait in the kernel's queue */
    uint32_t requests;      /* 1,024 answered at once; beyond: 429 */
    size_t body_bytes;      /* 1 MiB; beyond: 413 */
    uint32_t header_ms;     /* 10 s from a request's first byte to the end of its head; then 408 */
    uint32_t body_ms;       /* 30 s for its body */
    uint32_t idle_ms;       /* 75 s without a request; a tenth when half of the connections are taken */
    uint32_t write_ms;      /* 30 s in which a client takes nothing of what is sent to it */
    uint32_t answer_tokens; /* 1,024: max_tokens of a chat that gives none */
};

struct gateway_params {
    struct service *service;   /* not owned */
    const struct model *model; /* its tokenizer; not owned */
    const char *model_id;      /* as clients name it; NULL: the file's name without .gguf */
    const char *listen;        /* "HOST:PORT", "[::1]:PORT", ":PORT" (everywhere); port 0: any */
    const char *keys_file;     /* NULL: anybody may ask */
    struct gateway_limits limits;
};

/* Listening, and said so with the port. EXIT_OK or an exit code, the error said. */
int gateway_open(const struct gateway_params *p, struct gateway **out);

/* For --check-config: whether the address to listen at is one. EXIT_OK or EXIT_USAGE, said. */
int gateway_check_listen(const char *address);

/* Read keys_file again. 0, or as api_keys_read with err (API_KEYS_ERR bytes), and the old keys stay.
 * Any thread. */
int gateway_reload_keys(struct gateway *g, char *err);

/* Of the socket, host byte order. */
unsigned gateway_port(const struct gateway *g);

/* Answers that have ended are sent first, for at most a second; what still runs is cancelled. */
void gateway_close(struct gateway *g);

#endif
