/* SPDX-License-Identifier: Apache-2.0 */
/*
 * API keys: a file of `NAME KEY` lines, # for comments. Only digests are kept, so that a key is
 * neither in memory nor in a core dump; what is presented is compared with all of them, in a time
 * that tells nothing.
 */
#ifndef ISTHMUS_CONTROL_GATEWAY_KEYS_H
#define ISTHMUS_CONTROL_GATEWAY_KEYS_H

#include <stddef.h>

#define API_KEYS_ERR  200
#define API_KEY_NAME  48u   /* bytes of a name, with the zero */
#define API_KEY_MIN   16u   /* bytes of a key */
#define API_KEY_MAX   256u
#define API_KEYS_MAX  4096u

struct api_keys;

/* err says the line, never what stands in it. 0, -EBADMSG or -ENOMEM. At least one key. */
int api_keys_parse(const char *text, size_t n, struct api_keys **out, char *err);

/* The same of a file, which others must not be able to read. Also -EACCES for that, or open's. */
int api_keys_read(const char *path, struct api_keys **out, char *err);
void api_keys_free(struct api_keys *k);

/* Whose key it is; NULL: nobody's. */
const char *api_keys_find(const struct api_keys *k, const char *key, size_t n);

#endif
