/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of gateway_cost.py on this machine: microseconds of processor time of a thread that does
 * nothing but sleep until an eventfd is written, and send an event's bytes to each client. The thread
 * that writes it walks through memory in between, as an engine does; the clients are another process.
 *
 * usage: bench_wake [CLIENTS [STEPS [STEP_US]]]     CLIENTS 0: it only wakes
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 64
#define EVENT_BYTES 230 /* a token's, with the chunk around it */
#define WALK_BYTES  (96u << 20)
#define WARM_STEPS  10u

static int fds[CLIENTS_MAX], n_clients, bell;
static unsigned steps, step_us;
static atomic_bool stopping;

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* Of this thread, microseconds. */
static double spent_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void *send_all(void *arg)
{
    char bytes[EVENT_BYTES];
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    double from_us = 0;
    unsigned wakes = 0;
    must(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, bell, &event) == 0, "epoll");
    memset(bytes, 'x', sizeof bytes);
    for (; !atomic_load(&stopping); wakes++) {
        if (wakes == WARM_STEPS)
            from_us = spent_us();
        epoll_wait(epoll, &event, 1, -1);
        for (int i = 0; i < n_clients; i++)
            must(send(fds[i], bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) > 0, "send");
    }
    *(double *)arg = (spent_us() - from_us) / (wakes - WARM_STEPS);
    close(epoll);
    return NULL;
}

/* In a process of their own: read until all are closed. */
static void be_the_clients(const struct sockaddr_in *to)
{
    struct epoll_event events[CLIENTS_MAX];
    char bytes[65536];
    const int epoll = epoll_create1(0);
    int left = n_clients;
    for (int i = 0; i < n_clients; i++) {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        must(connect(fd, (const struct sockaddr *)to, sizeof *to) == 0, "connect");
        must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll");
    }
    while (left) {
        const int n = epoll_wait(epoll, events, CLIENTS_MAX, -1);
        for (int i = 0; i < n; i++) {
            if (recv(events[i].data.fd, bytes, sizeof bytes, 0) > 0)
                continue;
            close(events[i].data.fd);
            left--;
        }
    }
    _exit(0);
}

static pid_t start_clients(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    const int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(bind(listener, (const struct sockaddr *)&at, sizeof at) == 0 &&
             listen(listener, CLIENTS_MAX) == 0 &&
             getsockname(listener, (struct sockaddr *)&at, &n) == 0,
         "listen");
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    const pid_t child = fork();
    if (child == 0)
        be_the_clients(&at);
    for (int i = 0; i < n_clients; i++)
        must((fds[i] = accept(listener, NULL, NULL)) >= 0, "accept");
    close(listener);
    return child;
}

static void ring(void)
{
    const uint64_t one = 1;
    must(write(bell, &one, sizeof one) == sizeof one, "write");
}

/* As an engine: on one processor, its memory through the caches, then a token. */
static void walk_and_ring(void)
{
    volatile unsigned char *memory = malloc(WALK_BYTES);
    size_t at = 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    must(memory && sched_setaffinity(0, sizeof one, &one) == 0, "memory and processor");
    memset((void *)memory, 1, WALK_BYTES);
    for (unsigned i = 0; i < steps; i++) {
        const uint64_t end_us = now_us() + step_us;
        do
            for (unsigned k = 0; k < 1024; k++)
                (void)memory[at = (at + 64) % WALK_BYTES];
        while (now_us() < end_us);
        ring();
    }
    free((void *)memory);
}

int main(int argc, char **argv)
{
    double us;
    pthread_t thread;
    n_clients = argc > 1 ? atoi(argv[1]) : 1;
    steps = argc > 2 ? (unsigned)atoi(argv[2]) : 500;
    step_us = argc > 3 ? (unsigned)atoi(argv[3]) : 4000;
    if (n_clients < 0 || n_clients > CLIENTS_MAX || steps <= WARM_STEPS) {
        fprintf(stderr, "usage: bench_wake [CLIENTS [STEPS [STEP_US]]]\n");
        return 2;
    }
    const pid_t clients = start_clients();
    must((bell = eventfd(0, EFD_CLOEXEC)) >= 0, "eventfd");
    must(pthread_create(&thread, NULL, send_all, &us) == 0, "thread");
    walk_and_ring();
    atomic_store(&stopping, true);
    ring();
    pthread_join(thread, NULL);
    for (int i = 0; i < n_clients; i++)
        close(fds[i]);
    waitpid(clients, NULL, 0);
    printf("%2d clients  %6.1f us a wake", n_clients, us);
    if (n_clients)
        printf("  %6.1f us a token", us / n_clients);
    printf("\n");
    return 0;
}
