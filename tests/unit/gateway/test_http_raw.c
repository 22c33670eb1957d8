/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes that are no HTTP, or nearly: heads, chunks and pipelines that a seeded generator spoils,
 * cut up as the network might. Whatever comes back is a reply, no answer goes on without its
 * client, and the next client is served. Memory errors are the sanitizers' to find.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/cmd.h"
#include "control/gateway/gateway.h"
#include "echo.h"
#include "fake_service.h"

#define ROUNDS   1500
#define LIMIT_MS 20000 /* tells a hang from an end */
#define QUIET_MS 4     /* in which a spoilt request may be answered */
#define BYTES    16384u

static struct service *service;
static struct gateway *gateway;
static struct model model;

/* --- a gateway ----------------------------------------------------------------------------------
 */

static int open_all(void **state)
{
    static const struct fake_service_params fake = {.max_jobs = 64, .token_us = 100};
    (void)state;
    echo_model(&model);
    service = fake_open(&fake);
    const struct gateway_params params = {
        .service = service,
        .model = &model,
        .listen = "127.0.0.1:0",
        .limits = {.body_bytes = 4096, .header_ms = 500, .body_ms = 500, .idle_ms = 1000},
    };
    return gateway_open(&params, &gateway) == EXIT_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    gateway_close(gateway);
    fake_close(service);
    tok_close(model.tok);
    return 0;
}

static int dial(void)
{
    return echo_dial(gateway_port(gateway), 0);
}

/* --- what is sent -------------------------------------------------------------------------------
 */

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

struct bytes {
    char at[BYTES];
    size_t n;
};

static void insert(struct bytes *b, size_t where, const char *what, size_t n)
{
    if (b->n + n > sizeof b->at)
        return;
    memmove(b->at + where + n, b->at + where, b->n - where);
    memcpy(b->at + where, what, n);
    b->n += n;
}

#define BODY "{\"model\":\"echo\",\"prompt\":\"ab\",\"max_tokens\":4}"
static const char *const requests[] = {
    "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /healthz HTTP/1.0\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 45\r\n\r\n" BODY,
    "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    "10\r\n{\"model\":\"echo\",\r\n1f\r\n\"prompt\":\"ab\",\"max_tokens\":4}  \r\n0\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    "45\r\n\r\n" BODY,
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "DELETE /v1/models?a=%00&b=%zz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
};

static const char *const spoilers[] = {
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\r\n ",
    " ",
    "\t",
    ":",
    "%",
    "?&=&",
    "\xff",
    "HTTP/9.9",
    "HTTP/1.1 ",
    "Content-Length: 99999999999999999999\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 3\r\nContent-Length: 4\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: upgrade\r\n",
    "Expect: 200-ok\r\n",
    "ffffffffffffffff\r\n",
    "fffffffffffffffff\r\n",
    "-1\r\n",
    "0x5\r\n",
    "5;name=\"\r\n",
    "0\r\nTrailer: x\r\n\r\n",
    "Cookie: a=\"",
    "Host: y\r\n",
};

static void spoil(struct bytes *b)
{
    static char filler[8192];
    const size_t where = draw((uint32_t)b->n + 1), rest = b->n - where;
    const char *text = spoilers[draw(sizeof spoilers / sizeof *spoilers)];
    size_t n = draw(24);
    n = n < rest ? n : rest;
    switch (draw(7)) {
    case 0: /* another byte */
        if (rest)
            b->at[where] = (char)draw(256);
        break;
    case 1: /* some are missing */
        memmove(b->at + where, b->at + where + n, rest - n);
        b->n -= n;
        break;
    case 2: { /* some are there twice */
        char twice[24];
        memcpy(twice, b->at + where, n);
        insert(b, where, twice, n);
        break;
    }
    case 3: /* the end is missing */
        b->n = where;
        break;
    case 4: /* a head, or a target, that is long */
        memset(filler, 'a', sizeof filler);
        insert(b, where, filler, draw(sizeof filler));
        break;
    case 5:
        insert(b, where, "", 1);
        break;
    default:
        insert(b, where, text, strlen(text));
    }
}

static void make(struct bytes *b)
{
    b->n = 0;
    for (uint32_t i = 0, n = 1 + draw(3); i < n; i++) {
        const char *one = requests[draw(sizeof requests / sizeof *requests)];
        insert(b, b->n, one, strlen(one));
    }
    for (uint32_t i = 0, n = draw(5); i < n; i++)
        spoil(b);
}

/* --- what comes of it ---------------------------------------------------------------------------
 */

static void send_in_parts(int fd, const struct bytes *b)
{
    const struct timespec pause = {.tv_nsec = 200000};
    for (size_t at = 0; at < b->n;) {
        size_t n = draw(3) ? b->n - at : 1 + draw(40);
        n = n < b->n - at ? n : b->n - at;
        const ssize_t sent = send(fd, b->at + at, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* it was closed: as good an answer as any */
        at += (size_t)sent;
        if (!draw(4))
            nanosleep(&pause, NULL);
    }
}

/* A reply, if there is one: its first bytes. */
static void look(int fd, unsigned round)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char text[4096];
    size_t n = 0;
    while (n < sizeof text - 1 && poll(&p, 1, QUIET_MS) == 1) {
        const ssize_t got = recv(fd, text + n, sizeof text - 1 - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = '\0';
    if (n >= 12 &&
        (strncmp(text, "HTTP/1.", 7) != 0 || text[8] != ' ' || text[9] < '1' || text[9] > '5'))
        fail_msg("round %u: no reply is \"%.60s\"", round, text);
}

/* Nobody asks any more: nothing runs, and who comes is served. */
static void expect_served(unsigned round)
{
    static const char ask[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                              "Content-Length: 45\r\n\r\n" BODY;
    const struct timespec pause = {.tv_nsec = 1000000};
    for (unsigned ms = 0; fake_running(service); ms++) {
        if (ms == LIMIT_MS)
            fail_msg("round %u: an answer goes on without its client", round);
        nanosleep(&pause, NULL);
    }
    const int fd = dial();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char text[64] = "";
    assert_int_equal(send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL), sizeof ask - 1);
    if (poll(&p, 1, LIMIT_MS) != 1 || recv(fd, text, sizeof text - 1, 0) <= 0 ||
        strncmp(text, "HTTP/1.1 200 ", 13) != 0)
        fail_msg("round %u: the next client is not served: \"%s\"", round, text);
    close(fd);
}

static void test_spoilt(void **state)
{
    static struct bytes b;
    (void)state;
    assert_int_equal(strlen(BODY), 45); /* as the heads above say */
    seed = UINT64_C(0x15786d75731);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const int fd = dial();
        make(&b);
        send_in_parts(fd, &b);
        look(fd, round);
        close(fd);
        if (round % 100 == 99)
            expect_served(round);
    }
    expect_served(ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spoilt)};
    return cmocka_run_group_tests_name("gateway-http-raw", tests, open_all, close_all);
}
