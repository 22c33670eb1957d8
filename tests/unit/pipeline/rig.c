/* SPDX-License-Identifier: Apache-2.0 */
#define OPENSSL_SUPPRESS_DEPRECATED  /* RAND_METHOD: the simplest way to random numbers by a seed  \
                                      */
#include "tests/unit/pipeline/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

static void die(const char *what, const char *why)
{
    fprintf(stderr, "rig: %s: %s\n", what, why);
    abort();
}

static void set_now(struct rig *r)
{
    network_set_now(r->network, r->now_ns);
    for (uint32_t i = 0; i < r->p.more; i++)
        network_set_now(r->more[i].network, r->now_ns);
}

static uint64_t rig_clock(void *arg)
{
    struct rig *r = arg;

    set_now(r);
    return r->now_ns;
}

/* --- security --------------------------------------------------------------------------------- */

const struct identity *rig_identity(bool cloud)
{
    static struct identity *ids[2];

    if (!ids[cloud] && identity_new(&ids[cloud]))
        die("identity_new", "");
    return ids[cloud];
}

const struct authorized *rig_peers(bool of_cloud)
{
    static struct authorized *lists[2];

    if (!lists[of_cloud] &&
        authorized_one(identity_fingerprint(rig_identity(!of_cloud)), &lists[of_cloud]))
        die("authorized_one", "");
    return lists[of_cloud];
}

static struct dice random_dice;

static int random_bytes(unsigned char *to, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = (unsigned char)dice_next(&random_dice);
    return 1;
}

static int random_ready(void)
{
    return 1;
}

void rig_random(uint64_t seed)
{
    static const RAND_METHOD method = {
        .bytes = random_bytes, .pseudorand = random_bytes, .status = random_ready};

    random_dice.state = seed;
    RAND_set_rand_method(&method);
}

void rig_open(struct rig *r, const struct rig_params *p)
{
    *r = (struct rig){.p = *p, .now_ns = RIG_MS, .fate = {p->seed + 1}};
    r->p.edge_stage.now_ns = r->p.cloud_stage.now_ns = &r->now_ns;
    r->p.sessions = p->sessions ? p->sessions : 1;
    r->p.edge_stage.max_seqs = r->p.cloud_stage.max_seqs = r->p.sessions + p->lingering;
    r->network = network_open(p->seed, &p->network, p->pool_packets ? p->pool_packets : 1024,
                              p->mtu ? p->mtu : 1500);
    network_set_now(r->network, r->now_ns);
    r->edge_stage = fake_open(false, &r->p.edge_stage, &r->edge_info);
    r->cloud_stage = fake_open(true, &r->p.cloud_stage, &r->cloud_info);
    for (uint32_t i = 0; i < p->more; i++) {
        struct rig_cloud *c = &r->more[i];

        const uint32_t mtu = p->more_mtu ? p->more_mtu : p->mtu;

        c->network = network_open(p->seed + 1 + i, &p->network,
                                  p->pool_packets ? p->pool_packets : 1024, mtu ? mtu : 1500);
        network_set_now(c->network, r->now_ns);
        c->stage = fake_open(true, &r->p.cloud_stage, &c->info);
    }
}

static struct codec_params rig_codec(const struct rig *r)
{
    return r->p.codec.tau > 0 || r->p.codec.mode ? r->p.codec : codec_params_default(CODEC_F32);
}

static void say(void *arg, const char *line)
{
    struct rig *r = arg;

    r->n_said++;
    snprintf(r->said, sizeof r->said, "%s", line);
}

void rig_start_edge(struct rig *r)
{
    char err[PIPELINE_ERR] = "";
    struct edge_params ep = {
        .stage = r->edge_stage,
        .port = network_port(r->network, 0),
        .codec = rig_codec(r),
        .curve = r->p.curve,
        .target = r->p.target,
        .link = r->p.link,
        .chunk_tokens = r->p.chunk_tokens,
        .security = r->p.edge_security,
        .max_sessions = r->p.sessions,
        .no_prefix = r->p.no_prefix,
        .kv_most = r->p.kv_most,
        .connect_timeout_ns = r->p.connect_timeout_ns,
        .rejoin = r->p.rejoin,
        .name = r->p.more ? "c0" : NULL,
        .place = r->p.place,
        .place_arg = r->p.place_arg,
    };

    if (r->p.late)
        ep.port = NULL;
    ep.rejoin.say = say;
    ep.rejoin.arg = r;
    if (r->p.secure && !ep.security.identity)
        ep.security = (struct pipeline_security){rig_identity(false), rig_peers(false)};
    if (edge_open(&ep, r->now_ns, &r->edge, err))
        die("edge_open", err);
    if (r->p.hook)
        edge_set_clock(r->edge, rig_clock, r);
    if (r->p.late)
        rig_add_uplink(r, "c0", network_port(r->network, 0));
    for (uint32_t i = 0; i < r->p.more; i++) {
        char name[16];

        snprintf(name, sizeof name, "c%u", i + 1);
        if (rig_add_uplink(r, name, network_port(r->more[i].network, 0)) != (int)i + 1)
            die("edge_uplink_add", name);
    }
}

