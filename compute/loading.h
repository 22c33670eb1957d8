/* SPDX-License-Identifier: Apache-2.0 */
/* What a stage's loading should know of the host, and what is heard of it while it lasts. */
#ifndef ISTHMUS_COMPUTE_LOADING_H
#define ISTHMUS_COMPUTE_LOADING_H

#include <stdint.h>

struct loading {
    /* Memory there is for the stage and the file's page cache. A file that would not stay cached
     * beside what is made of it is read past the cache, so as to push nothing out. 0: plenty. */
    uint64_t memory_bytes;
    /* Both are called by the thread that opens the stage; NULL: nobody listens. */
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes); /* of the tensors */
    void (*note)(void *arg, const char *line); /* something it does without, one line */
    void *arg;
};

#endif
