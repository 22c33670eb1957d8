/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys under a prefix of etcd, one a worker, each bound to its worker's lease. A watch tells that
 * something changed; then all of them are read, which is also done now and then to know that etcd
 * is there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/fleet/etcd.h"
#include "control/fleet/registry_impl.h"
#include "control/log.h"

#define ANSWER_MS    3000u
#define ALIVE_MS     10000u
#define SETTLE_MS    20u /* changes come together */
#define AGAIN_MIN_MS 100u
#define AGAIN_MAX_MS 3000u

struct source {
    struct etcd *etcd;
    unsigned failures;      /* in a row */
    char said[WORKERS_ERR]; /* of entries that are none */
};

static int etcd_source_open(struct registry *r, const char *what, void **source, char *err)
{
    (void)r;
    struct source *s = calloc(1, sizeof *s);
    const int rc = s ? etcd_open(what, &s->etcd, err) : -ENOMEM;
    if (rc < 0) {
        free(s);
        return rc;
    }
    *source = s;
    return 0;
}

static void etcd_source_close(void *source)
{
    struct source *s = source;
    etcd_close(s->etcd);
    free(s);
}

/* All workers there are, delivered. 0, -EINTR, or -EIO with err. */
static int read_all(struct registry *r, struct source *s, char next_revision[ETCD_NUMBER],
                    char *err)
{
    const char *prefix = etcd_prefix(s->etcd), *text;
    struct workers w;
    unsigned n_bad;
    size_t len;
    int rc = etcd_post(s->etcd, "/v3/kv/range", etcd_range_body(prefix), ANSWER_MS,
                       registry_wake_fd(r), &text, &len, err);
    if (rc < 0)
        return rc;
    rc = etcd_parse_range(text, len, prefix, &w, next_revision, &n_bad, err);
    if (rc < 0)
        return -EIO;
    if (n_bad && strcmp(err, s->said) != 0) {
        log_warn("%s: %u entr%s left out: %s", registry_where(r), n_bad,
                 n_bad == 1 ? "y is" : "ies are", err);
        strcpy(s->said, err);
    }
    s->failures = 0;
    registry_answered(r);
    registry_deliver(r, &w);
    return 0;
}

/* Until it fails or is woken. */
static int follow(struct registry *r, struct source *s, char *err)
{
    char revision[ETCD_NUMBER];
    int rc = read_all(r, s, revision, err);
    if (rc < 0)
        return rc;
    if (etcd_watch_begin(s->etcd, etcd_watch_body(etcd_prefix(s->etcd), revision)) < 0)
        return -ENOMEM;
    while (rc >= 0) {
        rc = etcd_watch_wait(s->etcd, ALIVE_MS, registry_wake_fd(r), err);
        if (rc == 1) /* also what comes with it */
            rc = etcd_watch_wait(s->etcd, SETTLE_MS, registry_wake_fd(r), err);
        if (rc >= 0)
            rc = read_all(r, s, revision, err);
    }
    return rc;
}

static uint32_t etcd_look(struct registry *r, void *source)
{
    struct source *s = source;
    char err[WORKERS_ERR] = "";
    const int rc = follow(r, s, err);
    etcd_watch_end(s->etcd);
    if (rc == -EINTR)
        return 0;
    etcd_next_endpoint(s->etcd);
    if (++s->failures < etcd_endpoints(s->etcd))
        return 0;
    registry_failed(r, "%s", err);
    const unsigned rounds = s->failures / etcd_endpoints(s->etcd);
    const uint32_t again_ms = rounds > 5 ? AGAIN_MAX_MS : AGAIN_MIN_MS << (rounds - 1);
    return again_ms < AGAIN_MAX_MS ? again_ms : AGAIN_MAX_MS;
}

const struct registry_kind registry_etcd = {"etcd:", etcd_source_open, etcd_look,
                                            etcd_source_close};
