/* SPDX-License-Identifier: Apache-2.0 */
/* Whether two halves go together: asked by the cloud of an OPEN, and by the edge of a STATUS before
 * there is one. */
#ifndef ISTHMUS_DATAPLANE_PIPELINE_FIT_H
#define ISTHMUS_DATAPLANE_PIPELINE_FIT_H

#include "dataplane/pipeline/proto.h"

/* Why they don't, with both values: what every OPEN of the edge has, and what every STATUS of the
 * cloud has. 0: they do, as far as these tell; text stays as it is. The format of the cache is a
 * session's own. */
enum proto_reason fit_check(const struct proto_open *edge, const struct proto_status *cloud,
                            char *text, size_t room);
/* For a model mismatch: that the model of `whose`, "the edge's", is a half, and of which. */
void fit_add_parent(char *text, size_t room, const char *whose, const uint8_t parent[16]);

#endif
