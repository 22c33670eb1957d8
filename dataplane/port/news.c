/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/port.h"

#include <stdarg.h>
#include <stdio.h>

static void (*listener)(const char *line);

void port_on_news(void (*say)(const char *line))
{
    listener = say;
}

void port_tell(const char *format, ...)
{
    char line[PORT_ERR];
    va_list args;

    if (!listener)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    listener(line);
}
