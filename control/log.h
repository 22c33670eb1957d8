/* SPDX-License-Identifier: Apache-2.0 */
/* What is said to people: one line each, on stderr. */
#ifndef ISTHMUS_CONTROL_LOG_H
#define ISTHMUS_CONTROL_LOG_H

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Put in front of every line, e.g. "cloud: ". Static string; "" by default. */
void log_set_name(const char *name);

#endif
