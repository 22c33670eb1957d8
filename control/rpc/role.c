/* SPDX-License-Identifier: Apache-2.0 */
/* Who is at the other end of a Unix socket, as the kernel noted it when that end connected. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/rpc/rpc.h"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

/* Its supplementary groups: their number, or -errno. *groups is malloc'd. */
static int peer_groups(int fd, gid_t **groups)
{
    socklen_t bytes = 64 * sizeof **groups;
    for (;;) {
        *groups = malloc(bytes ? bytes : 1);
        if (!*groups)
            return -ENOMEM;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, *groups, &bytes) == 0)
            return (int)(bytes / sizeof **groups);
        const int rc = -errno;
        free(*groups);
        *groups = NULL;
        if (rc != -ERANGE) /* else bytes is what it takes */
            return rc;
    }
}

static bool is_member(gid_t group, gid_t first, const gid_t *groups, int n)
{
    if (group == RPC_NO_GROUP)
        return false;
    bool found = first == group;
    for (int i = 0; i < n; i++)
        found = found || groups[i] == group;
    return found;
}

int rpc_who(int fd, const struct rpc_roles *roles, struct rpc_who *who)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
        return -errno;
    *who = (struct rpc_who){RPC_USER, peer.uid, peer.pid};
    if (peer.uid == 0 || peer.uid == geteuid()) {
        who->role = RPC_ADMIN;
        return 0;
    }
    gid_t *groups = NULL;
    const int n = peer_groups(fd, &groups);
    if (n < 0 && n != -ENOPROTOOPT)
        return n;
    if (is_member(roles->admin_group, peer.gid, groups, n))
        who->role = RPC_ADMIN;
    else if (is_member(roles->operator_group, peer.gid, groups, n))
        who->role = RPC_OPERATOR;
    free(groups);
    return 0;
}
