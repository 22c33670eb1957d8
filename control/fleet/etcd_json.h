/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is said to etcd's JSON gateway (v3) and what it answers, as text: keys and values in base64,
 * 64-bit numbers as strings. Whatever etcd holds under the prefix, it is another's bytes.
 */
#ifndef ISTHMUS_CONTROL_FLEET_ETCD_JSON_H
#define ISTHMUS_CONTROL_FLEET_ETCD_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "control/fleet/workers.h"

#define ETCD_NUMBER 24u /* a 64-bit number as text */
#define ETCD_PREFIX 128u

/* Bodies; the caller frees them. NULL: out of memory. Prefixes end in '/'; `revision` is the first
 * of interest, as text. */
char *etcd_range_body(const char *prefix);
char *etcd_watch_body(const char *prefix, const char *revision);
char *etcd_grant_body(uint32_t ttl_s);
char *etcd_lease_body(const char *lease); /* keepalive, revoke */
char *etcd_put_body(const char *key, const char *value, const char *lease);

/* Of a range: the workers, and the revision after the one they are of, as text. Entries that are
 * none are left out; *n_bad counts them, err says what is wrong with the first ("" : none). 0;
 * -EINVAL: no answer to a range, err says what came; -ENOMEM. */
int etcd_parse_range(const char *text, size_t len, const char *prefix, struct workers *out,
                     char next_revision[ETCD_NUMBER], unsigned *n_bad, char *err);

/* A line of a watch. */
enum etcd_watch { ETCD_NOTHING_NEW, ETCD_CHANGED, ETCD_WATCH_OVER };
enum etcd_watch etcd_parse_watch(const char *text, size_t len);

/* Of a lease granted: its id, as text. 0, or -EINVAL with err. */
int etcd_parse_grant(const char *text, size_t len, char lease[ETCD_NUMBER], char *err);
/* The lease lives: true. */
bool etcd_parse_keepalive(const char *text, size_t len);
/* An answer that is no error: 0, or -EINVAL with err. */
int etcd_parse_done(const char *text, size_t len, char *err);

#endif
