/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/serve_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/bench/serve_stream.h"
#include "control/libcurl.h"
#include "dataplane/port.h"

#define MODELS_MAX   262144u /* bytes of a list of models */
#define ERROR_MAX    4096u   /* bytes of a refusal that are kept */
#define POLL_MAX_MS  200     /* signals are looked at */
#define MODELS_MAX_S 20L
#define KEY_HEADER   "Authorization: Bearer "

struct call {
    struct client *client;
    struct call *next, *before;
    CURL *easy;
    char *request, *url;
    unsigned kind;
    uint64_t due_ns, first_ns, last_ns, now_ns;
    uint64_t *gaps_ns;
    size_t n_gaps, room;
    bool no_memory;
    struct stream stream;
    char error[ERROR_MAX]; /* what came that is no stream */
    size_t error_bytes;
    long status; /* 0: not yet */
};

struct client {
    struct client_params p;
    CURLM *multi;
    struct curl_slist *headers;
    struct call *calls;
    unsigned busy;
};

const char *call_outcome_name(enum call_outcome o)
{
    static const char *const names[CALL_OUTCOMES] = {
        [CALL_CONNECT] = "errors_connect", [CALL_BUSY] = "errors_busy",
        [CALL_REFUSED] = "errors_http",    [CALL_SERVER] = "errors_server",
        [CALL_CUT] = "errors_cut",         [CALL_MALFORMED] = "errors_malformed",
        [CALL_TIMEOUT] = "errors_timeout",
    };
    return names[o];
}

unsigned client_busy(const struct client *c)
{
    return c->busy;
}

/* --- opening
 * -------------------------------------------------------------------------------------- */

static int add_header(struct client *c, const char *line)
{
    struct curl_slist *more = curl_slist_append(c->headers, line);
    if (!more)
        return -ENOMEM;
    c->headers = more;
    return 0;
}

static int add_headers(struct client *c)
{
    char *key = NULL;
    int rc = add_header(c, "Content-Type: application/json");
    if (rc == 0)
        rc = add_header(c, "Expect:"); /* no asking whether the body is welcome */
    if (rc == 0 && c->p.key) {
        rc = asprintf(&key, KEY_HEADER "%s", c->p.key) < 0 ? -ENOMEM : add_header(c, key);
        free(key);
    }
    return rc;
}

int client_open(const struct client_params *p, struct client **out)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->p = *p;
    c->multi = curl_multi_init();
    if (!c->multi || add_headers(c) < 0) {
        client_close(c);
        return -ENOMEM;
    }
    *out = c;
    return 0;
}

