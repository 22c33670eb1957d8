/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/rpc/rpc.h"

#define MODE 0660

static int address_of(const char *path, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof a->sun_path)
        return -ENAMETOOLONG;
    strcpy(a->sun_path, path);
    return 0;
}

int rpc_connect(const char *path)
{
    struct sockaddr_un a;
    int rc = address_of(path, &a);
    if (rc < 0)
        return rc;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

/* Take away the socket of a process that is gone; -EADDRINUSE: of one that is there, or no socket.
 */
static int remove_stale(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    const int fd = rpc_connect(path);
    if (fd >= 0) {
        close(fd);
        return -EADDRINUSE;
    }
    if (fd != -ECONNREFUSED)
        return fd == -ENOENT ? 0 : -EADDRINUSE; /* full, or not ours to ask: somebody listens */
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int bind_at(int fd, const char *path)
{
    struct sockaddr_un a;
    int rc = address_of(path, &a);
    if (rc < 0)
        return rc;
    rc = remove_stale(path);
    if (rc < 0)
        return rc;
    fchmod(fd, MODE); /* what bind makes is never more open than this, whatever the umask */
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return -errno;
    return listen(fd, (int)RPC_CLIENTS_MAX) < 0 ? -errno : 0;
}

/* Two that begin at once must not each take away what the other just made: the folder is held
 * meanwhile. */
static int bind_alone(int fd, const char *path)
{
    char copy[sizeof(struct sockaddr_un)];
    if (strlen(path) >= sizeof copy)
        return -ENAMETOOLONG;
    strcpy(copy, path);
    const int folder = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    if (flock(folder, LOCK_EX) < 0) {
        const int rc = -errno;
        close(folder);
        return rc;
    }
    const int rc = bind_at(fd, path);
    close(folder);
    return rc;
}

static int refused(int rc, const char *path, char *err)
{
    const char *mend = "";
    if (rc == -EADDRINUSE)
        mend = ": another process serves there; give this one another path";
    else if (rc == -ENOENT)
        mend = ": its folder must be there";
    else if (rc == -EACCES || rc == -EPERM)
        mend = ": the folder, and the group, must be this user's";
    else if (rc == -EEXIST)
        mend = ": that is no socket; it is left alone";
    snprintf(err, RPC_ERR, "control socket %.120s: %s%s", path, strerror(-rc), mend);
    return rc;
}

int rpc_listen(const char *path, gid_t group, char *err)
{
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return refused(-errno, path, err);
    int rc = bind_alone(fd, path);
    const bool made = rc == 0;
    if (made && group != RPC_NO_GROUP && chown(path, (uid_t)-1, group) < 0)
        rc = -errno;
    if (rc == 0 && chmod(path, MODE) < 0)
        rc = -errno;
    if (rc == 0)
        return fd;
    if (made)
        unlink(path);
    close(fd);
    return refused(rc, path, err);
}
