/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Profiles: what `isthmus profile` measured of a host with a model, and of a link, as small
 * versioned files of JSON. They come from outside: every count and number is proved before use.
 */
#ifndef ISTHMUS_CONTROL_PLAN_HOST_H
#define ISTHMUS_CONTROL_PLAN_HOST_H

#include "compute/kernels/attend.h"
#include "control/plan/model.h"

#define PLAN_HOST_VERSION 2   /* 2: products in the schemes of `isthmus quantize` */
#define PLAN_LINK_VERSION 2   /* 2: the version that measured it */
#define PLAN_ROWS_MAX     12u /* row counts that were measured */
#define PLAN_STAGES_MAX   8u  /* depths in layers */
#define PLAN_TYPES_MAX    16u
#define PLAN_NAME_MAX     96u

/* Times are seconds a step of rows[i] rows; all arrays have n_rows entries. */
struct plan_host {
    char host[PLAN_NAME_MAX], cpu[PLAN_NAME_MAX], isa[16];
    char version[32], commit[48];
    char model[PLAN_FINGERPRINT]; /* its fingerprint */
    uint32_t threads;
    uint64_t memory_bytes; /* there when it was measured */
    double dram_bytes_per_s, int8_ops_per_s;
    double wake_s; /* from a packet's coming to a sleeping process to its running; 0: not known */
    /* Both halves on this host: a step of a prompt while another process keeps other cores busy,
     * against alone; one of decode after another's weights went through the caches. >= 1 */
    double beside, evicted;

    uint32_t n_rows, rows[PLAN_ROWS_MAX]; /* rising, from 1 on */
    uint32_t n_stages;
    struct {
        uint32_t layers;                /* the first so many; rising, the last is the model */
        double s[PLAN_ROWS_MAX];        /* step after step, as of a prompt */
        double rested_s[PLAN_ROWS_MAX]; /* each after a rest, as of decode */
    } stages[PLAN_STAGES_MAX];
    double head_s[PLAN_ROWS_MAX]; /* norm, logits */

    /* A row of a layer for each token of cache before it, by step: of one row, and of many of one
     * sequence. 0: not measured. */
    struct {
        double one_s, many_s;
    } attend[KV_FORMATS];
    uint32_t attend_rows; /* how many */

    /* A multiply-add of a row with a matrix of a type. */
    uint32_t n_types;
    struct {
        enum qtype type;
        double s[PLAN_ROWS_MAX];
    } types[PLAN_TYPES_MAX];
    /* The same of a scheme of `isthmus quantize`, with its sparse part; first 0: not measured. */
    double scheme_s[PLAN_SCHEMES][PLAN_ROWS_MAX];
};

struct plan_link {
    char host[PLAN_NAME_MAX], peer[PLAN_NAME_MAX]; /* where it was measured; "": said by hand */
    char version[32], commit[48];
    double up_bits_per_s, down_bits_per_s; /* of frames, outer headers included */
    double rtt_s;                          /* of a small message */
    double loss;                           /* of packets, one way */
    uint32_t mtu_bytes;
};

/* err: PLAN_ERR bytes, a line that names `name`. 0, -EBADMSG (no such profile, or of another
 * version), -ENOMEM. */
int plan_host_parse(const char *text, size_t len, const char *name, struct plan_host *h, char *err);
int plan_link_parse(const char *text, size_t len, const char *name, struct plan_link *l, char *err);

/* The file's text, malloc'd; NULL: out of memory. Parsed again it gives the same. */
char *plan_host_format(const struct plan_host *h);
char *plan_link_format(const struct plan_link *l);

/* "rate=4mbit,rtt=20ms", also down=RATE, loss=1% and mtu=1500B. 0 or -EINVAL, err said. */
int plan_link_arg(const char *text, struct plan_link *l, char *err);
/* Whether text is meant to be such: it has a '='. */
bool plan_link_is_arg(const char *text);

/*
 * Whether h may be used: of this model; and, where `here` is not NULL, of the very host that here
 * describes (host, cpu, isa, version are looked at). 0, or -EINVAL with err saying what differs.
 */
int plan_host_check(const struct plan_host *h, const char *name, const struct plan_model *m,
                    const struct plan_host *here, char *err);
/* The same of a link: measured from the very host that here describes (host, version). */
int plan_link_check(const struct plan_link *l, const char *name, const struct plan_host *here,
                    char *err);

/* Steps of n ascending numbers of rows, s[n]: one of more rows does the work of fewer, so that what
 * took longer with fewer was held up by others, and becomes no more. */
void plan_trim_steps(double *s, uint32_t n);

#endif
