/* SPDX-License-Identifier: Apache-2.0 */
#include "control/privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/service/daemon.h"
#include "dataplane/port.h"
#include "dataplane/port/uri.h"

#define NOBODY 65534u

struct who {
    uid_t uid;
    gid_t gid;
    const char *name; /* for people */
};

/* A number of the environment; 0: there is none. */
static unsigned long number(const char *name)
{
    const char *text = getenv(name);
    char *end;

    if (!text || !*text)
        return 0;
    errno = 0;
    const unsigned long n = strtoul(text, &end, 10);
    return errno || *end || n >= UINT32_MAX ? 0 : n;
}

static int find(const char *user, struct who *w)
{
    const unsigned long uid = number("SUDO_UID"), gid = number("SUDO_GID");

    *w = (struct who){NOBODY, NOBODY, "nobody"};
    if (!user) {
        if (uid && gid)
            *w = (struct who){(uid_t)uid, (gid_t)gid, getenv("SUDO_USER")};
        return EXIT_OK;
    }
    errno = 0;
    const struct passwd *p = getpwnam(user);
    if (!p || p->pw_uid == 0) {
        log_error("--user %s: %s", user,
                  p       ? "that is root"
                  : errno ? strerror(errno)
                          : "there is no such user");
        return EXIT_USAGE;
    }
    *w = (struct who){p->pw_uid, p->pw_gid, user};
    return EXIT_OK;
}

/* Of this thread; the others have lost theirs with root. */
static int keep(const unsigned *capabilities, unsigned n)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

    for (unsigned i = 0; i < n; i++) {
        data[CAP_TO_INDEX(capabilities[i])].effective |= CAP_TO_MASK(capabilities[i]);
        data[CAP_TO_INDEX(capabilities[i])].permitted |= CAP_TO_MASK(capabilities[i]);
    }
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* glibc's calls change all threads. */
static int become(const struct who *w, bool xdp)
{
    static const unsigned to_detach[] = {CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF};

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return -ENOTRECOVERABLE;
    if (prctl(PR_SET_KEEPCAPS, xdp, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(w->gid, w->gid, w->gid) < 0 || setresuid(w->uid, w->uid, w->uid) < 0)
        return -errno;
    const int rc = keep(to_detach, xdp ? sizeof to_detach / sizeof to_detach[0] : 0);
    if (rc)
        return rc;
    return setresuid(0, 0, 0) == 0 ? -ENOTRECOVERABLE : 0; /* is it really gone? */
}

static bool needs_root(const char *uri, struct port_uri *u)
{
    char err[PORT_ERR];
    return port_uri_parse(uri, u, err) == 0 &&
           (u->kind == URI_PACKET || u->kind == URI_XDP || u->kind == URI_PCI);
}

int privileges_check(const char *uri, const char *user)
{
    struct port_uri u;
    struct who w;
    return user && geteuid() == 0 && needs_root(uri, &u) ? find(user, &w) : EXIT_OK;
}

void privileges_begin(void)
{
    if (geteuid() == 0)
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* become() looks whether it did */
}

int privileges_drop(const char *uri, const char *user)
{
    struct port_uri u;
    struct who w;

    if (!needs_root(uri, &u))
        return EXIT_OK;
    if (geteuid() != 0) {
        if (user)
            log_warn("--user %s: this is not root, so it stays who it is", user);
        return EXIT_OK;
    }
    int rc = find(user, &w);
    if (rc != EXIT_OK)
        return rc;
    rc = daemon_hand_over(w.uid, w.gid);
    if (rc == 0)
        rc = become(&w, u.kind == URI_XDP);
    if (rc < 0) {
        log_error("cannot give up root: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    log_info("the port is open: root is given up, %s (uid %u) goes on%s", w.name ? w.name : "user",
             (unsigned)w.uid,
             u.kind == URI_XDP ? " with the capabilities that detaching from the interface takes"
                               : "");
    return EXIT_OK;
}
