/* SPDX-License-Identifier: Apache-2.0 */
/* `--requests FILE.jsonl`: one JSON object a line. */
#ifndef ISTHMUS_CONTROL_REQUESTS_H
#define ISTHMUS_CONTROL_REQUESTS_H

#include <stdint.h>

#include "compute/sampler.h"
#include "control/model.h"

struct request {
    unsigned line; /* in the file, from 1 */
    int32_t *prompt_ids;
    uint32_t n_prompt;
    uint32_t n_predict;
    struct sampler_params sampler;
};

struct requests {
    const char *name; /* of the file, for errors */
    struct request *list;
    size_t n;
};

/*
 * Read the whole file ("-": stdin) before any work. A line has `prompt` (text; control tokens in it
 * count as such) or `prompt_ids`, and may have n_predict, temp, top_k, top_p, min_p, repeat_penalty
 * and seed; what it leaves out comes from the defaults given. Empty lines are skipped; anything
 * else is an error that names the line. EXIT_OK or an exit code, the error said.
 */
int requests_read(const char *path, const struct model *m, uint32_t n_predict,
                  const struct sampler_params *sampler, struct requests *out);
void requests_free(struct requests *r);

#endif
