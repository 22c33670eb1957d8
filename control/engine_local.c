/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole model in this process: the same stage code, sampler and order of positions as the split
 * model, without codec and port. A step runs one batch: a row of every session that decodes, and as
 * much of the oldest unfinished prompts as the chunk and mix.h allow.
 */
#include "control/engine.h"
#include "dataplane/pipeline/mix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session {
    int64_t id; /* 0: free */
    int seq;
    struct edge_request req;
    struct edge_result result;
    int32_t *ids;          /* the prompt, then what was generated */
    uint32_t n_ids, n_run; /* ids known; ids that went through the stage */
    bool cancelled;
};

struct local {
    struct engine base;
    struct stage *stage;
    struct sampler *sampler;
    uint32_t chunk_tokens, max_sessions;
    struct session *sessions;
    struct mix mix;
    uint32_t turn_decode; /* session to look at first */
    struct session **batch_sessions;
    struct stage_rows *batch;
    size_t n_batch;
    int32_t *ids;
    float *logits;
    int64_t next_id;
    char error[PIPELINE_ERR];
};

static int64_t local_submit(struct engine *e, const struct edge_request *r)
{
    struct local *l = (struct local *)e;
    const struct stage_info *info = e->info;
    if (r->n_prompt == 0 || r->n_predict == 0)
        return -EINVAL;
    if (r->n_prompt > info->n_ctx || r->n_predict > info->n_ctx - r->n_prompt)
        return -ERANGE;
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt_ids[i] < 0 || (uint32_t)r->prompt_ids[i] >= info->n_vocab)
            return -EINVAL;

    struct session *s = NULL;
    for (uint32_t i = 0; i < l->max_sessions && !s; i++)
        if (l->sessions[i].id == 0)
            s = &l->sessions[i];
    if (!s)
        return -EAGAIN;

    const uint32_t max_tokens = r->n_prompt + r->n_predict;
    int32_t *ids = malloc(max_tokens * sizeof *ids);
    if (!ids)
        return -ENOMEM;
    const int seq = stage_seq_open(l->stage, max_tokens);
    if (seq < 0) {
        free(ids);
        return seq;
    }
    memcpy(ids, r->prompt_ids, r->n_prompt * sizeof *ids);
    *s = (struct session){
        .id = ++l->next_id, .seq = seq, .req = *r, .ids = ids, .n_ids = r->n_prompt};
    s->req.prompt_ids = NULL; /* the copy is s->ids */
    s->result.n_prompt = r->n_prompt;
    s->result.submitted_ns = port_now_ns();
    return s->id;
}

static void local_cancel(struct engine *e, int64_t session)
{
    struct local *l = (struct local *)e;
    for (uint32_t i = 0; i < l->max_sessions; i++)
        if (session > 0 && l->sessions[i].id == session)
            l->sessions[i].cancelled = true;
}

static void finish(struct local *l, struct session *s, enum edge_finish how)
{
    s->result.finish = how;
    stage_seq_close(l->stage, s->seq);
    free(s->ids);
    s->ids = NULL;
    s->id = 0;
    s->req.on_done(s->req.arg, &s->result);
}

/* The next id of a session from its last row's logits. */
static void sample(struct local *l, struct session *s, const float *logits)
{
    const uint32_t n_prompt = s->result.n_prompt;
    float logprob;
    const int32_t id = sampler_pick(l->sampler, &s->req.sampler, logits, s->ids + n_prompt,
                                    s->n_ids - n_prompt, s->n_ids, &logprob);
    if (id < 0) {
        snprintf(s->result.error, sizeof s->result.error,
                 "the model's logits at position %u are not finite: its file is damaged", s->n_ids);
        finish(l, s, EDGE_LOST);
        return;
    }
    s->ids[s->n_ids++] = id;
    s->result.n_generated++;
    s->result.last_token_ns = port_now_ns();
    if (s->result.n_generated == 1)
        s->result.first_token_ns = s->result.last_token_ns;
    if (s->req.on_token)
        s->req.on_token(s->req.arg, id, logprob);
    if (s->req.is_stop && s->req.is_stop(s->req.arg, id))
        finish(l, s, EDGE_STOP);
    else if (s->result.n_generated == s->req.n_predict)
        finish(l, s, EDGE_LENGTH);
}

/* Rows of one session join the batch. */
static void add_rows(struct local *l, struct session *s, enum mix_rank rank, uint32_t n)
{
    memcpy(l->ids + l->mix.n_rows, s->ids + s->n_run, n * sizeof *l->ids);
    l->batch_sessions[l->n_batch] = s;
    l->batch[l->n_batch++] = (struct stage_rows){
        .seq = s->seq, .pos = s->n_run, .n = n, .n_logits = s->n_run + n == s->n_ids};
    mix_add(&l->mix, rank, n);
}

static bool decodes(const struct session *s)
{
    return s->id && s->n_ids - s->n_run == 1;
}

static bool has_prompt(const struct session *s)
{
    return s->id && s->n_ids - s->n_run > 1;
}

static void add_decode(struct local *l)
{
    const uint32_t turn = l->turn_decode;
    for (uint32_t i = 0; i < l->max_sessions; i++) {
        struct session *s = &l->sessions[(turn + i) % l->max_sessions];
        if (!decodes(s))
            continue;
        if (!mix_room(&l->mix, MIX_DECODE)) {
            l->turn_decode = (turn + i) % l->max_sessions;
            break;
        }
        add_rows(l, s, MIX_DECODE, 1);
    }
}

