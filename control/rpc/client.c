/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/log.h"
#include "control/rpc/control.h"
#include "control/rpc/listen.h"

#define ANSWER_S 30 /* longer than a process takes to say that it is busy */

struct rpc_client {
    char path[CONTROL_PATH];
    FILE *in;
    int fd;
    char *line;
    size_t room;
};

/* What was tried, for people. */
struct tried {
    char text[600];
    int rc; /* of the last that was there */
};

static int try(const char *path, struct tried *t)
{
    const int fd = rpc_connect(path);
    const size_t at = strlen(t->text);
    if (fd < 0) {
        snprintf(t->text + at, sizeof t->text - at, "%s%s (%s)", at ? ", " : "", path,
                 strerror(-fd));
        t->rc = fd;
    }
    return fd;
}

static int find(const char *name, char path[CONTROL_PATH], struct tried *t)
{
    static const char *const names[] = {"edge", "cloud"};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; !name || strcmp(name, names[i]) == 0; n++) {
            if (!control_default_path(n, names[i], path))
                break;
            const int fd = try(path, t);
            if (fd >= 0)
                return fd;
        }
    return -1;
}

int rpc_client_open(const char *path, struct rpc_client **out)
{
    struct tried tried = {.rc = 0};
    struct rpc_client *c = calloc(1, sizeof *c);
    const struct timeval limit = {.tv_sec = ANSWER_S};
    if (!c) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    if (path && strcmp(path, "edge") != 0 && strcmp(path, "cloud") != 0) {
        snprintf(c->path, sizeof c->path, "%s", path);
        c->fd = try(path, &tried);
    } else {
        c->fd = find(path, c->path, &tried);
    }
    if (c->fd < 0) {
        log_error("no control socket answers: tried %s. Is a process serving there (--control, its "
                  "log says the path), and may you connect to it (its group)?",
                  tried.text);
        free(c);
        return EXIT_FAILED;
    }
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    c->in = fdopen(c->fd, "r");
    if (!c->in) {
        log_error("%s: %s", c->path, strerror(errno));
        close(c->fd);
        free(c);
        return EXIT_FAILED;
    }
    *out = c;
    return EXIT_OK;
}

void rpc_client_close(struct rpc_client *c)
{
    if (!c)
        return;
    fclose(c->in);
    free(c->line);
    free(c);
}

const char *rpc_client_path(const struct rpc_client *c)
{
    return c->path;
}

json_t *rpc_client_request(int id, const char *method, json_t *params)
{
    return json_pack("{s:s, s:i, s:s, s:o*}", "jsonrpc", "2.0", "id", id, "method", method,
                     "params", params);
}

static bool send_line(struct rpc_client *c, const json_t *request)
{
    char *text = json_dumps(request, JSON_COMPACT);
    const size_t n = text ? strlen(text) : 0;
    bool sent = n > 0;
    if (sent)
        text[n] = '\n'; /* in the place of the zero */
    for (size_t at = 0; sent && at <= n;) {
        const ssize_t k = send(c->fd, text + at, n + 1 - at, MSG_NOSIGNAL);
        sent = k > 0 || (k < 0 && errno == EINTR);
        at += k > 0 ? (size_t)k : 0;
    }
    free(text);
    return sent;
}

json_t *rpc_client_ask(struct rpc_client *c, json_t *request)
{
    json_t *answer = NULL;
    const bool sent = send_line(c, request);
    json_decref(request);
    const ssize_t n = sent ? getline(&c->line, &c->room, c->in) : -1;
    if (n > 0)
        answer = json_loadb(c->line, (size_t)n, 0, NULL);
    if (!answer && n > 0)
        log_error("%s answers what is not JSON", c->path);
    else if (!answer)
        log_error("%s: %s", c->path,
                  ferror(c->in) && (errno == EAGAIN || errno == EWOULDBLOCK)
                      ? "no answer"
                      : "the process has ended, or broke the connection off");
    return answer;
}
