/* SPDX-License-Identifier: Apache-2.0 */
/* SIGINT, SIGTERM and SIGHUP as something a loop looks at, so that it can clean up. */
#ifndef ISTHMUS_CONTROL_SIGNALS_H
#define ISTHMUS_CONTROL_SIGNALS_H

#include <pthread.h>
#include <stdbool.h>

/* From now on they are remembered instead of ending the process, and interrupt what waits. Those
 * that were ignored stay so: a parent wanted that. SIGPIPE is ignored: a closed pipe shows when
 * writing. */
void signals_catch(void);

/* The last one that came; 0: none. */
int signals_caught(void);
/* Whether what is under way may end: nothing came, or one SIGTERM and no more. */
bool signals_let_end(void);
/* Whether nothing but ^C came. */
bool signals_only_interrupts(void);
void signals_forget(void);

/*
 * Of a process that serves: SIGINT and SIGTERM are counted, SIGHUP asks for another look at the
 * configuration, and each makes fd readable, an eventfd that the serving loop sleeps on
 * (port_wake_on). Before the fd is closed: signals_serve_end; signals are counted on.
 */
void signals_serve(int fd);
void signals_serve_end(void);
int signals_stops(void);        /* so far */
int signals_take_reloads(void); /* since the last call */

/* Starts a thread to which no signal comes: they are for the engine's. name: at most 15 bytes, what
 * `isthmus top` and ps show. 0 or -errno. The caller joins or detaches it. */
int signals_thread(pthread_t *thread, const char *name, void *(*run)(void *), void *arg);

#endif
