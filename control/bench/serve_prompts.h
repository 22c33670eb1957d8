/* SPDX-License-Identifier: Apache-2.0 */
/* What `bench serve` asks: prompts of a file, or made-up ones; and chance that a seed decides. */
#ifndef ISTHMUS_CONTROL_BENCH_SERVE_PROMPTS_H
#define ISTHMUS_CONTROL_BENCH_SERVE_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROMPTS_TOKENS_MAX 1000000u

struct prompts; /* of a file */

/* What is asked for beside the prompt. */
struct prompts_ask {
    const char *model;
    bool chat; /* a prompt as a user's message */
    bool ignore_eos;
    uint32_t prompt_tokens, max_tokens;
    uint64_t seed;
};

/*
 * JSON lines: {"prompt": "..."} or {"messages": [{"role": "...", "content": "..."}, ...]}, either
 * with "max_tokens": N if it shall differ. EXIT_OK or an exit code, the error said.
 */
int prompts_read(const char *path, struct prompts **out);
void prompts_free(struct prompts *p);

/*
 * The body of request n, malloc'd, of *len bytes: line n of the file, from its beginning again
 * after the last; or, where p is NULL, prompt_tokens words at random, each of them one token for
 * most vocabularies, so that no two prompts begin alike. *chat: it goes to /v1/chat/completions.
 * NULL: no memory.
 */
char *prompts_body(const struct prompts *p, const struct prompts_ask *ask, uint64_t n, bool *chat,
                   size_t *len);

/* Number n of the sequence that seed begins: evenly from (0, 1]. */
double prompts_chance(uint64_t seed, uint64_t n);

#endif
