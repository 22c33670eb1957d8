/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads tensors in pieces, several on their way at once: by io_uring, past the page cache if asked
 * to. What it may not use it does without: a kernel without io_uring or a sandbox that forbids it,
 * a filesystem without O_DIRECT.
 *
 * A reader is one thread's; its gguf may be shared.
 */
#ifndef ISTHMUS_COMPUTE_GGUF_READER_H
#define ISTHMUS_COMPUTE_GGUF_READER_H

#include "compute/gguf.h"

enum gguf_reading {
    GGUF_READ_PLAIN,  /* pread, its readahead asked for in time */
    GGUF_READ_QUEUED, /* io_uring, through the page cache */
    GGUF_READ_DIRECT, /* io_uring, past the page cache */
};

struct gguf_reader;

/* A reader of pieces of at most piece_bytes, `depth` of them asked for or in use at a time. *how is
 * what is wanted, and then what was possible. 0 or -ENOMEM. */
int gguf_reader_open(const struct gguf *g, enum gguf_reading *how, unsigned depth,
                     size_t piece_bytes, struct gguf_reader **out);
void gguf_reader_close(struct gguf_reader *r);

/* Ask for tensor bytes [from, from + n), which are inside it. False: all of the depth is in use. */
bool gguf_reader_ask(struct gguf_reader *r, const struct gguf_tensor *t, uint64_t from, size_t n);

/* Wait for the piece that was asked for first and is still out, and use its bytes until
 * gguf_reader_done. 0, or as gguf_read; after an error nothing but closing is left. */
int gguf_reader_next(struct gguf_reader *r, const void **data, char *err);
void gguf_reader_done(struct gguf_reader *r);

#endif
