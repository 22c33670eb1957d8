/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fills matrices and vectors from a model's file: every member of the team reads and packs the rows
 * it will multiply, reading ahead of its packing. Beside what is filled a fixed buffer is resident,
 * some 4 MiB for all members together (more only for rows of over 64 KiB).
 */
#ifndef ISTHMUS_COMPUTE_FILL_H
#define ISTHMUS_COMPUTE_FILL_H

#include "compute/gguf_reader.h"
#include "compute/kernels/kernels.h"
#include "compute/loading.h"
#include "compute/team.h"

/* One tensor and where it goes. */
struct fill_job {
    const struct gguf_tensor *t;
    struct mat *mat;       /* new, of the tensor's shape; NULL: to the vector */
    enum scheme_part part; /* of a matrix in a scheme */
    float *vector;         /* [ne[0]] */
};

/* how: see struct loading's memory_bytes. 0; -EBADMSG: a weight that is no finite number; -EIO or
 * -errno of reading; -ENOMEM. err names the tensor. */
int weights_fill(const struct gguf *g, const struct fill_job *jobs, size_t n_jobs,
                 enum gguf_reading how, struct team *team, const struct loading *loading,
                 char *err);

#endif