/* The session with the oldest prompt after the one with this id. */
static struct session *next_prompt(struct local *l, int64_t id)
{
    struct session *oldest = NULL;
    for (uint32_t i = 0; i < l->max_sessions; i++) {
        struct session *s = &l->sessions[i];
        if (has_prompt(s) && s->id > id && (!oldest || s->id < oldest->id))
            oldest = s;
    }
    return oldest;
}

static void add_prompts(struct local *l)
{
    uint32_t left = l->chunk_tokens;
    int64_t id = 0;
    while (left && mix_room(&l->mix, MIX_PREFILL)) {
        struct session *s = next_prompt(l, id);
        if (!s)
            break;
        uint32_t n = s->n_ids - s->n_run;
        n = n < left ? n : left;
        n = n < mix_room(&l->mix, MIX_PREFILL) ? n : mix_room(&l->mix, MIX_PREFILL);
        add_rows(l, s, MIX_PREFILL, n);
        left -= n;
        id = s->id;
    }
}

static void gather(struct local *l)
{
    bool waiting[MIX_RANKS] = {false};
    for (uint32_t i = 0; i < l->max_sessions; i++) {
        waiting[MIX_DECODE] |= decodes(&l->sessions[i]);
        waiting[MIX_PREFILL] |= has_prompt(&l->sessions[i]);
    }
    l->n_batch = 0;
    mix_begin(&l->mix, waiting, waiting[MIX_DECODE], l->base.info->max_rows);
    for (unsigned i = 0; i < MIX_RANKS; i++) {
        if (l->mix.order[i] == MIX_DECODE)
            add_decode(l);
        else if (l->mix.order[i] == MIX_PREFILL)
            add_prompts(l);
    }
    mix_end(&l->mix);
}

static int local_step(struct engine *e, uint64_t until_ns)
{
    struct local *l = (struct local *)e;
    int busy = 0;
    (void)until_ns; /* nothing to wait for */
    for (uint32_t i = 0; i < l->max_sessions; i++) {
        struct session *s = &l->sessions[i];
        if (s->id && s->cancelled)
            finish(l, s, EDGE_CANCELLED);
        busy += s->id != 0;
    }
    gather(l);
    if (l->n_batch == 0)
        return busy;

    const int rc = stage_run(l->stage, l->batch, l->n_batch, l->ids, NULL, NULL, l->logits);
    if (rc < 0) {
        snprintf(l->error, sizeof l->error, "the model cannot run: %s", strerror(-rc));
        for (uint32_t i = 0; i < l->max_sessions; i++)
            if (l->sessions[i].id) {
                strcpy(l->sessions[i].result.error, l->error);
                finish(l, &l->sessions[i], EDGE_LOST);
            }
        return rc;
    }
    const float *logits = l->logits;
    for (size_t i = 0; i < l->n_batch; i++) {
        struct session *s = l->batch_sessions[i];
        s->n_run += l->batch[i].n;
        if (l->batch[i].n_logits) {
            sample(l, s, logits);
            logits += e->info->n_vocab;
        }
    }
    return busy;
}

static const char *local_error(const struct engine *e)
{
    return ((const struct local *)e)->error;
}

static void local_stats(const struct engine *e, struct engine_stats *s)
{
    *s = (struct engine_stats){.port = "local", .cipher = "none"};
}

static void local_close(struct engine *e)
{
    struct local *l = (struct local *)e;
    for (uint32_t i = 0; l->sessions && i < l->max_sessions; i++)
        if (l->sessions[i].id)
            finish(l, &l->sessions[i], EDGE_CANCELLED);
    sampler_close(l->sampler);
    free(l->sessions);
    free(l->batch_sessions);
    free(l->batch);
    free(l->ids);
    free(l->logits);
    free(l);
}

static const struct engine_ops local_ops = {
    .submit = local_submit,
    .cancel = local_cancel,
    .step = local_step,
    .error = local_error,
    .stats = local_stats,
    .close = local_close,
};

int engine_local(struct stage *whole, uint32_t chunk_tokens, uint32_t max_sessions,
                 struct engine **out)
{
    const struct stage_info *info = stage_info(whole);
    struct local *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->base.ops = &local_ops;
    l->base.info = info;
    l->stage = whole;
    l->chunk_tokens = chunk_tokens < info->max_rows ? chunk_tokens : info->max_rows;
    l->max_sessions = max_sessions;
    l->sessions = calloc(max_sessions, sizeof *l->sessions);
    l->batch_sessions = calloc(max_sessions, sizeof *l->batch_sessions);
    l->batch = calloc(max_sessions, sizeof *l->batch);
    l->ids = calloc(info->max_rows, sizeof *l->ids);
    l->logits = calloc((size_t)max_sessions * info->n_vocab, sizeof *l->logits);
    const int rc = l->sessions && l->batch_sessions && l->batch && l->ids && l->logits
                       ? sampler_open(info->n_vocab, &l->sampler)
                       : -ENOMEM;
    if (rc < 0) {
        local_close(&l->base);
        return rc;
    }
    *out = &l->base;
    return 0;
}
