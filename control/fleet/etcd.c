/* SPDX-License-Identifier: Apache-2.0 */
#include "control/fleet/etcd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "control/libcurl.h"

#define ENDPOINTS_MAX 8u
#define ANSWER_BYTES  (8u << 20)
#define WATCH_BYTES   (8u << 20) /* of a line */
#define CONNECT_MS    2000L
#define UNHEARD_MS                                                                                 \
    6000u /* a connection whose bytes are not acknowledged, or that is silent to                   \
           * keep-alive probes */

struct text {
    char *bytes;
    size_t n, room, most;
};

struct etcd {
    char *copy; /* of what it was opened with, cut up */
    const char *urls[ENDPOINTS_MAX];
    unsigned n_urls, at;
    char prefix[ETCD_PREFIX];
    CURLM *multi;
    CURL *request, *watch;
    struct curl_slist *headers;
    char *watch_body;
    struct text answer, line;
    bool changed, over;
    char curl_err[CURL_ERROR_SIZE], watch_err[CURL_ERROR_SIZE];
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* --- opening
 * --------------------------------------------------------------------------------------
 */

/* URL[,URL...]/PREFIX: the first slash behind the last URL's host begins the prefix. */
static int read_what(struct etcd *e, const char *what)
{
    e->copy = strdup(what);
    if (!e->copy)
        return -ENOMEM;
    char *at = e->copy;
    while (at) {
        const char *scheme = strncmp(at, "http://", 7) == 0    ? "http://"
                             : strncmp(at, "https://", 8) == 0 ? "https://"
                                                               : NULL;
        if (!scheme || e->n_urls == ENDPOINTS_MAX)
            return -EINVAL;
        char *host = at + strlen(scheme);
        const size_t n = strcspn(host, ",/");
        if (n == 0 || strcspn(host, " \t\r\n?#@\\") < n)
            return -EINVAL;
        e->urls[e->n_urls++] = at;
        const char end = host[n];
        host[n] = '\0';
        at = end ? host + n + 1 : NULL;
        if (end == '/')
            break;
    }
    size_t n = at ? strlen(at) : 0;
    while (n > 0 && at[n - 1] == '/')
        n--;
    if (n == 0 || n + 2 > ETCD_PREFIX || strpbrk(at, " \t\r\n"))
        return -EINVAL;
    snprintf(e->prefix, sizeof e->prefix, "/%.*s/",
             (int)(n < ETCD_PREFIX - 3 ? n : ETCD_PREFIX - 3), at);
    return n <= ETCD_PREFIX - 3 ? 0 : -EINVAL;
}

static size_t append(struct text *t, const char *bytes, size_t n)
{
    if (n > t->most - t->n)
        return 0;
    if (t->n + n + 1 > t->room) {
        const size_t room = 2 * (t->n + n + 1);
        char *more = realloc(t->bytes, room);
        if (!more)
            return 0;
        t->bytes = more;
        t->room = room;
    }
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    return n;
}

static size_t on_answer(char *bytes, size_t size, size_t n, void *arg)
{
    return append(&((struct etcd *)arg)->answer, bytes, size * n);
}

/* Objects of a watch come a line each. */
static size_t on_watch(char *bytes, size_t size, size_t n, void *arg)
{
    struct etcd *e = arg;
    const char *at = bytes, *end = bytes + size * n, *line_end;
    while ((line_end = memchr(at, '\n', (size_t)(end - at)))) {
        if (append(&e->line, at, (size_t)(line_end - at)) != (size_t)(line_end - at))
            return 0;
        const enum etcd_watch w =
            e->line.n ? etcd_parse_watch(e->line.bytes, e->line.n) : ETCD_NOTHING_NEW;
        e->changed |= w == ETCD_CHANGED;
        e->over |= w == ETCD_WATCH_OVER;
        e->line.n = 0;
        at = line_end + 1;
    }
    return append(&e->line, at, (size_t)(end - at)) == (size_t)(end - at) ? size * n : 0;
}

/* A host that is gone is noticed soon, though no packet says so. */
static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
    const unsigned ms = UNHEARD_MS;
    const int on = 1, idle_s = 3, step_s = 1;
    (void)arg;
    (void)purpose;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &step_s, sizeof step_s);
    return CURL_SOCKOPT_OK;
}

static CURL *new_handle(struct etcd *e, curl_write_callback on_data, char *err)
{
    CURL *c = curl_easy_init();
    if (!c)
        return NULL;
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_PROXY, ""); /* whatever the environment says */
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_SOCKOPTFUNCTION, on_socket);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, e->headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, e);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, err);
    return c;
}

