/* SPDX-License-Identifier: Apache-2.0 */
#include "control/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/*
 * The sequence at s[0,n), n > 0, after Unicode table 3-7: its length when valid; 0 when it is the
 * valid beginning of one that n cuts off; -1 when it can never be valid.
 */
static int sequence(const unsigned char *s, size_t n)
{
    const unsigned char b = s[0];
    if (b < 0x80)
        return 1;
    const int len = b >= 0xc2 && b <= 0xdf   ? 2
                    : (b & 0xf0) == 0xe0     ? 3
                    : b >= 0xf0 && b <= 0xf4 ? 4
                                             : 0;
    if (len == 0)
        return -1;
    if (n > 1) {
        /* The second byte also rules out overlong forms, surrogates and what lies past U+10FFFF. */
        const unsigned char lo = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
        const unsigned char hi = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
        if (s[1] < lo || s[1] > hi)
            return -1;
    }
    for (int i = 2; i < len && (size_t)i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return -1;
    return (size_t)len <= n ? len : 0;
}

size_t utf8_ready(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        const int len = sequence(s + i, n - i);
        if (len == 0)
            break;
        i += len < 0 ? 1 : (size_t)len;
    }
    return i;
}

char *utf8_clean(const char *text, size_t n, size_t *out_n)
{
    const unsigned char *s = (const unsigned char *)text;
    char *out = malloc(3 * n + 1);
    if (!out)
        return NULL;
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        const int len = sequence(s + i, n - i);
        if (len > 0) {
            memcpy(out + o, s + i, (size_t)len);
            o += (size_t)len;
            i += (size_t)len;
        } else {
            memcpy(out + o, "\xef\xbf\xbd", 3);
            o += 3;
            i++;
        }
    }
    out[o] = '\0';
    *out_n = o;
    return out;
}
