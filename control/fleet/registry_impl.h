/* SPDX-License-Identifier: Apache-2.0 */
/* What a kind of registry gives and gets. All but open and close runs in the registry's thread. */
#ifndef ISTHMUS_CONTROL_FLEET_REGISTRY_IMPL_H
#define ISTHMUS_CONTROL_FLEET_REGISTRY_IMPL_H

#include <stdint.h>

#include "control/fleet/registry.h"

struct registry_kind {
    const char *scheme; /* "file:" */
    /* What follows the scheme; deliver may be called already. As registry_open. */
    int (*open)(struct registry *r, const char *what, void **source, char *err);
    /* One look. How long until the next, milliseconds; registry_pause interrupts waits within. */
    uint32_t (*look)(struct registry *r, void *source);
    void (*close)(void *source);
};

extern const struct registry_kind registry_file, registry_srv, registry_etcd;

/* A whole list; it is taken over, and sorted. False: it is empty and the last was not, which is
 * said. */
bool registry_deliver(struct registry *r, struct workers *w);
/* It doesn't answer, and why: said when it did before. */
__attribute__((format(printf, 2, 3))) void registry_failed(struct registry *r, const char *why,
                                                           ...);
void registry_answered(struct registry *r);
/* "etcd:http://...", for messages. */
const char *registry_where(const struct registry *r);
/* Readable when a wait should end: the registry closes, or is asked to look now. */
int registry_wake_fd(const struct registry *r);
bool registry_closing(struct registry *r);

#endif