int etcd_open(const char *what, struct etcd **out, char *err)
{
    const char *why;
    if (libcurl_load(&why) < 0) {
        snprintf(err, WORKERS_ERR, "etcd: %s", why);
        return -ENOENT;
    }
    struct etcd *e = calloc(1, sizeof *e);
    int rc = e ? read_what(e, what) : -ENOMEM;
    if (rc == 0) {
        e->answer.most = ANSWER_BYTES;
        e->line.most = WATCH_BYTES;
        e->multi = curl_multi_init();
        e->headers = curl_slist_append(NULL, "Content-Type: application/json");
        e->request = new_handle(e, on_answer, e->curl_err);
        e->watch = new_handle(e, on_watch, e->watch_err);
        if (!e->multi || !e->headers || !e->request || !e->watch)
            rc = -ENOMEM;
    }
    if (rc < 0) {
        if (rc == -EINVAL)
            snprintf(err, WORKERS_ERR,
                     "etcd:%.200s: etcd:http://HOST:2379/PREFIX, of up to %u servers "
                     "etcd:http://HOST1:2379,http://HOST2:2379/PREFIX",
                     what, ENDPOINTS_MAX);
        else
            snprintf(err, WORKERS_ERR, "out of memory");
        etcd_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void etcd_close(struct etcd *e)
{
    if (!e)
        return;
    if (e->watch)
        etcd_watch_end(e);
    curl_easy_cleanup(e->request);
    curl_easy_cleanup(e->watch);
    if (e->multi)
        curl_multi_cleanup(e->multi);
    curl_slist_free_all(e->headers);
    free(e->answer.bytes);
    free(e->line.bytes);
    free(e->copy);
    free(e);
}

const char *etcd_prefix(const struct etcd *e)
{
    return e->prefix;
}

unsigned etcd_endpoints(const struct etcd *e)
{
    return e->n_urls;
}

void etcd_next_endpoint(struct etcd *e)
{
    e->at = (e->at + 1) % e->n_urls;
}

/* --- requests
 * -------------------------------------------------------------------------------------
 */

/* Whether `of` has ended, and how. */
static bool ended(struct etcd *e, CURL *of, CURLcode *how)
{
    int left;
    const CURLMsg *m;
    bool yes = false;
    while ((m = curl_multi_info_read(e->multi, &left))) {
        if (m->msg != CURLMSG_DONE)
            continue;
        if (m->easy_handle == e->watch) {
            e->over = true;
            if (m->data.result != CURLE_OK && !e->watch_err[0])
                snprintf(e->watch_err, sizeof e->watch_err, "%s",
                         curl_easy_strerror(m->data.result));
        }
        if (m->easy_handle == of) {
            *how = m->data.result;
            yes = true;
        }
    }
    return yes;
}

/* Packets in and out, then wait for more until then. 0 or -EINTR. */
static int turn(struct etcd *e, uint64_t until_ms, int wake_fd)
{
    struct curl_waitfd wake = {.fd = wake_fd, .events = CURL_WAIT_POLLIN};
    const uint64_t now = now_ms();
    curl_multi_poll(e->multi, &wake, wake_fd >= 0, until_ms > now ? (int)(until_ms - now) : 0,
                    NULL);
    return wake.revents ? -EINTR : 0;
}

static int prepare(struct etcd *e, CURL *c, const char *path, const char *body)
{
    char url[512];
    if (!body)
        return -ENOMEM;
    snprintf(url, sizeof url, "%.256s%s", e->urls[e->at], path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
    return curl_multi_add_handle(e->multi, c) == CURLM_OK ? 0 : -ENOMEM;
}

int etcd_post(struct etcd *e, const char *path, char *body, uint32_t timeout_ms, int wake_fd,
              const char **text, size_t *len, char *err)
{
    const uint64_t until_ms = now_ms() + timeout_ms;
    CURLcode how = CURLE_OPERATION_TIMEDOUT;
    int running, rc;
    e->answer.n = 0;
    e->curl_err[0] = '\0';
    snprintf(err, WORKERS_ERR, "out of memory");
    rc = prepare(e, e->request, path, body);
    while (rc == 0) {
        curl_multi_perform(e->multi, &running);
        if (ended(e, e->request, &how) || now_ms() >= until_ms)
            break;
        rc = turn(e, until_ms, wake_fd);
    }
    curl_multi_remove_handle(e->multi, e->request);
    free(body);
    if (rc < 0)
        return rc == -EINTR ? rc : -EIO;
    if (how != CURLE_OK) {
        snprintf(err, WORKERS_ERR, "%s: %.200s", e->urls[e->at],
                 e->curl_err[0] ? e->curl_err : curl_easy_strerror(how));
        return -EIO;
    }
    *text = e->answer.bytes ? e->answer.bytes : "";
    *len = e->answer.n;
    return 0;
}

int etcd_watch_begin(struct etcd *e, char *body)
{
    etcd_watch_end(e);
    e->watch_body = body;
    e->line.n = 0;
    e->changed = e->over = false;
    e->watch_err[0] = '\0';
    return prepare(e, e->watch, "/v3/watch", body);
}

int etcd_watch_wait(struct etcd *e, uint32_t timeout_ms, int wake_fd, char *err)
{
    const uint64_t until_ms = now_ms() + timeout_ms;
    CURLcode how;
    int running, rc;
    do {
        curl_multi_perform(e->multi, &running);
        ended(e, e->watch, &how);
        if (e->changed) {
            e->changed = false;
            return 1;
        }
        if (e->over) {
            snprintf(err, WORKERS_ERR, "%s: %.200s", e->urls[e->at],
                     e->watch_err[0] ? e->watch_err : "it ends the watch");
            return -EIO;
        }
        rc = turn(e, until_ms, wake_fd);
    } while (rc == 0 && now_ms() < until_ms);
    return rc;
}

void etcd_watch_end(struct etcd *e)
{
    curl_multi_remove_handle(e->multi, e->watch);
    free(e->watch_body);
    e->watch_body = NULL;
}
