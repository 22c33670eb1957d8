/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcurl, loaded when it is first needed: it brings 27 libraries and takes 4 MB of a process, of
 * which an edge at work has no use. After libcurl_load its functions are called as always.
 */
#ifndef ISTHMUS_CONTROL_LIBCURL_H
#define ISTHMUS_CONTROL_LIBCURL_H

#define CURL_DISABLE_TYPECHECK
#include <curl/curl.h>

#define LIBCURL_CALLS(X)                                                                           \
    X(curl_global_init)                                                                            \
    X(curl_global_cleanup)                                                                         \
    X(curl_easy_init)                                                                              \
    X(curl_easy_setopt)                                                                            \
    X(curl_easy_perform)                                                                           \
    X(curl_easy_getinfo)                                                                           \
    X(curl_easy_cleanup)                                                                           \
    X(curl_easy_strerror)                                                                          \
    X(curl_multi_init)                                                                             \
    X(curl_multi_add_handle)                                                                       \
    X(curl_multi_remove_handle)                                                                    \
    X(curl_multi_perform)                                                                          \
    X(curl_multi_poll)                                                                             \
    X(curl_multi_info_read)                                                                        \
    X(curl_multi_cleanup)                                                                          \
    X(curl_slist_append)                                                                           \
    X(curl_slist_free_all)

struct libcurl {
#define X(name) __typeof__(name) *name;
    LIBCURL_CALLS(X)
#undef X
};
extern struct libcurl libcurl;

/* Load it, once however often it is asked for, and initialise it. Not by two threads at once. 0, or
 * -ENOENT with words in *why (static). */
int libcurl_load(const char **why);

#ifndef LIBCURL_ITSELF
#undef curl_easy_setopt
#undef curl_easy_getinfo
#define curl_easy_init           libcurl.curl_easy_init
#define curl_easy_setopt         libcurl.curl_easy_setopt
#define curl_easy_perform        libcurl.curl_easy_perform
#define curl_easy_getinfo        libcurl.curl_easy_getinfo
#define curl_easy_cleanup        libcurl.curl_easy_cleanup
#define curl_easy_strerror       libcurl.curl_easy_strerror
#define curl_multi_init          libcurl.curl_multi_init
#define curl_multi_add_handle    libcurl.curl_multi_add_handle
#define curl_multi_remove_handle libcurl.curl_multi_remove_handle
#define curl_multi_perform       libcurl.curl_multi_perform
#define curl_multi_poll          libcurl.curl_multi_poll
#define curl_multi_info_read     libcurl.curl_multi_info_read
#define curl_multi_cleanup       libcurl.curl_multi_cleanup
#define curl_slist_append        libcurl.curl_slist_append
#define curl_slist_free_all      libcurl.curl_slist_free_all
#endif

#endif
