/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an OpenAI server streams: server-sent events, each a JSON object with a piece of the answer,
 * the last of them "[DONE]". Bytes come as the network cuts them; none of them is trusted.
 */
#ifndef ISTHMUS_CONTROL_BENCH_SERVE_STREAM_H
#define ISTHMUS_CONTROL_BENCH_SERVE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_EVENT_MAX  (1u << 20) /* bytes of an event's data, and of a line */
#define STREAM_ERROR      200
#define STREAM_TOKENS_MAX 1000000000

struct stream {
    void (*on_text)(void *arg); /* an event brought text */
    void *arg;

    bool finished;                            /* a finish_reason came */
    bool done;                                /* [DONE] came: nothing after it counts */
    uint64_t texts;                           /* events that brought text */
    int64_t prompt_tokens, completion_tokens; /* of usage; -1: the server did not say */
    char error[STREAM_ERROR]; /* what the server said of its error, or what is wrong with its bytes
                               */

    int rc; /* of the first that failed */
    struct stream_bytes {
        char *at;
        size_t len, room;
    } line, data;
    bool has_data, after_cr;
};

/* All zero but on_text and arg is a stream at its beginning, after stream_open. */
void stream_open(struct stream *s, void (*on_text)(void *arg), void *arg);

/*
 * The next bytes. 0, or once and for all:
 *   -EBADMSG    no server-sent events, or no such JSON in them
 *   -EMSGSIZE   an event longer than STREAM_EVENT_MAX
 *   -EREMOTEIO  the server says that it failed
 *   -ENOMEM
 * with words in s->error.
 */
int stream_feed(struct stream *s, const char *bytes, size_t len);

/* The bytes ended. 0, -EPIPE (before the answer did), or what stream_feed said. */
int stream_end(struct stream *s);

void stream_close(struct stream *s);

/* The first model of the body of GET /v1/models, malloc'd; NULL: there is none. */
char *stream_first_model(const char *body, size_t len);

/* What the body of a refusal says, cut to STREAM_ERROR; "" where it says nothing. */
void stream_error_of(const char *body, size_t len, char error[STREAM_ERROR]);

#endif
