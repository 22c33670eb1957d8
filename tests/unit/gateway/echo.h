/* SPDX-License-Identifier: Apache-2.0 */
/* A model of nothing but a tokenizer of bytes, for gateways before a fake service; and their
 * clients. */
#ifndef ISTHMUS_TESTS_GATEWAY_ECHO_H
#define ISTHMUS_TESTS_GATEWAY_ECHO_H

#include "control/model.h"

/* A setup's work; tok_close(m->tok) undoes it. */
void echo_model(struct model *m);

/* Connected to a port of this host. receive_bytes: of the socket's buffer; 0: as the system has it. */
int echo_dial(unsigned port, int receive_bytes);

#endif
