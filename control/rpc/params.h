/* SPDX-License-Identifier: Apache-2.0 */
/* A method's parameters: proved, and described. */
#ifndef ISTHMUS_CONTROL_RPC_PARAMS_H
#define ISTHMUS_CONTROL_RPC_PARAMS_H

#include "control/rpc/rpc.h"

/*
 * given: NULL (none), an object, or an array (by position). An object of what was given, to be
 * decref'd; or NULL and a line in err (RPC_ERR bytes) that names the parameter. err "" with NULL:
 * out of memory.
 */
json_t *rpc_params_check(const struct rpc_param *params, json_t *given, char *err);

/* As a JSON Schema: an object's. NULL: out of memory. */
json_t *rpc_params_schema(const struct rpc_param *params);

#endif