static void call_free(struct call *call)
{
    struct client *c = call->client;
    if (call->before)
        call->before->next = call->next;
    else
        c->calls = call->next;
    if (call->next)
        call->next->before = call->before;
    c->busy--;
    if (call->easy) {
        curl_multi_remove_handle(c->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    stream_close(&call->stream);
    free(call->request);
    free(call->url);
    free(call->gaps_ns);
    free(call);
}

void client_close(struct client *c)
{
    if (!c)
        return;
    while (c->calls)
        call_free(c->calls);
    curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    free(c);
}

/* --- what comes
 * ----------------------------------------------------------------------------------- */

static void got_text(void *arg)
{
    struct call *call = arg;
    if (!call->first_ns) {
        call->first_ns = call->last_ns = call->now_ns;
        return;
    }
    if (call->n_gaps == call->room) {
        const size_t room = call->room ? call->room * 2 : 64;
        uint64_t *grown = reallocarray(call->gaps_ns, room, sizeof *grown);
        if (!grown) {
            call->no_memory = true;
            return;
        }
        call->gaps_ns = grown;
        call->room = room;
    }
    call->gaps_ns[call->n_gaps++] = call->now_ns - call->last_ns;
    call->last_ns = call->now_ns;
}

static size_t on_bytes(char *bytes, size_t one, size_t len, void *arg)
{
    struct call *call = arg;
    (void)one; /* always 1 */
    if (!call->status)
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->status);
    if (call->status == 200) {
        call->now_ns = port_now_ns();
        return stream_feed(&call->stream, bytes, len) < 0 || call->no_memory ? 0 : len;
    }
    const size_t take = len < ERROR_MAX - call->error_bytes ? len : ERROR_MAX - call->error_bytes;
    memcpy(call->error + call->error_bytes, bytes, take);
    call->error_bytes += take;
    return len;
}

static enum call_outcome outcome_of_stream(int rc)
{
    switch (rc) {
    case 0:
        return CALL_OK;
    case -EREMOTEIO:
        return CALL_SERVER;
    case -EPIPE:
        return CALL_CUT;
    default:
        return CALL_MALFORMED;
    }
}

static enum call_outcome outcome(struct call *call, CURLcode code, char *why, size_t room)
{
    const struct stream *s = &call->stream;
    const int rc = code == CURLE_OK && call->status == 200 ? stream_end(&call->stream) : s->rc;
    *why = 0;
    if (call->no_memory) {
        snprintf(why, room, "out of memory here");
        return CALL_CUT;
    }
    if (rc && rc != -EPIPE) { /* what we ended for the sake of its bytes */
        snprintf(why, room, "%s", s->error);
        return outcome_of_stream(rc);
    }
    if (code == CURLE_OPERATION_TIMEDOUT) {
        snprintf(why, room, "no end within %.0f s", call->client->p.timeout_s);
        return CALL_TIMEOUT;
    }
    if (code != CURLE_OK && !s->done && !(s->finished && call->status == 200)) {
        snprintf(why, room, "%s", curl_easy_strerror(code));
        return call->status ? CALL_CUT : CALL_CONNECT;
    }
    if (call->status != 200) {
        char said[STREAM_ERROR];
        stream_error_of(call->error, call->error_bytes, said);
        snprintf(why, room, "HTTP status %ld%s%s", call->status, *said ? ": " : "", said);
        return call->status == 429 || call->status == 503 ? CALL_BUSY : CALL_REFUSED;
    }
    if (rc)
        snprintf(why, room, "%s", s->error);
    return outcome_of_stream(rc);
}

/* Tell of it, and forget it. */
static void report(struct call *call, enum call_outcome o, const char *why)
{
    struct client *c = call->client;
    const struct stream *s = &call->stream;
    const struct call_result r = {
        .outcome = o,
        .kind = call->kind,
        .due_ns = call->due_ns,
        .first_ns = call->first_ns,
        .last_ns = call->last_ns,
        .end_ns = port_now_ns(),
        .prompt_tokens = s->prompt_tokens,
        .tokens = s->completion_tokens >= 0 ? (uint64_t)s->completion_tokens : s->texts,
        .gaps_ns = call->gaps_ns,
        .n_gaps = call->n_gaps,
        .why = why,
    };
    c->p.on_end(c->p.arg, &r);
    call_free(call);
}

static void finish(struct call *call, CURLcode code)
{
    char why[STREAM_ERROR + 40];
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->status);
    const enum call_outcome o = outcome(call, code, why, sizeof why);
    report(call, o, why);
}

/* --- asking
 * --------------------------------------------------------------------------------------- */

/* What all requests have in common; the URL is ours to be kept. */
static bool set_up(const struct client *c, CURL *easy, const char *url)
{
    return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK && /* the server itself is meant */
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           /* On a connection used before, libcurl would ask again unseen when it is lost. */
           curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, c->headers) == CURLE_OK;
}

static bool set_up_call(const struct client *c, struct call *call, size_t len)
{
    CURL *easy = call->easy;
    return easy && set_up(c, easy, call->url) &&
           curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->request) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(c->p.timeout_s * 1e3)) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PRIVATE, call) == CURLE_OK &&
           curl_multi_add_handle(c->multi, easy) == CURLM_OK;
}

