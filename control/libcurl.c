/* SPDX-License-Identifier: Apache-2.0 */
#define LIBCURL_ITSELF
#include "control/libcurl.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define NAME "libcurl.so.4"

struct libcurl libcurl;

/* A function's address is an object's to dlsym, which ISO C does not let one convert. */
static bool find(void *library, const char *name, void *call)
{
    void *at = dlsym(library, name);
    memcpy(call, &at, sizeof at);
    return at;
}

int libcurl_load(const char **why)
{
    static bool loaded;
    if (loaded)
        return 0;
    *why = NAME " is not here: install the package libcurl4";
    void *library = dlopen(NAME, RTLD_NOW | RTLD_LOCAL); /* for the life of the process */
    if (!library)
        return -ENOENT;
    *why = NAME " lacks what is needed of it";
#define X(name)                                                                                    \
    if (!find(library, #name, &libcurl.name))                                                      \
        return -ENOENT;
    LIBCURL_CALLS(X)
#undef X
    if (libcurl.curl_global_init(CURL_GLOBAL_DEFAULT))
        return -ENOENT;
    loaded = true;
    return 0;
}
