/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config/reload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/log.h"
#include "control/signals.h"
#include "dataplane/port.h"

#define SAID_BYTES 4096u
#define CHECKED_FD 3 /* the checking process's copy of the file */

/* An option as it is in force. */
struct in_force {
    const struct argp_option *option;
    char *value; /* all of its values, ", " between them; NULL: not given */
};

struct reload {
    struct reload_params p;
    struct in_force *list;
    size_t n;
    bool running, again, refused;
    pthread_t thread;
    pid_t child; /* the checking process, below the lock; 0: none that could be ended */
    FILE *report; /* the lines of the one that runs, into `lines`; NULL: out of memory */
    char *lines;
    size_t n_lines;

    /* the thread's, until `done` */
    struct config config;
    bool good;
    char said[SAID_BYTES];
    size_t n_said;
    atomic_bool done;

    /* of others, who ask for one and wait for its end */
    atomic_bool asked;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t ended;
    uint64_t n_begun, n_ended;
    bool shut;
    struct reload_result last;
};

/* --- what is in force ----------------------------------------------------------------------------
 */

/* malloc'd; NULL: not given, or *no_memory. */
static char *joined(const struct config *c, const struct argp_option *o, bool *no_memory)
{
    char *text = NULL;
    for (size_t i = 0; i < c->n; i++) {
        if (c->list[i].option != o)
            continue;
        const char *value = c->list[i].value ? c->list[i].value : "yes";
        char *more = NULL;
        if (asprintf(&more, "%s%s%s", text ? text : "", text ? ", " : "", value) < 0) {
            *no_memory = true;
            more = NULL;
        }
        free(text);
        text = more;
    }
    return text;
}

struct listing {
    struct reload *r;
    bool no_memory;
};

static void list_option(void *arg, const struct argp_option *o)
{
    struct listing *l = arg;
    struct reload *r = l->r;
    struct in_force *list = realloc(r->list, (r->n + 1) * sizeof *list);
    if (!list) {
        l->no_memory = true;
        return;
    }
    r->list = list;
    list[r->n++] = (struct in_force){o, joined(config_parsed(), o, &l->no_memory)};
}

int reload_open(const struct reload_params *p, struct reload **out)
{
    struct reload *r = calloc(1, sizeof *r);
    struct listing l = {.r = r};
    if (!r)
        return -ENOMEM;
    r->p = *p;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->ended, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&r->lock, NULL);
    config_each_option(config_parsed()->command, list_option, &l);
    if (l.no_memory) {
        reload_close(r);
        return -ENOMEM;
    }
    *out = r;
    return 0;
}

