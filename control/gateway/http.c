/* SPDX-License-Identifier: Apache-2.0 */
/* What MHD calls: which endpoint, who asks, the body, the reply. */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "control/gateway/impl.h"
#include "dataplane/port.h"

#define INVALID "invalid_request_error"
#define MODELS  "/v1/models"

static const struct route {
    const char *path;
    enum endpoint at;
    bool post, open; /* open: without a key */
    enum api_kind kind;
} routes[] = {
    {"/v1/completions", AT_COMPLETIONS, true, false, API_COMPLETION},
    {"/v1/chat/completions", AT_CHAT, true, false, API_CHAT},
    {MODELS, AT_MODELS, false, false, 0},
    {"/healthz", AT_HEALTH, false, true, 0},
    {"/readyz", AT_READY, false, true, 0},
    {"/metrics", AT_METRICS, false, true, 0},
};

/* --- counting ----------------------------------------------------------------------------------- */

const unsigned gateway_codes[GATEWAY_CODES] = {200, 400, 401, 404, 405, 408, 413,
                                               429, 499, 500, 503, 0 /* others */};

void http_count(struct gateway *g, enum endpoint at, unsigned status)
{
    unsigned i = 0;
    while (gateway_codes[i] && gateway_codes[i] != status)
        i++;
    g->counts.requests[at][i]++;
}

/* --- replies ------------------------------------------------------------------------------------ */

static enum MHD_Result reply_with(struct exchange *x, unsigned status, const char *type,
                                  struct out *body)
{
    if (body->failed) {
        out_free(body);
        return MHD_NO;
    }
    struct MHD_Response *r =
        MHD_create_response_from_buffer(body->n, body->bytes, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        out_free(body);
        return MHD_NO;
    }
    *body = (struct out){.bytes = NULL};
    MHD_add_response_header(r, "Content-Type", type);
    if (status == 401)
        MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 405)
        MHD_add_response_header(r, "Allow", x->at == AT_COMPLETIONS || x->at == AT_CHAT
                                                ? "POST"
                                                : "GET, HEAD");
    if (x->ends_unsure)
        MHD_add_response_header(r, "Connection", "close");
    if (status == 429 || status == 503)
        MHD_add_response_header(r, "Retry-After", status == 429 ? "1" : "5");
    x->status = status;
    const enum MHD_Result rc = MHD_queue_response(x->connection, status, r);
    MHD_destroy_response(r);
    return rc;
}

enum MHD_Result http_reply(struct exchange *x, unsigned status, struct out *json)
{
    return reply_with(x, status, "application/json", json);
}

enum MHD_Result http_reply_error(struct exchange *x, const struct api_error *e)
{
    struct out o = {0};
    reply_error(&o, e);
    return http_reply(x, e->status, &o);
}

static void model_object(struct out *o, const struct gateway *g)
{
    out_text(o, "{\"id\":");
    out_string(o, g->model_id, strlen(g->model_id));
    out_format(o, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"isthmus\",",
               (long long)g->created_s);
    out_format(o, "\"context_length\":%u}", service_context_tokens(g->context.service));
}

static enum MHD_Result reply_models(struct exchange *x, const char *url)
{
    const struct gateway *g = x->g;
    const char *id = url + strlen(MODELS);
    struct out o = {0};
    if (*id == '\0') {
        out_text(&o, "{\"object\":\"list\",\"data\":[");
        model_object(&o, g);
        out_text(&o, "]}");
        return http_reply(x, 200, &o);
    }
    if (strcmp(id + 1, g->model_id) == 0) {
        model_object(&o, g);
        return http_reply(x, 200, &o);
    }
    struct api_error e;
    api_fail(&e, 404, INVALID, "model_not_found", "model", "the model '%.100s' is not served here",
             id + 1);
    return http_reply_error(x, &e);
}

static enum MHD_Result reply_ready(struct exchange *x)
{
    const char *why = "";
    const enum service_health health = service_health(x->g->context.service, &why);
    struct out o = {0};
    out_text(&o, health == SERVICE_READY ? "{\"status\":\"ready\"" : "{\"status\":\"not ready\"");
    out_text(&o, ",\"reason\":");
    out_string(&o, why, strlen(why));
    out_text(&o, "}\n");
    return http_reply(x, health == SERVICE_READY ? 200 : 503, &o);
}

static enum MHD_Result reply_get(struct exchange *x, const char *url)
{
    struct out o = {0};
    switch (x->at) {
    case AT_MODELS:
        return reply_models(x, url);
    case AT_READY:
        return reply_ready(x);
    case AT_METRICS:
        gateway_metrics(x->g, &o);
        return reply_with(x, 200, "text/plain; version=0.0.4; charset=utf-8", &o);
    default:
        out_text(&o, "{\"status\":\"ok\"}\n");
        return http_reply(x, 200, &o);
    }
}

/* --- who asks, and for what --------------------------------------------------------------------- */

static void name_by_address(struct exchange *x)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *at = i ? i->client_addr : NULL;
    if (!at || getnameinfo(at,
                           at->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                     : sizeof(struct sockaddr_in),
                           x->name, sizeof x->name, NULL, 0, NI_NUMERICHOST))
        strcpy(x->name, "?");
}

