/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to one of several etcd servers, by HTTP: the next is taken when one fails. Everything
 * waits at most until a deadline, or until wake_fd is readable. One thread.
 */
#ifndef ISTHMUS_CONTROL_FLEET_ETCD_H
#define ISTHMUS_CONTROL_FLEET_ETCD_H

#include <stddef.h>
#include <stdint.h>

#include "control/fleet/etcd_json.h"

struct etcd;

/* what: "http://HOST:PORT[,URL...]/PREFIX". err: WORKERS_ERR bytes. 0, -EINVAL,
 * -ENOENT (libcurl), -ENOMEM. */
int etcd_open(const char *what, struct etcd **out, char *err);
void etcd_close(struct etcd *e);
const char *etcd_prefix(const struct etcd *e); /* with a '/' at its end */
unsigned etcd_endpoints(const struct etcd *e);
void etcd_next_endpoint(struct etcd *e);

/* wake_fd: -1 for none. body is freed. 0: *text (the etcd's until the next call), *len; -EINTR:
 * woken; -EIO with err: no answer, or an HTTP error's text. */
int etcd_post(struct etcd *e, const char *path, char *body, uint32_t timeout_ms, int wake_fd,
              const char **text, size_t *len, char *err);

/* A watch: begun with a body, then waited on. body is freed. */
int etcd_watch_begin(struct etcd *e, char *body);
/* 1: something changed; 0: nothing did for timeout_ms; -EINTR: woken; -EIO: the watch is over, err
 * says why. */
int etcd_watch_wait(struct etcd *e, uint32_t timeout_ms, int wake_fd, char *err);
void etcd_watch_end(struct etcd *e);

#endif
