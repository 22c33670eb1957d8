/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread for each host that is being looked up, so that one whose name server is silent keeps
 * none of the others waiting. Not getaddrinfo_a: its threads have stacks of 64 kB, in which
 * ThreadSanitizer crashes and a resolver's plug-ins may not have enough.
 */
#include "dataplane/port/lookup.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/port.h"

#define LOOKUPS_MAX 32u          /* at once; what is done does not count */
#define FRESH_NS    10000000000u /* what was found may wait so long to be used */
#define STACK_BYTES (256u << 10)

struct lookup {
    struct lookup *next;
    char host[URI_NAME_MAX], service[8];
    bool done; /* below the lock, as what follows */
    uint64_t done_ns;
    int rc, error; /* getaddrinfo's, and errno */
    struct addrinfo *found;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct lookup *lookups;

static void write_service(const struct port_uri *u, char service[8])
{
    snprintf(service, 8, "%u", u->port);
}

static int look(const char *host, const char *service, struct addrinfo **found)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM, .ai_flags = AI_NUMERICSERV};

    *found = NULL;
    return getaddrinfo(host, service, &hints, found);
}

static void *run(void *arg)
{
    struct lookup *l = arg;
    struct addrinfo *found;

    pthread_setname_np(pthread_self(), "lookup");
    const int rc = look(l->host, l->service, &found), error = errno;

    pthread_mutex_lock(&lock);
    l->rc = rc;
    l->error = error;
    l->found = found;
    l->done_ns = port_now_ns();
    l->done = true; /* it may be freed from here on */
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* 0 or an error number: it is left to port_open then. Signals are for the thread that waits for
 * them. */
static int start(struct lookup *l)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    int rc = pthread_attr_init(&attr);

    if (rc)
        return rc;
    rc = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (!rc)
        rc = pthread_attr_setstacksize(&attr, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!rc)
        rc = pthread_create(&thread, &attr, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}

static void drop(struct lookup **at)
{
    struct lookup *l = *at;

    *at = l->next;
    if (l->found)
        freeaddrinfo(l->found);
    free(l);
}

/* Where the host's is; what nobody came for in time is dropped on the way. *n: not done yet. */
static struct lookup **find(const struct port_uri *u, unsigned *n)
{
    const uint64_t now_ns = port_now_ns();
    struct lookup **at = &lookups, **found = NULL;
    char service[8];

    write_service(u, service);
    *n = 0;
    while (*at) {
        struct lookup *l = *at;

        if (l->done && now_ns - l->done_ns > FRESH_NS) {
            drop(at);
            continue;
        }
        if (!strcmp(l->host, u->name) && !strcmp(l->service, service))
            found = at;
        *n += !l->done;
        at = &l->next;
    }
    return found;
}

/* False: there is no memory, or no thread, for it. */
static bool begin(const struct port_uri *u)
{
    struct lookup *l = calloc(1, sizeof *l);

    if (!l)
        return false;
    snprintf(l->host, sizeof l->host, "%s", u->name);
    write_service(u, l->service);
    if (start(l)) {
        free(l);
        return false;
    }
    l->next = lookups;
    lookups = l;
    return true;
}

bool port_looked_up(const char *uri)
{
    char err[PORT_ERR];
    struct lookup **at;
    struct port_uri u;
    bool ready = false;
    unsigned n;

    if (port_uri_parse(uri, &u, err) < 0 || !port_uri_has_name(&u))
        return true;
    pthread_mutex_lock(&lock);
    at = find(&u, &n);
    if (at)
        ready = (*at)->done;
    else if (n < LOOKUPS_MAX)
        ready = !begin(&u);
    pthread_mutex_unlock(&lock);
    return ready;
}

bool port_lookup_failed(const char *uri)
{
    char err[PORT_ERR];
    struct lookup **at;
    struct port_uri u;
    bool failed;
    unsigned n;

    if (port_uri_parse(uri, &u, err) < 0 || !port_uri_has_name(&u))
        return false;
    pthread_mutex_lock(&lock);
    at = find(&u, &n);
    failed = at && (*at)->done && (*at)->rc;
    pthread_mutex_unlock(&lock);
    return failed;
}

int lookup_take(const struct port_uri *u, struct addrinfo **found)
{
    struct lookup **at;
    char service[8];
    unsigned n;
    int rc, error;

    pthread_mutex_lock(&lock);
    at = find(u, &n);
    if (at && (*at)->done) {
        rc = (*at)->rc;
        error = (*at)->error;
        *found = (*at)->found;
        (*at)->found = NULL;
        drop(at);
        pthread_mutex_unlock(&lock);
        errno = error;
        return rc;
    }
    pthread_mutex_unlock(&lock);
    write_service(u, service);
    return look(u->name, service, found);
}
