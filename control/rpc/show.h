/* SPDX-License-Identifier: Apache-2.0 */
/* What a method answered, for people. */
#ifndef ISTHMUS_CONTROL_RPC_SHOW_H
#define ISTHMUS_CONTROL_RPC_SHOW_H

#include <jansson.h>
#include <stdio.h>

/* A list of objects as a table; an object as lines of name and value, the lists in it as tables
 * after them. */
void rpc_show(FILE *f, const json_t *result);

/* A list of texts, each as a line, whatever its length. */
void rpc_show_lines(FILE *f, const json_t *lines);

/* A value as a cell: bytes with their unit when the name ends in _bytes, "-" for null. Returns buf.
 */
#define SHOW_CELL 256
char *rpc_show_cell(const char *name, const json_t *v, char buf[SHOW_CELL]);

/* All of it to stdout, before the command goes on: EXIT_OK, or EXIT_FAILED with the error said.
 * Without a word where nobody reads any more, as in `isthmus top | head`: that is no error. */
int rpc_show_flush(void);

/* "12.3 MB". */
char *rpc_show_bytes(double bytes, char buf[SHOW_CELL]);

#endif