/* False: without a key of the file. Names who asks. */
static bool has_key(struct exchange *x)
{
    static const char bearer[] = "Bearer ";
    struct gateway *g = x->g;
    const char *auth =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Authorization");
    const char *key = auth && strncasecmp(auth, bearer, sizeof bearer - 1) == 0
                          ? auth + sizeof bearer - 1
                          : NULL;
    pthread_mutex_lock(&g->keys_lock);
    const bool anybody = !g->keys;
    const char *name = key && g->keys ? api_keys_find(g->keys, key, strlen(key)) : NULL;
    if (name)
        snprintf(x->name, sizeof x->name, "%s", name);
    pthread_mutex_unlock(&g->keys_lock);
    if (anybody)
        name_by_address(x);
    return anybody || name;
}

static const struct route *find_route(const char *url)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const size_t n = strlen(routes[i].path);
        if (strcmp(url, routes[i].path) == 0 ||
            (routes[i].at == AT_MODELS && strncmp(url, MODELS "/", n + 1) == 0))
            return &routes[i];
    }
    return NULL;
}

/* Whether the declared body is too large to be read at all. */
static bool is_enormous(const struct exchange *x)
{
    const char *length =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Content-Length");
    return length && strtoull(length, NULL, 10) > x->g->limits.body_bytes;
}

/* What is wrong with a request before its body is looked at: x->error. */
static void admit(struct exchange *x, const char *url, const char *method)
{
    const struct route *r = find_route(url);
    const bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    x->at = r ? r->at : AT_NOWHERE;
    if (!r) {
        api_fail(&x->error, 404, INVALID, "not_found", "", "there is nothing at %.100s", url);
    } else if (!r->open && !has_key(x)) {
        api_fail(&x->error, 401, "authentication_error", "invalid_api_key", "",
                 "an API key is needed: Authorization: Bearer KEY");
    } else if (r->post ? strcmp(method, "POST") != 0 : !get) {
        api_fail(&x->error, 405, INVALID, "method_not_allowed", "", "%.20s is not for %.100s",
                 method, url);
    } else {
        x->kind = r->kind;
    }
}

/* --- the body ----------------------------------------------------------------------------------- */

static void take_body(struct exchange *x, const char *upload, size_t n)
{
    if (x->error.status || x->client->state == CLIENT_REFUSED)
        return; /* it is only read past */
    if (n > x->g->limits.body_bytes - x->body.n)
        client_refuse(x->g, x->client, 413, "body_too_large", "the body is too large");
    else
        out_bytes(&x->body, upload, n);
}

static enum MHD_Result count_lengths(void *arg, enum MHD_ValueKind kind, const char *name,
                                     const char *value)
{
    (void)kind;
    (void)value;
    *(unsigned *)arg += strcasecmp(name, "Content-Length") == 0 ||
                        strcasecmp(name, "Transfer-Encoding") == 0;
    return MHD_YES;
}

/* Its body's length is said more than once: a proxy may take another to be true, and what follows for
 * part of the body, or the other way round (RFC 9112, 11.2). */
static bool is_ambiguous(struct MHD_Connection *c)
{
    unsigned n = 0;
    MHD_get_connection_values(c, MHD_HEADER_KIND, count_lengths, &n);
    return n > 1;
}

/* The head has come. */
static enum MHD_Result begin(struct gateway *g, struct MHD_Connection *c, const char *url,
                             const char *method, const char *version, void **exchange)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct client *client = info ? info->socket_context : NULL;
    struct exchange *x = client ? exchange_new(g, c, client) : NULL;
    if (!x)
        return MHD_NO;
    *exchange = x;
    x->chunked = strcmp(version, "HTTP/1.1") == 0;
    client_enter(client, CLIENT_BODY, port_now_ns());
    admit(x, url, method);
    x->ends_unsure = is_ambiguous(c);
    if (x->ends_unsure)
        api_fail(&x->error, 400, INVALID, "ambiguous_length", "",
                 "more than one of Content-Length and Transfer-Encoding");
    else if (is_enormous(x))
        api_fail(&x->error, 413, INVALID, "body_too_large", "", "a body may have up to %zu bytes",
                 g->limits.body_bytes);
    else
        return MHD_YES;
    client_enter(client, CLIENT_BUSY, port_now_ns());
    return http_reply_error(x, &x->error);
}

enum MHD_Result http_on_request(void *arg, struct MHD_Connection *c, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *n_upload, void **exchange)
{
    struct exchange *x = *exchange;
    if (!x)
        return begin(arg, c, url, method, version, exchange);
    if (*n_upload > 0) {
        take_body(x, upload, *n_upload);
        *n_upload = 0;
        return MHD_YES;
    }
    if (x->client->state == CLIENT_REFUSED)
        return MHD_NO;
    client_enter(x->client, CLIENT_BUSY, port_now_ns());
    if (x->answering)
        return exchange_resumed(x);
    if (x->error.status)
        return http_reply_error(x, &x->error);
    if (x->body.failed)
        return MHD_NO;
    return x->at == AT_COMPLETIONS || x->at == AT_CHAT ? exchange_answer(x) : reply_get(x, url);
}

void http_on_completed(void *arg, struct MHD_Connection *c, void **exchange,
                       enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *exchange;
    (void)c;
    if (!x)
        return;
    const bool refused = x->client->state == CLIENT_REFUSED;
    const bool gone = code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !refused;
    http_count(arg, x->at, gone || !x->status ? CLIENT_GONE : x->status);
    client_enter(x->client, CLIENT_IDLE, port_now_ns());
    *exchange = NULL;
    exchange_over(x);
}
