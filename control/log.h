/* SPDX-License-Identifier: Apache-2.0 */
/* What is said to people: one line each, on stderr. Any thread. */
#ifndef ISTHMUS_CONTROL_LOG_H
#define ISTHMUS_CONTROL_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* not said by default */

/* Called with the text of every error once it was said; NULL: nobody. While one thread runs. */
void log_on_error(void (*said)(const char *text));

/* Put in front of every line, e.g. "cloud: ". Static string; "" by default. */
void log_set_name(const char *name);

/* What is said: this and what is worse. LOG_LEVEL_INFO at first. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "error", "warn", "info" or "debug"; -1: none of them. */
int log_parse_level(const char *text);
const char *log_level_name(enum log_level level);

/* Once, before the first line: where stderr is the journal's, lines begin with their priority. */
void log_begin(void);

#endif
