/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_CONTROL_RPC_LINK_JSON_H
#define ISTHMUS_CONTROL_RPC_LINK_JSON_H

#include <jansson.h>

#include "dataplane/link.h"

/* tokens: that were generated over it. NULL: out of memory. */
json_t *link_json(const struct link_stats *s, const char *port, const char *cipher,
                  uint64_t tokens);

#endif
