/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/embed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compute/gguf_impl.h"

struct embed {
    int fd;
    enum qtype type;
    uint64_t offset;
    size_t d_model, row_bytes;
    uint8_t row[];
};

int embed_open(const struct gguf *g, const struct gguf_tensor *t, struct embed **out, char *err)
{
    const struct qtype_info *q = qtype_info(t->type);
    size_t row_bytes = (size_t)t->ne[0] / q->block_values * q->block_bytes;
    struct embed *e = malloc(sizeof(*e) + row_bytes);
    struct stat st;
    int rc = 0;

    *out = NULL;
    if (!e)
        return -ENOMEM;
    *e = (struct embed){
        .fd = open(gguf_path(g), O_RDONLY | O_CLOEXEC),
        .type = t->type,
        .offset = t->offset,
        .d_model = (size_t)t->ne[0],
        .row_bytes = row_bytes,
    };
    if (e->fd < 0 || fstat(e->fd, &st))
        rc = -errno;
    else if ((uint64_t)st.st_size != gguf_file_bytes(g))
        rc = -ESTALE;
    if (rc) {
        gguf_fail(gguf_path(g), err, rc, "reading embedding rows: %s", strerror(-rc));
        embed_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void embed_close(struct embed *e)
{
    if (!e)
        return;
    if (e->fd >= 0)
        close(e->fd);
    free(e);
}

int embed_rows(struct embed *e, const int32_t *ids, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        int rc = gguf_pread(e->fd, e->row, e->row_bytes,
                            e->offset + (uint64_t)(uint32_t)ids[i] * e->row_bytes);

        if (rc == 0 && !qtype_finite(e->type, e->row, e->d_model))
            rc = -EIO; /* the file is damaged here */
        if (rc)
            return rc;
        qtype_dequantize(e->type, e->row, x + i * e->d_model, e->d_model);
    }
    return 0;
}
