/* SPDX-License-Identifier: Apache-2.0 */
/* Text that arrives in pieces of bytes: tokens may end inside a UTF-8 sequence. */
#ifndef ISTHMUS_CONTROL_UTF8_H
#define ISTHMUS_CONTROL_UTF8_H

#include <stddef.h>

/* How many bytes of text[0,n) can be shown now: all but an unfinished sequence at the end. Bytes
 * that can never become valid count as shown. */
size_t utf8_ready(const char *text, size_t n);

/* A copy of text[0,n) with every invalid byte replaced by U+FFFD, NUL-terminated, malloc'd; NULL:
 * out of memory. NUL bytes stay; *out_n is the length. */
char *utf8_clean(const char *text, size_t n, size_t *out_n);

#endif
