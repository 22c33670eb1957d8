/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "../model/vocab_build.h"
#include "echo.h"

static const struct vocab_token tokens[] = {{"<|im_start|>", 3}, {"<|im_end|>", 3}};
static const struct vocab vocab = {
    .model = "gpt2",
    .pre = "gpt-2",
    .chat =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
    .tokens = tokens,
    .n_tokens = 2,
    .lost_byte = -1,
    .eos = 257,
};

void echo_model(struct model *m)
{
    struct build b = {0};
    struct gguf *g;
    char err[GGUF_ERR];
    vocab_file(&b, &vocab);
    if (gguf_open_mem(b.bytes, b.n, "the file", &g, err) < 0 || tok_open(g, &m->tok, err) < 0)
        fail_msg("%s", err);
    gguf_close(g);
    free(b.bytes);
    m->path = "/models/echo.gguf";
}

int echo_dial(unsigned port, int receive_bytes)
{
    const struct sockaddr_in to = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (receive_bytes)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    return fd;
}
