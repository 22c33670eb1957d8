/* SPDX-License-Identifier: Apache-2.0 */
#include "control/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

static volatile sig_atomic_t caught, n_caught, n_interrupts;
static atomic_int wake_fd = -1, stops, reloads;

static void on_signal(int sig)
{
    caught = sig;
    n_caught++;
    n_interrupts += sig == SIGINT;
}

static void on_serving_signal(int sig)
{
    const int before = errno, fd = atomic_load(&wake_fd);
    const uint64_t one = 1;
    atomic_fetch_add(sig == SIGHUP ? &reloads : &stops, 1);
    if (fd >= 0 && write(fd, &one, sizeof one) < 0) {
        /* full: it is readable already */
    }
    errno = before;
}

void signals_catch(void)
{
    static const int stopping[] = {SIGINT, SIGTERM, SIGHUP};
    const struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: waits end */
    for (size_t i = 0; i < sizeof stopping / sizeof *stopping; i++) {
        struct sigaction before;
        sigaction(stopping[i], NULL, &before);
        if (before.sa_handler != SIG_IGN)
            sigaction(stopping[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

int signals_caught(void)
{
    return caught;
}

bool signals_let_end(void)
{
    return !n_caught || (n_caught == 1 && caught == SIGTERM);
}

bool signals_only_interrupts(void)
{
    return n_caught == n_interrupts;
}

void signals_forget(void)
{
    caught = n_caught = n_interrupts = 0;
}

void signals_serve(int fd)
{
    /* Waits of the engine's thread end by the descriptor, whichever thread a signal comes to. */
    const struct sigaction action = {.sa_handler = on_serving_signal, .sa_flags = SA_RESTART};
    atomic_store(&wake_fd, fd);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    if (caught == SIGINT || caught == SIGTERM) /* after the last look at signals_caught */
        on_serving_signal(SIGTERM);
}

void signals_serve_end(void)
{
    atomic_store(&wake_fd, -1);
}

int signals_stops(void)
{
    return atomic_load(&stops);
}

int signals_take_reloads(void)
{
    return atomic_exchange(&reloads, 0);
}

int signals_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int rc = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        pthread_setname_np(*thread, name);
    return -rc;
}
