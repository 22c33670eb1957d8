/* SPDX-License-Identifier: Apache-2.0 */
#include "control/generation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/utf8.h"

/* Show what is complete; the rest when nothing more comes. */
static void show(struct generation *g, bool all)
{
    if (!g->stream)
        return;
    const char *from = g->text + g->n_shown;
    const size_t left = g->n_text - g->n_shown;
    const size_t n = all ? left : utf8_ready(from, left);
    if (n == 0)
        return;
    if ((fwrite(from, 1, n, g->stream) != n || fflush(g->stream) == EOF) && !g->write_error)
        g->write_error = errno;
    g->n_shown += n;
}

static void append_piece(struct generation *g, int32_t id)
{
    const int64_t n = tok_piece(g->tok, id, false, NULL, 0);
    if (n <= 0)
        return;
    char *text = realloc(g->text, g->n_text + (size_t)n);
    if (!text) {
        g->out_of_memory = true;
        return;
    }
    g->text = text;
    tok_piece(g->tok, id, false, text + g->n_text, (size_t)n);
    g->n_text += (size_t)n;
}

static void keep_top(struct generation *g, const struct token_sample *t)
{
    struct sampler_top *to = g->top + (size_t)g->n_ids * g->n_top;
    g->logprobs[g->n_ids] = t->logprob;
    for (uint32_t k = 0; k < g->n_top; k++)
        to[k] = k < t->n_top ? t->top[k] : (struct sampler_top){.id = -1};
}

static void on_token(void *arg, const struct token_sample *t)
{
    struct generation *g = arg;
    const uint64_t now_ns = port_now_ns();
    if (g->n_ids && g->n_ids < g->n_predict)
        g->gaps_ns[g->n_ids - 1] = now_ns - g->last_ns;
    g->last_ns = now_ns;
    if (g->n_ids < g->n_predict) {
        if (g->n_top)
            keep_top(g, t);
        g->ids[g->n_ids++] = t->id;
    }
    append_piece(g, t->id);
    show(g, false);
}

static void on_done(void *arg, const struct edge_result *r)
{
    struct generation *g = arg;
    g->result = *r;
    g->done = true;
    show(g, true);
}

static bool is_stop(void *arg, int32_t id)
{
    const struct generation *g = arg;
    return tok_is_eog(g->tok, id);
}

int generation_start(struct generation *g, struct engine *e)
{
    const uint32_t n_ctx = e->info->n_ctx;
    if (g->n_prompt == 0)
        return -EINVAL;
    if (g->n_prompt >= n_ctx)
        return -ERANGE;
    if (g->n_predict > n_ctx - g->n_prompt)
        g->n_predict = n_ctx - g->n_prompt;

    if (!g->ids)
        g->ids = malloc(g->n_predict * sizeof *g->ids);
    if (!g->gaps_ns)
        g->gaps_ns = malloc(g->n_predict * sizeof *g->gaps_ns);
    if (g->n_top && !g->logprobs)
        g->logprobs = malloc(g->n_predict * sizeof *g->logprobs);
    if (g->n_top && !g->top)
        g->top = malloc((size_t)g->n_predict * g->n_top * sizeof *g->top);
    if (!g->ids || !g->gaps_ns || (g->n_top && (!g->logprobs || !g->top)))
        return -ENOMEM;
    const struct edge_request request = {
        .prompt_ids = g->prompt_ids,
        .n_prompt = g->n_prompt,
        .n_predict = g->n_predict,
        .sampler = g->sampler,
        .n_top = g->n_top,
        .is_stop = g->ignore_eos ? NULL : is_stop,
        .on_token = on_token,
        .on_done = on_done,
        .arg = g,
    };
    const int64_t session = engine_submit(e, &request);
    if (session < 0)
        return (int)session;
    g->session = session;
    return 0;
}

void generation_free(struct generation *g)
{
    free(g->ids);
    free(g->gaps_ns);
    free(g->logprobs);
    free(g->top);
    free(g->text);
    g->ids = NULL;
    g->gaps_ns = NULL;
    g->logprobs = NULL;
    g->top = NULL;
    g->text = NULL;
}

char *generation_take_text(struct generation *g)
{
    char *text = realloc(g->text, g->n_text + 1);
    if (!text)
        return NULL;
    text[g->n_text] = '\0';
    g->text = NULL;
    return text;
}

static double rate(double n, uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? n * 1e9 / (double)(to_ns - from_ns) : 0;
}

double generation_ttft_ms(const struct generation *g)
{
    const struct edge_result *r = &g->result;
    return r->n_generated ? (double)(r->first_token_ns - r->submitted_ns) / 1e6 : 0;
}

double generation_prefill_tokens_per_s(const struct generation *g)
{
    const struct edge_result *r = &g->result;
    return r->n_generated ? rate(r->n_prompt - r->n_shared, r->submitted_ns, r->first_token_ns) : 0;
}

double generation_decode_tokens_per_s(const struct generation *g)
{
    const struct edge_result *r = &g->result;
    return r->n_generated > 1 ? rate(r->n_generated - 1, r->first_token_ns, r->last_token_ns) : 0;
}

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

double generation_gap_ms(const struct generation *g, double share)
{
    const uint32_t n = g->n_ids > 1 ? g->n_ids - 1 : 0;
    uint64_t *sorted = n ? malloc(n * sizeof *sorted) : NULL;
    if (!sorted)
        return 0;
    memcpy(sorted, g->gaps_ns, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    const double ms = (double)sorted[(uint32_t)(share * (n - 1) + .5)] / 1e6;
    free(sorted);
    return ms;
}

const char *generation_finish_name(const struct generation *g)
{
    switch (g->result.finish) {
    case EDGE_LENGTH:
        return "length";
    case EDGE_STOP:
        return "stop";
    case EDGE_CANCELLED:
        return "cancelled";
    case EDGE_REFUSED:
        return "refused";
    case EDGE_LOST:
        return "lost";
    }
    return "?";
}
