/* SPDX-License-Identifier: Apache-2.0 */
#include "control/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name, *mark;
    int priority; /* syslog's */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", "error: ", 3},
    [LOG_LEVEL_WARN] = {"warn", "warning: ", 4},
    [LOG_LEVEL_INFO] = {"info", "", 6},
    [LOG_LEVEL_DEBUG] = {"debug", "debug: ", 7},
};

static const char *log_name = "";
static atomic_int log_level = LOG_LEVEL_INFO;
static bool to_journal;
static void (*on_error)(const char *text);

void log_on_error(void (*said)(const char *text))
{
    on_error = said;
}

void log_set_name(const char *name)
{
    log_name = name;
}

void log_set_level(enum log_level level)
{
    atomic_store(&log_level, (int)level);
}

enum log_level log_get_level(void)
{
    return (enum log_level)atomic_load(&log_level);
}

int log_parse_level(const char *text)
{
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (strcmp(text, levels[i].name) == 0)
            return (int)i;
    return -1;
}

const char *log_level_name(enum log_level level)
{
    return levels[level].name;
}

/* $JOURNAL_STREAM names the file that systemd gave the unit; ours may be another by now. */
void log_begin(void)
{
    const char *journal = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;
    to_journal = journal && sscanf(journal, "%llu:%llu", &dev, &ino) == 2 &&
                 fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

/* One write per line, so that the lines of two processes on one terminal do not mix. */
static void log_line(enum log_level level, const char *fmt, va_list ap)
{
    char text[1024], priority[8] = "";
    if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    vsnprintf(text, sizeof text, fmt, ap);
    if (to_journal)
        snprintf(priority, sizeof priority, "<%d>", levels[level].priority);
    fprintf(stderr, "%sisthmus: %s%s%s\n", priority, log_name, levels[level].mark, text);
    if (level == LOG_LEVEL_ERROR && on_error)
        on_error(text);
}

void log_error(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(LOG_LEVEL_ERROR, fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(LOG_LEVEL_WARN, fmt, ap);
    va_end(ap);
}

void log_info(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(LOG_LEVEL_INFO, fmt, ap);
    va_end(ap);
}

void log_debug(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    log_line(LOG_LEVEL_DEBUG, fmt, ap);
    va_end(ap);
}