int client_ask(struct client *c, unsigned kind, uint64_t due_ns, bool chat, char *body, size_t len)
{
    struct call *call = calloc(1, sizeof *call);
    if (!call) {
        free(body);
        return -ENOMEM;
    }
    call->client = c;
    call->next = c->calls;
    if (c->calls)
        c->calls->before = call;
    c->calls = call;
    c->busy++;
    call->request = body;
    call->kind = kind;
    call->due_ns = due_ns;
    call->easy = curl_easy_init();
    stream_open(&call->stream, got_text, call);
    if (asprintf(&call->url, "%s/v1/%s", c->p.url, chat ? "chat/completions" : "completions") < 0)
        call->url = NULL;
    if (call->url && set_up_call(c, call, len))
        return 0;
    call_free(call);
    return -ENOMEM;
}

/* How many ended. */
static unsigned take_ended(struct client *c)
{
    unsigned n = 0;
    int left;
    for (const CURLMsg *m; (m = curl_multi_info_read(c->multi, &left)); n++) {
        struct call *call = NULL;
        const CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        finish(call, code);
    }
    return n;
}

int client_step(struct client *c, uint64_t until_ns)
{
    int running;
    if (curl_multi_perform(c->multi, &running) != CURLM_OK)
        return -EIO;
    if (take_ended(c))
        return 0;
    const uint64_t now_ns = port_now_ns();
    const uint64_t wait_ms = now_ns < until_ns ? (until_ns - now_ns + 999999) / 1000000 : 0;
    if (curl_multi_poll(c->multi, NULL, 0, wait_ms > POLL_MAX_MS ? POLL_MAX_MS : (int)wait_ms,
                        NULL) != CURLM_OK)
        return -EIO;
    if (curl_multi_perform(c->multi, &running) != CURLM_OK)
        return -EIO;
    take_ended(c);
    return 0;
}

int client_cut_off(struct client *c)
{
    int running;
    if (curl_multi_perform(c->multi, &running) != CURLM_OK)
        return -EIO;
    take_ended(c);
    while (c->calls)
        report(c->calls, CALL_UNDER_WAY, "");
    return 0;
}

/* --- models
 * --------------------------------------------------------------------------------------- */

struct body {
    char at[MODELS_MAX];
    size_t len;
};

static size_t gather(char *bytes, size_t one, size_t len, void *arg)
{
    struct body *b = arg;
    (void)one;
    if (len > MODELS_MAX - b->len)
        return 0;
    memcpy(b->at + b->len, bytes, len);
    b->len += len;
    return len;
}

static char *get_model(struct client *c, CURL *easy, struct body *b, char *why, size_t room)
{
    char said[STREAM_ERROR];
    long status = 0;
    const CURLcode code = curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (code != CURLE_OK) {
        snprintf(why, room, "%s", curl_easy_strerror(code));
        return NULL;
    }
    stream_error_of(b->at, b->len, said);
    if (status != 200) {
        snprintf(why, room, "HTTP status %ld%s%s", status, *said ? ": " : "", said);
        return NULL;
    }
    char *name = stream_first_model(b->at, b->len);
    if (!name)
        snprintf(why, room, "it names none");
    return name;
}

char *client_first_model(struct client *c, char *why, size_t room)
{
    CURL *easy = curl_easy_init();
    struct body *b = calloc(1, sizeof *b);
    char *url, *name = NULL;
    snprintf(why, room, "out of memory");
    if (asprintf(&url, "%s/v1/models", c->p.url) < 0)
        url = NULL;
    if (easy && b && url && set_up(c, easy, url) &&
        curl_easy_setopt(easy, CURLOPT_TIMEOUT, MODELS_MAX_S) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, gather) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, b) == CURLE_OK)
        name = get_model(c, easy, b, why, room);
    curl_easy_cleanup(easy);
    free(b);
    free(url);
    return name;
}
