/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole model in this process: the same stage code, sampler and order of positions as the split
 * model, without codec and port. A step runs one batch: a row of every session that decodes, and as
 * much of the oldest unfinished prompts as the chunk and mix.h allow.
 *
 * A prompt begins as another session's if it can (prefix.h): one that is busy, or one that has
 * ended and lingers until its place is wanted.
 */
#include "control/engine.h"
#include "dataplane/pipeline/mix.h"
#include "dataplane/pipeline/prefix.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_LOGITS (1u << 20) /* are sampled in about a millisecond: what came of them is told then */

struct session {
    int64_t id; /* 0: free, or lingers */
    int seq;
    enum kv_format kv; /* seq's */
    struct edge_request req;
    struct edge_result result;
    int32_t *ids;          /* the prompt, then what was generated */
    uint32_t n_ids, n_run; /* ids known; ids that went through the stage */
    bool cancelled;
    bool begun;    /* its first rows were chosen: computed, or another session's */
    bool lingers;  /* it has ended; ids and seq stay for others to begin like */
    uint64_t used; /* of those that linger: when it was last of use, counted */
};

struct local {
    struct engine base;
    struct stage *stage;
    struct sampler *sampler;
    uint32_t chunk_tokens, max_sessions, n_busy;
    bool no_prefix;
    uint64_t uses;
    struct session *sessions; /* [n_places] */
    uint32_t n_places;
    const struct session *like; /* not to be given up now */
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

/* --- sessions ------------------------------------------------------------------------------------
 */

static void forget(struct local *l, struct session *s)
{
    if (s->seq >= 0)
        stage_seq_close(l->stage, s->seq);
    free(s->ids);
    *s = (struct session){.id = 0};
}

/* Give up the one that lingers and was of no use for longest. */
static bool evict(void *arg)
{
    struct local *l = arg;
    struct session *oldest = NULL;
    for (uint32_t i = 0; i < l->n_places; i++) {
        struct session *s = &l->sessions[i];
        if (s->lingers && s != l->like && (!oldest || s->used < oldest->used))
            oldest = s;
    }
    if (oldest)
        forget(l, oldest);
    return oldest;
}

/* What the session could begin like. */
static struct prefix_search search(struct local *l, const struct session *s)
{
    struct prefix_search p = {.prompt = s->ids, .n_prompt = s->result.n_prompt};
    for (uint32_t i = 0; !l->no_prefix && i < l->n_places; i++) {
        struct session *other = &l->sessions[i];
        if (other->kv != s->kv)
            continue;
        if (other->lingers)
            prefix_consider(&p, other, other->ids, other->n_run, other->n_run, false);
        else if (other->id && other->id != s->id)
            prefix_consider(&p, other, other->ids, other->n_ids, other->n_run,
                            other->id < s->id && !other->cancelled);
    }
    return p;
}

/* A sequence that begins as the other's, or an empty one where there is no room for that. */
static int open_seq(struct local *l, struct session *s, struct session *like, uint32_t n)
{
    const uint32_t max_tokens = s->result.n_prompt + s->req.n_predict;
    int seq = -ENOSPC;
    if (n) {
        like->used = ++l->uses;
        l->like = like;
        seq = prefix_open(l->stage, s->kv, like->seq, n, max_tokens, evict, l);
        l->like = NULL;
        s->n_run = s->result.n_shared = n;
        s->begun = true;
    }
    if (seq >= 0)
        return seq;
    s->n_run = s->result.n_shared = 0;
    return prefix_open(l->stage, s->kv, -1, 0, max_tokens, evict, l);
}

static int check_request(const struct stage_info *info, const struct edge_request *r)
{
    if (r->n_prompt == 0 || r->n_predict == 0 || r->n_top > SAMPLER_TOP_MAX)
        return -EINVAL;
    if (r->n_prompt > info->n_ctx || r->n_predict > info->n_ctx - r->n_prompt)
        return -ERANGE;
    if (!stage_has_kv(info, edge_request_kv(r, info)))
        return -EINVAL;
    for (uint32_t i = 0; i < r->n_prompt; i++)
        if (r->prompt_ids[i] < 0 || (uint32_t)r->prompt_ids[i] >= info->n_vocab)
            return -EINVAL;
    return 0;
}

static struct session *free_place(struct local *l)
{
    for (;;) {
        for (uint32_t i = 0; i < l->n_places; i++)
            if (l->sessions[i].id == 0 && !l->sessions[i].lingers)
                return &l->sessions[i];
        if (!evict(l))
            return NULL;
    }
}

static int64_t local_submit(struct engine *e, const struct edge_request *r)
{
    struct local *l = (struct local *)e;
    const int bad = check_request(e->info, r);
    if (bad)
        return bad;
    const uint32_t max_tokens = r->n_prompt + r->n_predict;
    const enum kv_format kv = edge_request_kv(r, e->info);
    if (stage_seq_bytes_as(l->stage, kv, max_tokens) > e->info->kv_budget_bytes)
        return -ENOSPC;
    if (l->n_busy == l->max_sessions)
        return -EAGAIN;

    struct session s = {.id = l->next_id + 1, .kv = kv, .req = *r, .n_ids = r->n_prompt};
    s.ids = malloc(max_tokens * sizeof *s.ids);
    if (!s.ids)
        return -ENOMEM;
    memcpy(s.ids, r->prompt_ids, r->n_prompt * sizeof *s.ids);
    s.req.prompt_ids = NULL; /* the copy is s.ids */
    s.result.n_prompt = r->n_prompt;
    s.result.submitted_ns = port_now_ns();
    const struct prefix_search p = search(l, &s);
    l->like = p.now;
    struct session *place = free_place(l);
    l->like = NULL;
    if (place) {
        s.seq = prefix_waits(&p) ? open_seq(l, &s, NULL, 0) : open_seq(l, &s, p.now, p.n_now);
    } else { /* only by giving up what it could begin like */
        place = free_place(l);
        s.seq = open_seq(l, &s, NULL, 0);
    }
    if (s.seq < 0) {
        free(s.ids);
        return s.seq == -ENOSPC && l->n_busy ? -EAGAIN : s.seq;
    }
    *place = s;
    l->n_busy++;
    return ++l->next_id;
}

static void finish(struct local *l, struct session *s, enum edge_finish how);

/* Its first rows are due: to be computed, or another session's. False: that one gets there. */
static bool begin(struct local *l, struct session *s)
{
    if (s->begun)
        return true;
    const struct prefix_search p = search(l, s);
    if (prefix_waits(&p))
        return false;
    s->begun = true;
    if (!p.n_now)
        return true;
    stage_seq_close(l->stage, s->seq); /* what it had reserved is enough */
    s->seq = open_seq(l, s, p.now, p.n_now);
    if (s->seq < 0) {
        snprintf(s->result.error, sizeof s->result.error, "no memory for the cache: %s",
                 strerror(-s->seq));
        finish(l, s, EDGE_LOST);
        return false;
    }
    return true;
}

static void local_cancel(struct engine *e, int64_t session)
{
    struct local *l = (struct local *)e;
    for (uint32_t i = 0; i < l->n_places; i++)
        if (session > 0 && l->sessions[i].id == session)
            l->sessions[i].cancelled = true;
}

static void finish(struct local *l, struct session *s, enum edge_finish how)
{
    struct edge_result result = s->result;
    const struct edge_request req = s->req;
    result.finish = how;
    l->n_busy--;
    s->id = 0;
    s->lingers = !l->no_prefix && how != EDGE_LOST && s->n_run >= PREFIX_MIN;
    s->used = ++l->uses;
    if (!s->lingers)
        forget(l, s);
    req.on_done(req.arg, &result);
}

/* The next id of a session from its last row's logits. */
static void sample(struct local *l, struct session *s, const float *logits)
{
    const uint32_t n_prompt = s->result.n_prompt;
    struct sampler_top top[SAMPLER_TOP_MAX];
    struct token_sample t = {.top = top};
    t.id = sampler_pick(l->sampler, &s->req.sampler, logits, s->ids + n_prompt, s->n_ids - n_prompt,
                        s->n_ids, &t.logprob);
    if (t.id < 0) {
        snprintf(s->result.error, sizeof s->result.error,
                 "the model's logits at position %u are not finite: its file is damaged", s->n_ids);
        finish(l, s, EDGE_LOST);
        return;
    }
    t.n_top = (uint32_t)sampler_top_logprobs(l->sampler, logits, top, s->req.n_top);
    s->ids[s->n_ids++] = t.id;
    s->result.n_generated++;
    s->result.last_token_ns = port_now_ns();
    if (s->result.n_generated == 1)
        s->result.first_token_ns = s->result.last_token_ns;
    if (s->req.on_token)
        s->req.on_token(s->req.arg, &t);
    if (s->req.is_stop && s->req.is_stop(s->req.arg, t.id))
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
    mix_add(&l->mix, rank, s->n_run, n);
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
    for (uint32_t i = 0; i < l->n_places; i++) {
        struct session *s = &l->sessions[(turn + i) % l->n_places];
        if (!decodes(s))
            continue;
        if (!mix_room(&l->mix, MIX_DECODE, 0)) {
            l->turn_decode = (turn + i) % l->n_places;
            break;
        }
        add_rows(l, s, MIX_DECODE, 1);
    }
}

static struct mix_prompt prompt_of(const struct session *s)
{
    return (struct mix_prompt){.left = s->n_ids - s->n_run, .number = s->id, .turn = s->id};
}

/* The prompt whose turn it is after that one, NULL: the first. */
static struct session *next_prompt(struct local *l, const struct mix_prompt *after)
{
    struct session *next = NULL;
    for (uint32_t i = 0; i < l->n_places; i++) {
        struct session *s = &l->sessions[i];
        if (has_prompt(s) && (!after || mix_before(&l->mix, *after, prompt_of(s))) &&
            (!next || mix_before(&l->mix, prompt_of(s), prompt_of(next))))
            next = s;
    }
    return next;
}

static void add_prompts(struct local *l)
{
    uint32_t left = l->chunk_tokens;
    struct mix_prompt at, *after = NULL;
    while (left && mix_room(&l->mix, MIX_PREFILL, 0)) {
        struct session *s = next_prompt(l, after);
        if (!s)
            break;
        at = prompt_of(s); /* as it was in the order: what it can begin like may change that */
        after = &at;
        if (!begin(l, s))
            continue;
        uint32_t n = s->n_ids - s->n_run;
        n = n < left ? n : left;
        const uint32_t room = mix_room(&l->mix, MIX_PREFILL, s->n_run);
        n = n < room ? n : room;
        if (!n)
            break;
        add_rows(l, s, MIX_PREFILL, n);
        left -= n;
    }
}

static void gather(struct local *l)
{
    bool waiting[MIX_RANKS] = {false};
    uint32_t n_decoding = 0, n_others = 0;
    for (uint32_t i = 0; i < l->n_places; i++) {
        n_decoding += decodes(&l->sessions[i]);
        n_others += has_prompt(&l->sessions[i]);
    }
    waiting[MIX_DECODE] = n_decoding;
    waiting[MIX_PREFILL] = n_others;
    l->n_batch = 0;
    mix_begin(&l->mix, waiting, n_decoding, n_others, l->base.info->max_rows);
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
    for (uint32_t i = 0; i < l->n_places; i++) {
        struct session *s = &l->sessions[i];
        if (s->id && s->cancelled)
            finish(l, s, EDGE_CANCELLED);
        busy += s->id != 0;
    }
    engine_told(e);
    gather(l);
    if (l->n_batch == 0) {
        if (e->stays && l->n_busy == 0)
            port_rest(until_ns);
        return busy;
    }
    const uint64_t begin_ns = port_now_ns();
    const int rc = stage_run(l->stage, l->batch, l->n_batch, l->ids, NULL, NULL, l->logits);
    mix_ran(&l->mix, port_now_ns() - begin_ns);
    if (rc < 0) {
        snprintf(l->error, sizeof l->error, "the model cannot run: %s", strerror(-rc));
        for (uint32_t i = 0; i < l->n_places; i++)
            if (l->sessions[i].id) {
                strcpy(l->sessions[i].result.error, l->error);
                finish(l, &l->sessions[i], EDGE_LOST);
            }
        return rc;
    }
    const float *logits = l->logits;
    uint32_t n_looked = 0;
    for (size_t i = 0; i < l->n_batch; i++) {
        struct session *s = l->batch_sessions[i];
        s->n_run += l->batch[i].n;
        if (l->batch[i].n_logits) {
            sample(l, s, logits);
            logits += e->info->n_vocab;
            n_looked += e->info->n_vocab;
        }
        if (n_looked >= TELL_LOGITS) {
            engine_told(e);
            n_looked = 0;
        }
    }
    engine_told(e);
    return busy;
}

static const char *local_error(const struct engine *e)
{
    return ((const struct local *)e)->error;
}

static void local_stats(const struct engine *e, struct engine_stats *s)
{
    *s = (struct engine_stats){.ready = true, .port = "local", .cipher = "none"};
}

static void local_close(struct engine *e)
{
    struct local *l = (struct local *)e;
    l->no_prefix = true; /* nothing is to linger any more */
    for (uint32_t i = 0; l->sessions && i < l->n_places; i++)
        if (l->sessions[i].id)
            finish(l, &l->sessions[i], EDGE_CANCELLED);
    while (l->sessions && evict(l))
        ;
    sampler_close(l->sampler);
    free(l->sessions);
    free(l->batch_sessions);
    free(l->batch);
    free(l->ids);
    free(l->logits);
    free(l);
}

static bool local_make_room(struct engine *e)
{
    return evict(e);
}

static const struct engine_ops local_ops = {
    .submit = local_submit,
    .cancel = local_cancel,
    .make_room = local_make_room,
    .step = local_step,
    .error = local_error,
    .stats = local_stats,
    .close = local_close,
};

int engine_local(struct stage *whole, uint32_t chunk_tokens, uint32_t max_sessions, bool no_prefix,
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
    l->no_prefix = no_prefix;
    l->n_places = max_sessions > info->max_seqs ? max_sessions : info->max_seqs;
    l->sessions = calloc(l->n_places, sizeof *l->sessions);
    l->batch_sessions = calloc(max_sessions, sizeof *l->batch_sessions);
    l->batch = calloc(max_sessions, sizeof *l->batch);
    l->ids = calloc(info->max_rows, sizeof *l->ids);
    l->logits = calloc((size_t)(max_sessions < info->max_rows ? max_sessions : info->max_rows) *
                           info->n_vocab,
                       sizeof *l->logits);
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
