/* SPDX-License-Identifier: Apache-2.0 */
/* An edge and a cloud, or several, on fake stages, in one thread under a virtual clock, and requests to them. */
#ifndef ISTHMUS_TESTS_RIG_H
#define ISTHMUS_TESTS_RIG_H

#include "dataplane/pipeline/pipeline.h"
#include "tests/sim/network.h"
#include "tests/unit/pipeline/fake_stage.h"

#define RIG_MS   1000000ull
#define RIG_MORE 3u

struct rig_params {
    struct network_params network;
    struct fake_params edge_stage, cloud_stage;
    struct link_params link; /* of both */
    struct codec_params codec;
    const struct codec_profile_curve *curve;
    struct codec_rate_target target; /* of all sessions */
    uint32_t sessions;       /* 0: 1 */
    uint32_t max_edges;      /* 0: the cloud's default */
    uint32_t lingering;      /* sequences of the stages beyond those */
    bool no_prefix;
    enum kv_format kv_most;
    uint32_t chunk_tokens;
    uint32_t pool_packets;   /* 0: 1024 */
    uint32_t mtu;            /* 0: 1500 */
    uint64_t connect_timeout_ns;
    bool hook;               /* the links live during stage runs */
    struct edge_rejoin rejoin; /* say is the rig's own, arg the rig */
    double mtu_change;       /* chance of a step that the path's MTU becomes another, up to the port's */
    double crash;            /* chance of a step that the cloud is killed in it */
    uint32_t crash_max;      /* so often at most; 0: no limit. A cloud that never lives for as long
                              * as a replay takes would let nobody get on */
    uint64_t down_max_ns;    /* it is back after up to so long */
    bool tell_crash;         /* the edge's port knows at once */
    bool secure;             /* encrypted, with identities that the rig makes */
    struct pipeline_security edge_security, cloud_security; /* instead of those */
    uint32_t more;           /* clouds beside the first, each as it, by a network of its own: uplinks
                              * 1 and so on. All have names: "c0" .. */
    uint32_t more_mtu;       /* of the ports to these; 0: as mtu */
    bool late;               /* the edge is opened without a port: the first comes as the others */
    double drain;            /* chance of a step that another of the uplinks, or none, drains from it on */
    uint32_t cloud_sessions; /* that a cloud takes; 0: all */
    int (*place)(void *arg, const struct edge_uplink_view *views, uint32_t n, int64_t session);
    void *place_arg;
    uint64_t seed;
};

struct rig_request {
    int32_t *prompt;
    uint32_t n_prompt, n_predict;
    struct sampler_params sampler;
    int32_t stop;         /* -1: none */
    const int32_t *drafts;
    uint32_t n_drafts, draft_len;
    struct codec_rate_target target;
    uint32_t kv;          /* as edge_request has it */
    uint32_t cancel_at;   /* tokens after which it is cancelled; 0: never */
    struct rig *rig;
    int64_t session;      /* 0: not submitted yet */
    bool done;
    struct edge_result result;
    int32_t ids[FAKE_CTX];
    uint32_t n_ids;
    uint32_t n_top;          /* alternatives of each */
    struct sampler_top *top; /* [n_predict][n_top]; NULL: none */
};

struct rig_cloud {
    struct network *network;
    struct stage *stage;
    struct stage_info *info;
    struct cloud *cloud;     /* NULL: dead */
    bool silent;             /* it is not polled */
    uint64_t back_ns;        /* dead: when it starts again; 0: never by itself */
};

struct rig {
    struct rig_params p;
    uint64_t now_ns;
    struct network *network;
    struct stage *edge_stage, *cloud_stage;
    struct stage_info *edge_info, *cloud_info;
    struct edge *edge;
    struct cloud *cloud;
    bool cloud_silent;       /* the cloud is not polled */
    int edge_rc, cloud_rc;   /* of the last poll */
    struct dice fate;        /* of the cloud */
    uint32_t crashes, drains;
    uint64_t steps;
    uint64_t back_ns;        /* cloud NULL: when it starts again; 0: never by itself */
    struct rig_cloud more[RIG_MORE];
    uint32_t n_said;
    char said[512];          /* the edge's last word */
    char cloud_said[512];    /* and the cloud's */
};

/* The identities of a secure rig's halves, made once. */
const struct identity *rig_identity(bool cloud);
/* Peers: the one, without limits, made once. */
const struct authorized *rig_peers(bool of_cloud);
/* OpenSSL's random numbers by a seed from here on, so that a run can be had again. Tests only. */
void rig_random(uint64_t seed);

/* The stages only: their info may be changed before rig_start. */
void rig_open(struct rig *r, const struct rig_params *p);
void rig_start(struct rig *r);
void rig_start_edge(struct rig *r);
void rig_close(struct rig *r);
/* Without a word, as by kill -9; what is under way arrives. */
void rig_kill_cloud(struct rig *r);
void rig_start_cloud(struct rig *r);
/* Its index; aborts where there is none. */
int rig_add_uplink(struct rig *r, const char *name, struct port *port);
/* Of those beside the first. */
void rig_kill_more(struct rig *r, struct rig_cloud *c);
void rig_start_more(struct rig *r, struct rig_cloud *c);
/* One after the other: it knows nothing any more. */
void rig_restart_cloud(struct rig *r);
/* One poll of each side; virtual time goes on to what comes next. */
void rig_step(struct rig *r);

/* A prompt made of a seed. Greedy, no stop. */
void rig_request(struct rig_request *q, uint64_t seed, uint32_t n_prompt, uint32_t n_predict);
/* Its first n tokens become those of another seed's. */
void rig_begin_like(struct rig_request *q, uint64_t seed, uint32_t n);
int64_t rig_submit(struct rig *r, struct rig_request *q);
/* Submit all, as places are free, and poll until all are done. False: not within limit_ns. */
bool rig_run(struct rig *r, struct rig_request *q, uint32_t n, uint64_t limit_ns);
/* What became of one request, of a rig of its own. False: nothing, in ten seconds. */
bool rig_one(const struct rig_params *p, struct edge_result *result);
/* Whether the ids are those of an unsplit run. */
bool rig_right(const struct rig *r, const struct rig_request *q);
void rig_request_free(struct rig_request *q);

#endif
