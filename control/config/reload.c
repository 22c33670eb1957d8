/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config/reload.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/config/config.h"
#include "control/log.h"

#define SAID_BYTES 4096u

/* An option as it is in force. */
struct in_force {
    const struct argp_option *option;
    char *value; /* all of its values, ", " between them; NULL: not given */
};

struct reload {
    struct reload_params p;
    struct in_force *list;
    size_t n;
    bool running, again;
    bool failed; /* the thread could not be begun, which reload_poll is to tell */
    pthread_t thread;

    /* the thread's, until `done` */
    struct config config;
    bool good;
    char said[SAID_BYTES];
    size_t n_said;
    atomic_bool done;
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
    if (r->running)
        pthread_join(r->thread, NULL);
    config_free(&r->config);
    for (size_t i = 0; i < r->n; i++)
        free(r->list[i].value);
    free(r->list);
    free(r);
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

/* Runs this program as `isthmus COMMAND ... --check-options`. 0: it found nothing wrong. */
static int check(struct reload *r)
{
    static char option[] = "--check-options";
    posix_spawn_file_actions_t actions;
    int fds[2], status = -1, argc;
    char **argv = config_parsed_arguments(&argc), **all = calloc((size_t)argc + 3, sizeof *all);
    if (!all || pipe2(fds, O_CLOEXEC) < 0) {
        free(all);
        return -ENOMEM;
    }
    all[0] = argv[0];
    all[1] = (char *)config_parsed()->command->name;
    memcpy(all + 2, argv + 1, ((size_t)argc - 1) * sizeof *all);
    all[argc + 1] = option;

    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    const int rc = posix_spawn(&pid, "/proc/self/exe", &actions, NULL, all, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    if (rc == 0) {
        listen_to(r, fds[0]);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close(fds[0]);
    free(all);
    return rc ? -rc : status == 0 ? 0 : -EINVAL;
}

static void *look(void *arg)
{
    struct reload *r = arg;
    int argc;
    char **argv = config_parsed_arguments(&argc);
    const int rc = check(r);
    if (rc < 0 && !r->n_said)
        say(r, rc == -EINVAL ? "the check ended without a word" : strerror(-rc));
    r->good =
        rc == 0 && config_gather(config_parsed()->command, argc, argv, say, r, &r->config) == 0;
    atomic_store(&r->done, true);
    r->p.wake(r->p.arg);
    return NULL;
}

void reload_begin(struct reload *r)
{
    if (r->running) {
        r->again = true;
        return;
    }
    r->n_said = 0;
    r->said[0] = '\0';
    r->again = false;
    atomic_store(&r->done, false);
    const int rc = pthread_create(&r->thread, NULL, look, r);
    r->running = rc == 0;
    r->failed = rc;
    if (rc)
        log_error("reload: cannot be checked: %s; all values stay", strerror(rc));
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
        log_warn("reload: %s: %s -> %s needs a restart", name, shown(f->value), shown(value));
        free(value);
        return true;
    }
    if (key->apply(r->p.arg, value, err) < 0) {
        log_error("reload: %s %s refused: %s; the old one stays", name, shown(value), err);
        free(value);
        return true;
    }
    if (same)
        log_info("reload: %s %s read again", name, value);
    else
        log_info("reload: %s: %s -> %s", name, shown(f->value), shown(value));
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
            log_error("reload: %s: out of memory", r->list[i].option->name);
        else
            any |= apply(r, &r->list[i], value);
    }
    if (!any)
        log_info("reload: nothing has changed");
}

static void refuse(struct reload *r)
{
    static const char ours[] = "isthmus: error: ";
    char *save = NULL;
    for (char *line = strtok_r(r->said, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        const bool marked = strncmp(line, ours, sizeof ours - 1) == 0;
        if (strncmp(line, "Try ", 4) != 0) /* argp's `--help' */
            log_error("reload: %s", line + (marked ? sizeof ours - 1 : 0));
    }
    log_error("reload: refused: all values stay");
}

bool reload_poll(struct reload *r)
{
    if (r->failed) {
        r->failed = false;
        return true;
    }
    if (!r->running || !atomic_load(&r->done))
        return false;
    pthread_join(r->thread, NULL);
    r->running = false;
    if (r->good)
        apply_all(r);
    else
        refuse(r);
    config_free(&r->config);
    if (r->again)
        reload_begin(r);
    return !r->running && !r->failed; /* else at the next look */
}
