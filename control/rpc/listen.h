/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket's file. */
#ifndef ISTHMUS_CONTROL_RPC_LISTEN_H
#define ISTHMUS_CONTROL_RPC_LISTEN_H

#include <sys/types.h>

/* The listening socket at path, mode 0660, of the group (RPC_NO_GROUP: the process's). A
 * descriptor, or as rpc_open. */
int rpc_listen(const char *path, gid_t group, char *err);

/* A socket connected to path: a descriptor or -errno. */
int rpc_connect(const char *path);

#endif
