/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/prefix.h"

#include <errno.h>

void prefix_consider(struct prefix_search *p, void *session, const int32_t *ids, uint32_t n_ids,
                     uint32_t n_run, bool lives)
{
    uint32_t most = p->n_prompt - 1; /* the last row is computed: its logits are wanted */
    uint32_t n = 0, now;

    if (n_ids < most)
        most = n_ids;
    while (n < most && ids[n] == p->prompt[n])
        n++;
    now = n < n_run ? n : n_run;
    if (now >= PREFIX_MIN && now > p->n_now) {
        p->n_now = now;
        p->now = session;
    }
    if (lives && n > now && n >= PREFIX_MIN && n > p->n_later) {
        p->n_later = n;
        p->later = session;
    }
}

bool prefix_waits(const struct prefix_search *p)
{
    return p->n_later >= p->n_now + PREFIX_MIN;
}

int prefix_open(struct stage *stage, enum kv_format f, int seq, uint32_t n, uint32_t max_tokens,
                bool (*evict)(void *arg), void *arg)
{
    int rc;

    do {
        rc =
            n ? stage_seq_fork(stage, seq, n, max_tokens) : stage_seq_open_as(stage, f, max_tokens);
    } while (rc == -ENOSPC && evict(arg));
    return rc;
}