int rig_add_uplink(struct rig *r, const char *name, struct port *port)
{
    char err[PIPELINE_ERR] = "";
    struct edge_uplink_params p = {.name = name, .port = port, .security = r->p.edge_security};
    int rc;

    if (r->p.secure && !p.security.identity)
        p.security = (struct pipeline_security){rig_identity(false), rig_peers(false)};
    rc = edge_uplink_add(r->edge, &p, r->now_ns, err);
    if (rc < 0)
        die("edge_uplink_add", err);
    return rc;
}

static void cloud_says(void *arg, const char *line)
{
    struct rig *r = arg;

    snprintf(r->cloud_said, sizeof r->cloud_said, "%s", line);
}

static struct cloud *start_cloud(struct rig *r, struct stage *stage, struct network *network)
{
    struct cloud *cloud;
    char err[PIPELINE_ERR] = "";
    struct cloud_params cp = {
        .stage = stage,
        .port = network_port(network, 1),
        .codec = rig_codec(r),
        .link = r->p.link,
        .security = r->p.cloud_security,
        .max_sessions = r->p.cloud_sessions ? r->p.cloud_sessions : r->p.sessions,
        .max_edges = r->p.max_edges,
        .say = cloud_says,
        .say_arg = r,
    };

    if (r->p.secure && !cp.security.identity)
        cp.security = (struct pipeline_security){rig_identity(true), rig_peers(true)};
    if (cloud_open(&cp, r->now_ns, &cloud, err))
        die("cloud_open", err);
    if (r->p.hook)
        cloud_set_clock(cloud, rig_clock, r);
    return cloud;
}

void rig_start_cloud(struct rig *r)
{
    r->cloud = start_cloud(r, r->cloud_stage, r->network);
}

void rig_start_more(struct rig *r, struct rig_cloud *c)
{
    c->cloud = start_cloud(r, c->stage, c->network);
}

static void kill_cloud(struct rig *r, struct cloud **cloud, struct network *network)
{
    const struct network_params deaf = {.drop = 1};

    network_set_params(network, &deaf);
    cloud_close(*cloud);
    network_set_params(network, &r->p.network);
    *cloud = NULL;
    r->crashes++;
    if (r->p.tell_crash)
        network_lose_peer(network, 0);
}

void rig_kill_cloud(struct rig *r)
{
    kill_cloud(r, &r->cloud, r->network);
}

void rig_kill_more(struct rig *r, struct rig_cloud *c)
{
    kill_cloud(r, &c->cloud, c->network);
}

void rig_start(struct rig *r)
{
    rig_start_edge(r);
    rig_start_cloud(r);
    for (uint32_t i = 0; i < r->p.more; i++)
        rig_start_more(r, &r->more[i]);
}

static void close_stage(struct stage *s)
{
    if (fake_counts(s)->open_seqs)
        die("rig_close", "a sequence was left open");
    stage_close(s);
}

void rig_close(struct rig *r)
{
    edge_close(r->edge);
    cloud_close(r->cloud);
    for (uint32_t i = 0; i < r->p.more; i++) /* all before a network: each sets the time of all */
        cloud_close(r->more[i].cloud);
    close_stage(r->edge_stage);
    close_stage(r->cloud_stage);
    network_close(r->network);
    for (uint32_t i = 0; i < r->p.more; i++) {
        close_stage(r->more[i].stage);
        network_close(r->more[i].network);
    }
}

void rig_restart_cloud(struct rig *r)
{
    rig_kill_cloud(r);
    rig_start_cloud(r);
}

/* An edge that never met a cloud takes a denial for an answer. */
static bool edge_met(const struct rig *r)
{
    struct edge_stats s;

    edge_stats(r->edge, &s);
    return s.link.rx_messages || s.reconnections;
}

