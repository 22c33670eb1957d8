/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of the control socket, for `isthmus ctl` and `isthmus top`. Blocks. */
#ifndef ISTHMUS_CONTROL_RPC_CLIENT_H
#define ISTHMUS_CONTROL_RPC_CLIENT_H

#include <jansson.h>

struct rpc_client;

/* path: of a socket; "edge" or "cloud": the default one of it; NULL: of either. EXIT_OK, or
 * EXIT_FAILED after it was said what was tried. */
int rpc_client_open(const char *path, struct rpc_client **out);
void rpc_client_close(struct rpc_client *c);
const char *rpc_client_path(const struct rpc_client *c);

/* Send a request, or a batch (an array), and give its answer. NULL: the connection is lost, which
 * was said. Takes over the reference. */
json_t *rpc_client_ask(struct rpc_client *c, json_t *request);

/* A request object. params may be NULL; taken over. */
json_t *rpc_client_request(int id, const char *method, json_t *params);

#endif
