/* SPDX-License-Identifier: Apache-2.0 */
#include "control/log.h"

#include <stdarg.h>
#include <stdio.h>

static const char *log_name = "";

void log_set_name(const char *name)
{
    log_name = name;
}

/* One write per line, so that the lines of two processes on one terminal do not mix. */
static void log_line(const char *level, const char *fmt, va_list ap)
{
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    fprintf(stderr, "isthmus: %s%s%s\n", log_name, level, text);
}

void log_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("error: ", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("warning: ", fmt, ap);
    va_end(ap);
}

void log_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line("", fmt, ap);
    va_end(ap);
}
