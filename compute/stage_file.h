/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Halves of a model in files of their own, as `isthmus quantize` writes them: edge.gguf and
 * cloud.gguf. Each has the metadata of its parent, says which half it is, and holds that half's
 * tensors only. docs/weights.md has the keys.
 */
#ifndef ISTHMUS_COMPUTE_STAGE_FILE_H
#define ISTHMUS_COMPUTE_STAGE_FILE_H

#include <stdint.h>

#include "compute/gguf.h"

#define STAGE_FILE_VERSION 1u

enum stage_half {
    STAGE_WHOLE, /* a model like others */
    STAGE_EDGE,  /* layers [0, split) and the embedding; the output norm if that is the head, too */
    STAGE_CLOUD, /* layers [split, n_layers) and the head */
};

struct stage_file {
    enum stage_half half;
    uint32_t split, n_layers; /* the rest: of halves only */
    uint8_t parent[16];       /* gguf_fingerprint() of the model it was made from */
    uint8_t pair[16];         /* identity of both halves together, the same in both */
};

/* 0; -ENOTSUP: a version that is not ours; -EBADMSG: err names the key. */
int stage_file_read(const struct gguf *g, struct stage_file *f, char *err);

/* What two stages of a model must have in common: a half's pair, else gguf_fingerprint(). 0 or
 * -EIO. */
int stage_file_identity(const struct gguf *g, const struct stage_file *f, uint8_t out[16]);

/* "edge", "cloud", "whole": for errors. */
static inline const char *stage_half_name(enum stage_half h)
{
    return h == STAGE_EDGE ? "edge" : h == STAGE_CLOUD ? "cloud" : "whole";
}

#endif
