/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request's body, from JSON to what it asks for, as OpenAI's API has it (docs/api.md). Knows
 * neither the model nor HTTP: what is right here may still be too long or of another model.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_API_H
#define ISTHMUS_CONTROL_GATEWAY_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compute/sampler.h"
#include "compute/tokenizer.h"
#include "control/gateway/text.h"

#define API_STOPS      4u
#define API_STOP_BYTES 256u
#define API_N          8u  /* answers to a prompt */
#define API_CHOICES    64u /* answers to a request: prompts x n */

enum api_kind { API_COMPLETION, API_CHAT };

/* OpenAI's error object, and the status that it goes with. */
struct api_error {
    unsigned status;
    const char *type, *code; /* static; code NULL: null */
    char param[40];          /* "": null */
    char message[320];
};

__attribute__((format(printf, 6, 7))) void api_fail(struct api_error *e, unsigned status,
                                                    const char *type, const char *code,
                                                    const char *param, const char *fmt, ...);

struct api_prompt {
    const char *text; /* NULL: ids */
    size_t n_text;
    int32_t *ids; /* >= 0; of which vocabulary is not looked at */
    uint32_t n_ids;
};

struct api_request {
    enum api_kind kind;
    json_t *root; /* owns the texts below */
    const char *model;
    struct api_prompt *prompts; /* a completion's, >= 1 */
    uint32_t n_prompts;
    struct chat_message *messages; /* a chat's, >= 1 */
    char **contents;               /* of messages, where they were joined of parts */
    uint32_t n_messages;

    uint32_t n;          /* answers to each prompt */
    uint32_t max_tokens; /* 0: not given */
    uint32_t top_logprobs; /* alternatives with each token's log-probability */
    struct sampler_params sampler;
    bool has_seed, ignore_eos, logprobs, stream, include_usage;
    struct text_stop stops[API_STOPS];
    uint32_t n_stops;
};

/* 0, or -1 with *e filled in; api_free is due in either case. */
int api_parse(enum api_kind kind, const char *body, size_t n, struct api_request *r,
              struct api_error *e);
void api_free(struct api_request *r);

#endif