static bool dies(struct rig *r)
{
    return (!r->p.crash_max || r->crashes < r->p.crash_max) && r->p.crash > 0 &&
           dice_chance(&r->fate, r->p.crash) && edge_met(r);
}

static void play_fate_of(struct rig *r, struct rig_cloud *c)
{
    if (c->cloud && dies(r)) {
        rig_kill_more(r, c);
        c->back_ns = r->now_ns + 1 + dice_below(&r->fate, r->p.down_max_ns + 1);
    }
    if (!c->cloud && c->back_ns && r->now_ns >= c->back_ns) {
        c->back_ns = 0;
        rig_start_more(r, c);
    }
}

/* The clouds' death and rebirth. */
static void play_fate(struct rig *r)
{
    if (r->cloud && dies(r)) {
        rig_kill_cloud(r);
        r->back_ns = r->now_ns + 1 + dice_below(&r->fate, r->p.down_max_ns + 1);
    }
    if (!r->cloud && r->back_ns && r->now_ns >= r->back_ns) {
        r->back_ns = 0;
        rig_start_cloud(r);
    }
    for (uint32_t i = 0; i < r->p.more; i++)
        play_fate_of(r, &r->more[i]);
    if (r->p.drain > 0 && r->drains < 20 && dice_chance(&r->fate, r->p.drain)) {
        uint64_t which = dice_below(&r->fate, r->p.more + 2u);

        for (uint32_t i = 0; i <= r->p.more; i++)
            (void)edge_uplink_drain(r->edge, i, i == which && ++r->drains < 20);
    }
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Polls it: when something of it or its network comes next. */
static uint64_t step_more(struct rig *r, struct rig_cloud *c)
{
    uint64_t at = UINT64_MAX;
    bool there = c->cloud && !c->silent;

    set_now(r);
    if (there)
        (void)cloud_poll(c->cloud, r->now_ns, &at);
    at = sooner(at, network_next(c->network, 0));
    if (there)
        at = sooner(at, network_next(c->network, 1));
    return !c->cloud && c->back_ns ? sooner(at, c->back_ns) : at;
}

static void change_mtu(struct rig *r)
{
    struct network_params *p = &r->p.network;

    if (!dice_chance(&r->fate, r->p.mtu_change))
        return;
    p->mtu_bytes = (uint32_t)dice_between(&r->fate, p->mtu_sure_bytes, r->p.mtu);
    network_set_params(r->network, p);
    for (uint32_t i = 0; i < r->p.more; i++)
        network_set_params(r->more[i].network, p);
}

void rig_step(struct rig *r)
{
    uint64_t edge_at, cloud_at = UINT64_MAX, next;
    bool cloud = r->cloud && !r->cloud_silent;

    r->steps++;
    set_now(r);
    r->edge_rc = edge_poll(r->edge, r->now_ns, &edge_at);
    set_now(r);
    if (cloud)
        r->cloud_rc = cloud_poll(r->cloud, r->now_ns, &cloud_at);
    next = edge_at < cloud_at ? edge_at : cloud_at;
    for (int side = 0; side < (cloud ? 2 : 1); side++) {
        if (network_next(r->network, side) < next)
            next = network_next(r->network, side);
    }
    if (!r->cloud && r->back_ns && r->back_ns < next)
        next = r->back_ns;
    for (uint32_t i = 0; i < r->p.more; i++)
        next = sooner(next, step_more(r, &r->more[i]));
    if (next == UINT64_MAX)
        next = r->now_ns + RIG_MS;
    r->now_ns = next > r->now_ns ? next : r->now_ns + 1000;
    play_fate(r);
    change_mtu(r);
}

/* --- requests --------------------------------------------------------------------------------- */

static bool is_stop(void *arg, int32_t id)
{
    return id == ((struct rig_request *)arg)->stop;
}

static void on_token(void *arg, const struct token_sample *t)
{
    struct rig_request *q = arg;

    if (q->done || !(t->logprob <= 0) || t->n_top != q->n_top)
        die("on_token",
            "after the end, a log-probability above 0, or other alternatives than asked");
    for (uint32_t k = 0; k < t->n_top; k++) {
        if (t->top[k].id == t->id && t->top[k].logprob != t->logprob)
            die("on_token", "two log-probabilities of one id");
    }
    if (q->n_top)
        memcpy(q->top + q->n_ids * q->n_top, t->top, q->n_top * sizeof *q->top);
    q->ids[q->n_ids++] = t->id;
    if (q->cancel_at && q->n_ids == q->cancel_at)
        edge_cancel(q->rig->edge, q->session);
}

static void on_done(void *arg, const struct edge_result *result)
{
    struct rig_request *q = arg;

    if (q->done)
        die("on_done", "twice");
    q->done = true;
    q->result = *result;
}

void rig_request(struct rig_request *q, uint64_t seed, uint32_t n_prompt, uint32_t n_predict)
{
    struct dice d = {seed};

    *q = (struct rig_request){
        .n_prompt = n_prompt,
        .n_predict = n_predict,
        .sampler = sampler_params_default(),
        .stop = -1,
    };
    q->prompt = malloc(n_prompt * sizeof q->prompt[0]);
    for (uint32_t i = 0; i < n_prompt; i++)
        q->prompt[i] = (int32_t)dice_below(&d, FAKE_VOCAB);
}

void rig_begin_like(struct rig_request *q, uint64_t seed, uint32_t n)
{
    struct dice d = {seed};

    for (uint32_t i = 0; i < n && i < q->n_prompt; i++)
        q->prompt[i] = (int32_t)dice_below(&d, FAKE_VOCAB);
}

int64_t rig_submit(struct rig *r, struct rig_request *q)
{
    struct edge_request er = {
        .prompt_ids = q->prompt,
        .n_prompt = q->n_prompt,
        .n_predict = q->n_predict,
        .sampler = q->sampler,
        .n_top = q->n_top,
        .is_stop = is_stop,
        .on_token = on_token,
        .on_done = on_done,
        .arg = q,
        .target = q->target,
        .kv = q->kv,
        .drafts = q->drafts,
        .n_drafts = q->n_drafts,
        .draft_len = q->draft_len,
    };
    int64_t session;

    q->rig = r;
    if (q->n_top && !q->top)
        q->top = malloc((size_t)q->n_predict * q->n_top * sizeof *q->top);
    session = edge_submit(r->edge, &er, r->now_ns);
    if (session > 0)
        q->session = session;
    return session;
}

bool rig_run(struct rig *r, struct rig_request *q, uint32_t n, uint64_t limit_ns)
{
    uint64_t until = r->now_ns + limit_ns;
    uint32_t submitted = 0, done;

    do {
        while (submitted < n) {
            int64_t rc = rig_submit(r, &q[submitted]);

            if (rc == -EAGAIN || rc == -EPIPE)
                break;
            if (rc < 0)
                die("edge_submit", strerror((int)-rc));
            submitted++;
        }
        rig_step(r);
        done = 0;
        for (uint32_t i = 0; i < n; i++)
            done += q[i].done;
    } while (done < n && r->now_ns < until && r->edge_rc >= 0);
    return done == n;
}

bool rig_right(const struct rig *r, const struct rig_request *q)
{
    int32_t ids[FAKE_CTX];
    const size_t top_bytes = (size_t)q->n_top * sizeof(struct sampler_top);
    struct sampler_top *top = q->n_top ? malloc(q->n_predict * top_bytes) : NULL;
    const enum kv_format asked = q->kv ? (enum kv_format)(q->kv - 1) : r->p.edge_stage.kv;
    const enum kv_format kv = r->p.kv_most ? q->result.kv : asked; /* a cloud may have asked, too */
    uint32_t n = fake_reference_as(kv, q->prompt, q->n_prompt, q->n_predict, &q->sampler, q->stop,
                                   r->p.edge_stage.d_model, ids, top, q->n_top);
    bool right = n == q->n_ids && !memcmp(ids, q->ids, n * sizeof ids[0]);

    if (top)
        right = right && !memcmp(top, q->top, n * top_bytes);
    free(top);
    return right;
}

void rig_request_free(struct rig_request *q)
{
    free(q->prompt);
    free(q->top);
    q->prompt = NULL;
    q->top = NULL;
}

bool rig_one(const struct rig_params *p, struct edge_result *result)
{
    struct rig_request q;
    struct rig r;
    bool ended;

    rig_open(&r, p);
    rig_start(&r);
    rig_request(&q, 1, 10, 30);
    ended = rig_run(&r, &q, 1, UINT64_C(10000000000));
    *result = q.result;
    rig_request_free(&q);
    rig_close(&r);
    return ended;
}
