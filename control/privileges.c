/* SPDX-License-Identifier: Apache-2.0 */
#include "control/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/child.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/port_arg.h"
#include "control/service/daemon.h"
#include "dataplane/port.h"
#include "dataplane/port/uri.h"

#define NOBODY     65534u
#define PACKAGED   "isthmus" /* packaging/systemd/isthmus.sysusers */
#define PORT_USERS 1024u     /* the first that anybody may open */

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

/* Who called sudo, whom the package has made for it, or nobody. */
static struct who somebody(void)
{
    const unsigned long uid = number("SUDO_UID"), gid = number("SUDO_GID");
    const struct passwd *p = uid && gid ? NULL : getpwnam(PACKAGED);

    if (uid && gid)
        return (struct who){(uid_t)uid, (gid_t)gid, getenv("SUDO_USER")};
    if (p && p->pw_uid)
        return (struct who){p->pw_uid, p->pw_gid, PACKAGED};
    return (struct who){NOBODY, NOBODY, "nobody"};
}

static int find(const char *user, struct who *w)
{
    if (!user) {
        *w = somebody();
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

/* --- what comes later ---------------------------------------------------------------------------
 */

/* Whether it may, as far as files go: those rights are this thread's alone for a moment. */
static bool may(const struct who *w, const char *path, int mode)
{
    const int n = getgroups(0, NULL);
    gid_t *groups = calloc((size_t)(n > 0 ? n : 1), sizeof *groups);
    bool can = false;

    if (!groups || n < 0 || getgroups(n, groups) != n || syscall(SYS_setgroups, 0, NULL) < 0) {
        free(groups);
        return false;
    }
    setfsgid(w->gid);
    setfsuid(w->uid);
    can = faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0;
    setfsuid(0);
    setfsgid(getegid());
    can = syscall(SYS_setgroups, (size_t)n, groups) == 0 && can;
    free(groups);
    return can;
}

static bool may_make(const struct who *w, const char *path)
{
    char *copy = strdup(path);
    const bool can = copy && may(w, dirname(copy), W_OK | X_OK);

    free(copy);
    return can;
}

/* The socket of a memif: port, which an edge connects to again and a cloud removes. Only the same
 * user gets in: where a cloud has to stay root for its folder, an edge has to, too, whether or not
 * the socket is there just now. */
static bool may_meet(const struct who *w, const char *path, bool is_server)
{
    return may_make(w, path) && (is_server || access(path, F_OK) < 0 || may(w, path, W_OK));
}

static bool is_raw(enum uri_kind k)
{
    return k == URI_PACKET || k == URI_XDP || k == URI_PCI;
}

/* Of `run`, whose halves come and go together. Elsewhere an edge at an abstract socket can't tell
 * whether the cloud that it will meet there stays root. */
static bool is_own(const char *uri)
{
    const size_t n = strlen(PORT_ARG_OWN);
    return strncmp(uri, PORT_ARG_OWN, n) == 0 && strspn(uri + n, "0123456789abcdef") == 32;
}

/* What it will not be able to do, in a line. */
struct obstacles {
    char text[640];
    size_t n;
};

__attribute__((format(printf, 2, 3))) static void add(struct obstacles *o, const char *format, ...)
{
    const char *between = o->n ? ", or " : "";
    const size_t room = sizeof o->text - o->n;
    va_list args;

    if (room <= strlen(between) + 1)
        return;
    o->n += (size_t)snprintf(o->text + o->n, room, "%s", between);
    va_start(args, format);
    const int n = vsnprintf(o->text + o->n, sizeof o->text - o->n, format, args);
    va_end(args);
    o->n = o->n + (size_t)n < sizeof o->text ? o->n + (size_t)n : sizeof o->text - 1;
}

static void look_for_obstacles(const struct privileges *p, const struct port_uri *ports,
                               const struct who *w, struct obstacles *o)
{
    const char *manager = child_is() ? NULL : getenv("NOTIFY_SOCKET");

    *o = (struct obstacles){.n = 0};
    for (unsigned i = 0; i < PRIVILEGES_READS; i++) {
        if (p->reads[i] && access(p->reads[i], R_OK) == 0 && !may(w, p->reads[i], R_OK))
            add(o, "read %s again", p->reads[i]);
    }
    if (manager && *manager == '/' && access(manager, W_OK) == 0 && !may(w, manager, W_OK))
        add(o, "tell the service manager at %s", manager);
    if (p->makes && !may_make(w, p->makes))
        add(o, "make the socket %s", p->makes);
    if (p->group != PRIVILEGES_NO_GROUP && p->group != w->gid)
        add(o, "give the control socket to another group than its own");
    for (unsigned i = 0; i < p->n_ports; i++) {
        const char *name = ports[i].name;
        if (ports[i].kind != URI_MEMIF || is_own(p->ports[i]))
            continue;
        if (name[0] == '@' ? !p->is_server : !may_meet(w, name, p->is_server))
            add(o, "%s the socket %s", p->is_server ? "remove" : "connect again to", name);
    }
}

/* --- giving it up -------------------------------------------------------------------------------
 */

/* Capabilities that stay. */
struct kept {
    unsigned list[6], n;
    const char *what; /* for people */
};

static struct kept kept_for(const struct privileges *p, const struct port_uri *ports)
{
    struct kept k = {.what = ""};
    bool packet = false, xdp = false;
    const char *port = p->listens ? strrchr(p->listens, ':') : NULL;

    for (unsigned i = 0; i < p->n_ports; i++) {
        xdp |= ports[i].kind == URI_XDP;
        packet |= ports[i].kind == URI_PACKET;
    }
    if (xdp) {
        k = (struct kept){{CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF},
                          3,
                          " with the capabilities that detaching from the interface takes"};
        if (p->n_ports > 1) {
            k.list[k.n++] = CAP_IPC_LOCK;
            k.list[k.n++] = CAP_SYS_ADMIN; /* to find the program's map: CAP_BPF may not */
            k.what = " with the capabilities that opening its ports again takes";
        }
    } else if (packet && p->n_ports > 1) {
        k = (struct kept){
            {CAP_NET_RAW}, 1, " with the capability that opening its ports again takes"};
    }
    const unsigned long listened = port ? strtoul(port + 1, NULL, 10) : 0;
    if (listened && listened < PORT_USERS) {
        k.what = k.n ? k.what : " with the capability that opening --listen's port takes";
        k.list[k.n++] = CAP_NET_BIND_SERVICE;
    }
    return k;
}

/* Of this thread; the others have lost theirs with root. */
static int keep(const struct kept *k)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

    for (unsigned i = 0; i < k->n; i++) {
        data[CAP_TO_INDEX(k->list[i])].effective |= CAP_TO_MASK(k->list[i]);
        data[CAP_TO_INDEX(k->list[i])].permitted |= CAP_TO_MASK(k->list[i]);
    }
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* What a change of user takes away, and is none of its business. */
static int restore(int death_signal, pid_t parent)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    prctl(PR_SET_DUMPABLE, 1); /* they look at themselves */
#endif
    if (death_signal && prctl(PR_SET_PDEATHSIG, death_signal) < 0)
        return -errno;
    return death_signal && getppid() != parent ? -ESRCH : 0;
}

/* glibc's calls change all threads. */
static int become(const struct who *w, const struct kept *k)
{
    const pid_t parent = getppid();
    int death_signal = 0;

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return -ENOTRECOVERABLE;
    if (prctl(PR_GET_PDEATHSIG, &death_signal) < 0 ||
        prctl(PR_SET_KEEPCAPS, k->n > 0, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(w->gid, w->gid, w->gid) < 0 || setresuid(w->uid, w->uid, w->uid) < 0)
        return -errno;
    int rc = keep(k);
    if (rc == 0)
        rc = restore(death_signal, parent);
    if (rc)
        return rc;
    return setresuid(0, 0, 0) == 0 ? -ENOTRECOVERABLE : 0; /* is it really gone? */
}

/* The socket that memif: made as root: those of this user are to connect to it. */
static int hand_over_socket(const char *path, const struct who *w)
{
    const int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    int rc = 0;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == 0 &&
        fchownat(fd, "", w->uid, w->gid, AT_EMPTY_PATH) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

static int hand_over(const struct privileges *p, const struct port_uri *ports, const struct who *w)
{
    int rc = 0;

    for (unsigned i = 0; i < p->n_ports && p->is_server && rc == 0; i++) {
        if (ports[i].kind == URI_MEMIF && ports[i].name[0] != '@')
            rc = hand_over_socket(ports[i].name, w);
    }
    return rc;
}

/* Whether nothing that comes later keeps root; what will fail is said. */
static bool may_go(const struct privileges *p, const struct port_uri *ports, const struct who *w)
{
    const char *name = w->name ? w->name : "that user";
    bool raw = false, pci = false;
    struct obstacles o;

    for (unsigned i = 0; i < p->n_ports; i++) {
        raw |= is_raw(ports[i].kind);
        pci |= ports[i].kind == URI_PCI;
    }
    if (pci && p->n_ports > 1) {
        log_warn("root is kept: a pci: port among several may have to be opened again");
        return false;
    }
    look_for_obstacles(p, ports, w, &o);
    if (o.n && !p->user && !raw) {
        log_warn("root is kept: %s (uid %u) could not %s: permit that, or name another user by "
                 "--user",
                 name, (unsigned)w->uid, o.text);
        return false;
    }
    if (o.n)
        log_warn("%s (uid %u) can't %s", name, (unsigned)w->uid, o.text);
    return true;
}

int privileges_check(const char *user)
{
    struct who w;
    return user && geteuid() == 0 ? find(user, &w) : EXIT_OK;
}

void privileges_begin(void)
{
    if (geteuid() == 0)
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); /* become() looks whether it did */
}

static int drop(const struct privileges *p, const struct port_uri *ports)
{
    struct who w;
    int rc = find(p->user, &w);
    if (rc != EXIT_OK)
        return rc;
    rc = daemon_hand_over(w.uid, w.gid);
    if (rc == 0 && !may_go(p, ports, &w)) { /* the folder is ours again */
        rc = daemon_hand_over(0, getegid());
        if (rc < 0)
            log_error("the runtime folder cannot be taken back: %s", strerror(-rc));
        return rc < 0 ? EXIT_FAILED : EXIT_OK;
    }
    const struct kept k = kept_for(p, ports);
    if (rc == 0)
        rc = hand_over(p, ports, &w);
    if (rc == 0 && p->hand_over)
        p->hand_over(w.uid, w.gid);
    if (rc == 0)
        rc = become(&w, &k);
    if (rc < 0) {
        log_error("cannot give up root: %s", strerror(-rc));
        return EXIT_FAILED;
    }
    if (!child_is()) /* it is said by who started it */
        log_info("the port is open: root is given up, %s (uid %u) goes on%s",
                 w.name ? w.name : "user", (unsigned)w.uid, k.what);
    return EXIT_OK;
}

int privileges_drop(const struct privileges *p)
{
    struct port_uri *ports;
    char err[PORT_ERR];
    int rc = EXIT_OK;

    if (geteuid() != 0) {
        if (p->user)
            log_warn("--user %s: this is not root, so it stays who it is", p->user);
        return EXIT_OK;
    }
    ports = calloc(p->n_ports ? p->n_ports : 1, sizeof *ports);
    if (!ports) {
        log_error("cannot give up root: out of memory");
        return EXIT_FAILED;
    }
    for (unsigned i = 0; i < p->n_ports && rc == EXIT_OK; i++) {
        if (port_uri_parse(p->ports[i], &ports[i], err) < 0) {
            log_error("cannot give up root: %s", err);
            rc = EXIT_USAGE;
        }
    }
    if (rc == EXIT_OK)
        rc = drop(p, ports);
    free(ports);
    return rc;
}

int privileges_drop_brief(const char *port, const char *user)
{
    const struct privileges p = {.ports = &port, .n_ports = 1, .user = user};
    char err[PORT_ERR];
    struct port_uri u;

    return port_uri_parse(port, &u, err) == 0 && is_raw(u.kind) ? privileges_drop(&p) : EXIT_OK;
}
