/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/pipeline/pick.h"

int pick_tokens(const struct pick *p, struct proto_tokens *out)
{
    out->n = 0;
    out->n_top = (uint8_t)(p->n ? p->n_top : 0);
    out->position = p->position;
    while (out->n < p->n && out->n < p->most) {
        const unsigned i = out->n++;
        const float *x = p->logits + (size_t)i * p->n_vocab;

        out->ids[i] = sampler_pick(p->sampler, p->params, x, p->generated, p->n_generated + i,
                                   out->position + i, &out->logprobs[i]);
        if (out->ids[i] < 0)
            return out->ids[i];
        (void)sampler_top_logprobs(p->sampler, x, out->top[i], out->n_top);
        p->generated[p->n_generated + i] = out->ids[i];
        if (i + 1 == p->n || out->ids[i] != p->drafts[i])
            break;
    }
    return 0;
}
