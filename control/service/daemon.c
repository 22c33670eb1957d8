/* SPDX-License-Identifier: Apache-2.0 */
#include "control/service/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/child.h"
#include "control/cmd.h"
#include "control/log.h"
#include "control/options.h"
#include "dataplane/port.h"

#define LOCK_NAME "lock"

/* --- options ------------------------------------------------------------------------------------
 */

enum {
    OPT_CONFIG = OPT_OWN + 0x300,
    OPT_CHECK_CONFIG,
    OPT_CHECK_OPTIONS,
    OPT_LOG_LEVEL,
    OPT_RUNTIME_DIR,
    OPT_CONTROL
};

static const struct argp_option options[] = {
    {"config", OPT_CONFIG, "FILE", 0,
     "Read options from FILE, see isthmus.conf(5); those given here win", 5},
    {"check-config", OPT_CHECK_CONFIG, NULL, 0,
     "Only say whether the configuration is good; exit code 2: it is not", 5},
    {"check-options", OPT_CHECK_OPTIONS, "FD", OPTION_ARG_OPTIONAL | OPTION_HIDDEN, /* reload.h */
     "The same, the options alone, and the file as it is in a descriptor", 5},
    {"log-level", OPT_LOG_LEVEL, "error|warn|info|debug", 0,
     "How much is said on stderr (default info)", 5},
    {"runtime-dir", OPT_RUNTIME_DIR, "DIR", 0,
     "Folder of this process alone while it serves (default: $RUNTIME_DIRECTORY, if it is set)", 5},
    {"control", OPT_CONTROL, "PATH", 0,
     "Control socket, while it serves (default: control.sock in the runtime folder, if there is "
     "one)",
     5},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct daemon_options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        *o = (struct daemon_options){.config = NULL};
        return 0;
    case OPT_CONFIG:
        o->config = arg;
        return 0;
    case OPT_CHECK_CONFIG:
        o->check_config = true;
        return 0;
    case OPT_CHECK_OPTIONS:
        o->check_options = true;
        return 0;
    case OPT_LOG_LEVEL:
        if (log_parse_level(arg) < 0)
            argp_error(state, "--log-level %s: must be error, warn, info or debug", arg);
        else
            log_set_level((enum log_level)log_parse_level(arg));
        return 0;
    case OPT_RUNTIME_DIR:
        o->runtime_dir = arg;
        return 0;
    case OPT_CONTROL:
        o->control = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp daemon_argp = {options, parse, NULL, NULL, NULL, NULL, NULL};

/* --- the runtime folder -------------------------------------------------------------------------
 */

static struct {
    char dir[200], control[220];
    bool made; /* the folder, just now */
    int lock_fd;
    bool notifies;
    uint64_t watchdog_ns, watched_ns; /* 0: none; when it was last told */
    pthread_mutex_t status_lock;
    char status[200];
} self = {.lock_fd = -1, .status_lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t watchdog_ns(void);

static int lock_dir(void)
{
    char path[sizeof self.dir + sizeof "/" LOCK_NAME], holder[24] = "";
    self.made = mkdir(self.dir, 0750) == 0;
    if (!self.made && errno != EEXIST) {
        log_error("cannot make the runtime folder %s: %s", self.dir, strerror(errno));
        return EXIT_FAILED;
    }
    snprintf(path, sizeof path, "%s/" LOCK_NAME, self.dir);
    self.lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (self.lock_fd < 0) {
        log_error("cannot lock the runtime folder: %s: %s", path, strerror(errno));
        return EXIT_FAILED;
    }
    if (flock(self.lock_fd, LOCK_EX | LOCK_NB) < 0) {
        const bool held = errno == EWOULDBLOCK;
        const ssize_t n = held ? read(self.lock_fd, holder, sizeof holder - 1) : 0;
        holder[n > 0 ? n : 0] = '\0';
        holder[strcspn(holder, "\n")] = '\0';
        log_error("%s is the runtime folder of another process%s%s, that serves: give this one "
                  "another --runtime-dir%s%s",
                  self.dir, *holder ? ", " : "", holder, held ? "" : ": ",
                  held ? "" : strerror(errno));
        return EXIT_FAILED;
    }
    const int n = snprintf(holder, sizeof holder, "%d\n", (int)getpid());
    if (ftruncate(self.lock_fd, 0) < 0 || pwrite(self.lock_fd, holder, (size_t)n, 0) != n) {
        log_error("cannot write %s: %s", path, strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

/* The folder that it is to be; "": none. */
static int name_dir(const struct daemon_options *o, char to[static sizeof self.dir])
{
    /* A cloud half that `run` started is its parent's affair, and so are the manager's folder and
     * its socket. */
    const char *of_manager = child_is() ? NULL : getenv("RUNTIME_DIRECTORY");
    const char *dir = o->runtime_dir ? o->runtime_dir : of_manager;
    const size_t n = dir ? o->runtime_dir ? strlen(dir) : strcspn(dir, ":") : 0;
    if (n >= sizeof self.dir) {
        log_error("--runtime-dir %.40s...: longer than %zu bytes", dir, sizeof self.dir - 1);
        return EXIT_USAGE;
    }
    snprintf(to, sizeof self.dir, "%.*s", (int)n, dir ? dir : "");
    return EXIT_OK;
}

int daemon_begin(const struct daemon_options *o)
{
    const int rc = name_dir(o, self.dir);
    if (rc != EXIT_OK)
        return rc;
    self.notifies = getenv("NOTIFY_SOCKET") && !child_is();
    self.watchdog_ns = self.notifies ? watchdog_ns() : 0;
    return *self.dir ? lock_dir() : EXIT_OK;
}

/* Whether something can be made in the folder. */
static int check_folder(const char *option, const char *path, const char *folder)
{
    struct stat st;
    const int rc = stat(folder, &st) < 0             ? errno
                   : !S_ISDIR(st.st_mode)            ? ENOTDIR
                   : access(folder, W_OK | X_OK) < 0 ? errno
                                                     : 0;
    if (!rc)
        return EXIT_OK;
    log_error("%s %s: %s: %s", option, path, folder, strerror(rc));
    return EXIT_USAGE;
}

static int check_parent(const char *option, const char *path)
{
    char *copy = strdup(path);
    const int rc = copy ? check_folder(option, path, dirname(copy)) : EXIT_FAILED;
    free(copy);
    return rc;
}

static bool is_in(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/')
        n--;
    char *copy = strdup(path);
    const char *its = copy ? dirname(copy) : "";
    const bool in = strlen(its) == n && memcmp(its, folder, n) == 0;
    free(copy);
    return in;
}

/* coming: a folder that will be there; "": none. */
static int check_control(const char *path, const char *coming)
{
    struct sockaddr_un a;
    struct stat st;
    if (strcmp(path, "none") == 0)
        return EXIT_OK;
    if (!*path || strlen(path) >= sizeof a.sun_path) {
        log_error("--control %s: the path of a socket has 1 to %zu bytes", path,
                  sizeof a.sun_path - 1);
        return EXIT_USAGE;
    }
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        log_error("--control %s: that is no socket", path);
        return EXIT_USAGE;
    }
    return is_in(path, coming) ? EXIT_OK : check_parent("--control", path);
}

int daemon_check(const struct daemon_options *o)
{
    char dir[sizeof self.dir];
    struct stat st;
    int rc = name_dir(o, dir);
    if (rc != EXIT_OK)
        return rc;
    const bool there = *dir && stat(dir, &st) == 0;
    if (*dir && o->runtime_dir) /* the manager's is its own affair */
        rc = there ? check_folder("--runtime-dir", dir, dir) : check_parent("--runtime-dir", dir);
    return rc == EXIT_OK && o->control ? check_control(o->control, there ? "" : dir) : rc;
}

int daemon_hand_over(uid_t uid, gid_t gid)
{
    /* Not one that was there before: somebody may have named a folder of the system's. */
    const int fd = self.made ? open(self.dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    int rc = 0;
    if (self.made)
        rc = fd < 0 || fchown(fd, uid, gid) < 0 || fchown(self.lock_fd, uid, gid) < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

void daemon_end(void)
{
    /* The file stays: if it went, a process that waits at it and one that makes it anew would both
     * have it. */
    if (self.lock_fd >= 0)
        close(self.lock_fd);
    self.lock_fd = -1;
}

const char *daemon_runtime_dir(void)
{
    return *self.dir ? self.dir : NULL;
}

const char *daemon_control_path(const struct daemon_options *o)
{
    if (o->control || !*self.dir)
        return o->control;
    snprintf(self.control, sizeof self.control, "%s/control.sock", self.dir);
    return self.control;
}

/* --- the service manager ------------------------------------------------------------------------
 */

/*
 * sd_notify(3)'s protocol, a datagram to a socket. Its own function sleeps where the manager is
 * slow to read, and the loop that runs the engine may not: what is said often is left out then. For
 * the rest there is a second.
 */
static bool notify(const char *state, bool may_wait)
{
    const char *path = self.notifies ? getenv("NOTIFY_SOCKET") : NULL;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const size_t n = path ? strlen(path) : 0;
    const int fd = n && n < sizeof to.sun_path && (*path == '/' || *path == '@')
                       ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)
                       : -1;
    const struct timeval second = {.tv_sec = 1};
    if (fd < 0)
        return false;
    memcpy(to.sun_path, path, n);
    if (*path == '@')
        to.sun_path[0] = '\0';
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
    const ssize_t sent = sendto(
        fd, state, strlen(state), MSG_NOSIGNAL | (may_wait ? 0 : MSG_DONTWAIT),
        (const struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    close(fd);
    return sent >= 0;
}

/* As sd_watchdog_enabled(3); 0: none. */
static uint64_t watchdog_ns(void)
{
    const char *us = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    if (!us || (pid && strtoll(pid, NULL, 10) != getpid()))
        return 0;
    return strtoull(us, NULL, 10) * 1000;
}

void daemon_ready(void)
{
    notify("READY=1", true);
}

void daemon_reloading(void)
{
    char text[64];
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
             (unsigned long long)(port_now_ns() / 1000));
    notify(text, true);
}

void daemon_stopping(void)
{
    notify("STOPPING=1", true);
}

void daemon_status(const char *format, ...)
{
    char text[sizeof self.status], line[sizeof text + 8];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    snprintf(line, sizeof line, "STATUS=%s", text);
    pthread_mutex_lock(&self.status_lock);
    if (self.notifies && strcmp(text, self.status) != 0 && notify(line, false))
        strcpy(self.status, text);
    pthread_mutex_unlock(&self.status_lock);
}

uint64_t daemon_tick(uint64_t now_ns)
{
    if (!self.watchdog_ns)
        return UINT64_MAX;
    if (!self.watched_ns || now_ns - self.watched_ns >= self.watchdog_ns / 2) {
        notify("WATCHDOG=1", false);
        self.watched_ns = now_ns;
    }
    return self.watched_ns + self.watchdog_ns / 2;
}