void reload_close(struct reload *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->shut = true;
    if (r->child) /* one that hangs must not keep us */
        kill(r->child, SIGKILL);
    pthread_mutex_unlock(&r->lock);
    if (r->running)
        pthread_join(r->thread, NULL);
    if (r->report)
        fclose(r->report);
    free(r->lines);
    free(r->last.lines);
    config_free(&r->config);
    for (size_t i = 0; i < r->n; i++)
        free(r->list[i].value);
    free(r->list);
    pthread_cond_destroy(&r->ended);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* --- what comes of one ---------------------------------------------------------------------------
 */

/* A line of the log, and of what those get who asked. */
__attribute__((format(printf, 3, 4))) static void tell(struct reload *r, enum log_level level,
                                                       const char *format, ...)
{
    char line[RELOAD_LINE];
    va_list ap;
    va_start(ap, format);
    if (vsnprintf(line, sizeof line, format, ap) >= (int)sizeof line)
        memcpy(line + sizeof line - 4, "...", 4);
    va_end(ap);
    if (level == LOG_LEVEL_ERROR)
        log_error("reload: %s", line);
    else if (level == LOG_LEVEL_WARN)
        log_warn("reload: %s", line);
    else
        log_info("reload: %s", line);
    r->refused |= level == LOG_LEVEL_ERROR;
    if (r->report)
        fprintf(r->report, "%s\n", line);
}

static void begin_report(struct reload *r)
{
    r->refused = false;
    r->report = open_memstream(&r->lines, &r->n_lines);
    pthread_mutex_lock(&r->lock);
    r->n_begun++;
    pthread_mutex_unlock(&r->lock);
}

static void end_report(struct reload *r)
{
    bool whole = r->report && !ferror(r->report);
    if (r->report && fclose(r->report) != 0)
        whole = false;
    if (!whole)
        free(r->lines);
    pthread_mutex_lock(&r->lock);
    free(r->last.lines);
    r->last = (struct reload_result){r->refused, whole ? r->lines : NULL};
    r->n_ended++;
    pthread_cond_broadcast(&r->ended);
    pthread_mutex_unlock(&r->lock);
    r->report = NULL;
    r->lines = NULL;
    daemon_ready();
}

int reload_ask(struct reload *r, uint64_t patience_ns, struct reload_result *out)
{
    const uint64_t until_ns = port_now_ns() + patience_ns;
    const struct timespec until = {(time_t)(until_ns / 1000000000u),
                                   (long)(until_ns % 1000000000u)};
    int rc = 0;
    pthread_mutex_lock(&r->lock);
    /* One that runs may have read what was there before. */
    const uint64_t mine = r->n_begun + 1;
    atomic_store(&r->asked, true);
    r->p.wake(r->p.arg);
    while (r->n_ended < mine && !r->shut && rc == 0)
        rc = pthread_cond_timedwait(&r->ended, &r->lock, &until);
    *out = (struct reload_result){r->last.refused, NULL};
    if (r->n_ended >= mine) {
        out->lines = r->last.lines ? strdup(r->last.lines) : NULL;
        rc = out->lines ? 0 : -ENOMEM;
    } else {
        rc = r->shut ? -ESHUTDOWN : -ETIMEDOUT;
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void reload_shut(struct reload *r)
{
    pthread_mutex_lock(&r->lock);
    r->shut = true;
    pthread_cond_broadcast(&r->ended);
    pthread_mutex_unlock(&r->lock);
}

/* --- the check, in a thread ----------------------------------------------------------------------
 */

static void say(void *arg, const char *line)
{
    struct reload *r = arg;
    const int n = snprintf(r->said + r->n_said, sizeof r->said - r->n_said, "%s\n", line);
    if (n > 0 && r->n_said + (size_t)n < sizeof r->said)
        r->n_said += (size_t)n;
}

/* What the checking process says, up to its end. */
static void listen_to(struct reload *r, int fd)
{
    char rest[256];
    ssize_t n;
    do {
        const size_t room = sizeof r->said - 1 - r->n_said;
        n = read(fd, room ? r->said + r->n_said : rest, room ? room : sizeof rest);
        if (n > 0 && room)
            r->n_said += (size_t)n;
    } while (n > 0 || (n < 0 && errno == EINTR));
    r->said[r->n_said] = '\0';
}

/* The text of the file that r->config is of, to be read again. A descriptor, or -errno. */
static int copy_of_file(const struct config *c)
{
    const int fd = memfd_create("configuration", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    for (size_t at = 0; at < c->n_text;) {
        const ssize_t n = pwrite(fd, c->text + at, c->n_text - at, (off_t)at);
        if (n < 0) {
            const int rc = -errno;
            close(fd);
            return rc;
        }
        at += (size_t)n;
    }
    return fd;
}

/* Its status. What has been waited for is nobody's number any more, and may be another's. */
static int end_of_child(struct reload *r)
{
    siginfo_t info;
    int status = -1;
    while (waitid(P_PID, (id_t)r->child, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&r->lock);
    waitpid(r->child, &status, 0);
    r->child = 0;
    pthread_mutex_unlock(&r->lock);
    return status;
}

/* With the text at `file` in the place of the file's; < 0: there is none. */
static int run_check(struct reload *r, char **argv, int file)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none; /* this thread takes none of them; the child is to */
    int fds[2], status = -1;
    pid_t pid;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (file >= 0)
        posix_spawn_file_actions_adddup2(&actions, file, CHECKED_FD);
    pthread_mutex_lock(&r->lock);
    const int rc =
        r->shut ? ESHUTDOWN
                : posix_spawn(&pid, "/proc/self/exe", &actions, &attr, argv, environ);
    r->child = rc == 0 ? pid : 0;
    pthread_mutex_unlock(&r->lock);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (rc == 0) {
        listen_to(r, fds[0]);
        status = end_of_child(r);
    }
    close(fds[0]);
    return rc ? -rc : status == 0 ? 0 : -EINVAL;
}

/* Runs this program as `isthmus COMMAND ... --check-options`. 0: it found nothing wrong. */
static int check(struct reload *r)
{
    char option[32];
    int argc, rc = -ENOMEM;
    char **argv = config_parsed_arguments(&argc), **all = calloc((size_t)argc + 3, sizeof *all);
    const int file = r->config.text ? copy_of_file(&r->config) : -1;
    snprintf(option, sizeof option, file < 0 ? "--check-options" : "--check-options=%d",
             CHECKED_FD);
    if (all && (file >= 0 || !r->config.text)) {
        all[0] = argv[0];
        all[1] = (char *)config_parsed()->command->name;
        memcpy(all + 2, argv + 1, ((size_t)argc - 1) * sizeof *all);
        all[argc + 1] = option;
        rc = run_check(r, all, file);
    } else if (all) {
        rc = file;
    }
    if (file >= 0)
        close(file);
    free(all);
    return rc;
}

/* The file is read once, here: what was checked is what will be applied. */
static void *look(void *arg)
{
    struct reload *r = arg;
    int argc;
    char **argv = config_parsed_arguments(&argc);
    int rc = config_gather(config_parsed()->command, argc, argv, say, r, &r->config);
    if (rc == 0)
        rc = check(r);
    if (rc < 0 && !r->n_said)
        say(r, rc == -EINVAL ? "the check ended without a word" : strerrordesc_np(-rc));
    r->good = rc == 0;
    atomic_store(&r->done, true);
    r->p.wake(r->p.arg);
    return NULL;
}

static void begin(struct reload *r)
{
    r->n_said = 0;
    r->said[0] = '\0';
    r->again = false;
    begin_report(r);
    atomic_store(&r->done, false);
    const int rc = signals_thread(&r->thread, "isthmus-reload", look, r);
    r->running = rc == 0;
    if (rc) {
        tell(r, LOG_LEVEL_ERROR, "cannot be checked: %s; all values stay", strerrordesc_np(-rc));
        end_report(r);
    }
}

void reload_begin(struct reload *r)
{
    daemon_reloading();
    if (r->running)
        r->again = true;
    else
        begin(r);
}

/* --- what comes of it, in the serving thread
 * ------------------------------------------------------ */

static const struct reload_key *find(const struct reload *r, const char *name)
{
    for (size_t i = 0; i < r->p.n_keys; i++)
        if (strcmp(r->p.keys[i].key, name) == 0)
            return &r->p.keys[i];
    return NULL;
}

static const char *shown(const char *value)
{
    return value ? value : "(default)";
}

/* Takes over value. Whether there was something to say. */
static bool apply(struct reload *r, struct in_force *f, char *value)
{
    const struct reload_key *key = find(r, f->option->name);
    const bool same = value && f->value ? strcmp(value, f->value) == 0 : value == f->value;
    const char *name = f->option->name;
    char err[RELOAD_ERR] = "";
    if (same && !(value && key && key->file)) {
        free(value);
        return false;
    }
    if (!key || (key->file && !same)) {
        tell(r, LOG_LEVEL_WARN, "%s: %s -> %s needs a restart", name, shown(f->value),
             shown(value));
        free(value);
        return true;
    }
    if (key->apply(r->p.arg, value, err) < 0) {
        tell(r, LOG_LEVEL_ERROR, "%s %s refused: %s; the old one stays", name, shown(value), err);
        free(value);
        return true;
    }
    if (same)
        tell(r, LOG_LEVEL_INFO, "%s %s read again", name, value);
    else
        tell(r, LOG_LEVEL_INFO, "%s: %s -> %s", name, shown(f->value), shown(value));
    free(f->value);
    f->value = value;
    return true;
}

int reload_log_level(void *arg, const char *value, char *err)
{
    (void)arg;
    const int level = value ? log_parse_level(value) : LOG_LEVEL_INFO;
    if (level < 0) {
        snprintf(err, RELOAD_ERR, "no such level");
        return -EINVAL;
    }
    log_set_level((enum log_level)level);
    return 0;
}

static void apply_all(struct reload *r)
{
    bool any = false;
    for (size_t i = 0; i < r->n; i++) {
        bool no_memory = false;
        char *value = joined(&r->config, r->list[i].option, &no_memory);
        if (no_memory)
            tell(r, LOG_LEVEL_ERROR, "%s: out of memory", r->list[i].option->name);
        else
            any |= apply(r, &r->list[i], value);
    }
    if (!any)
        tell(r, LOG_LEVEL_INFO, "nothing has changed");
}

static void refuse(struct reload *r)
{
    static const char ours[] = "isthmus: error: ";
    char *save = NULL;
    for (char *line = strtok_r(r->said, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const bool marked = strncmp(line, ours, sizeof ours - 1) == 0;
        if (strncmp(line, "Try ", 4) != 0) /* argp's `--help' */
            tell(r, LOG_LEVEL_ERROR, "%s", line + (marked ? sizeof ours - 1 : 0));
    }
    tell(r, LOG_LEVEL_ERROR, "refused: all values stay");
}

void reload_poll(struct reload *r)
{
    if (atomic_load_explicit(&r->asked, memory_order_relaxed) && atomic_exchange(&r->asked, false))
        reload_begin(r);
    if (!r->running || !atomic_load(&r->done))
        return;
    pthread_join(r->thread, NULL);
    r->running = false;
    if (r->good)
        apply_all(r);
    else
        refuse(r);
    config_free(&r->config);
    end_report(r);
    if (r->again) {
        daemon_reloading();
        begin(r);
    }
}
