/* SPDX-License-Identifier: Apache-2.0 */
#include "control/rpc/show.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

#define COLUMNS_MAX 32u

int rpc_show_flush(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_OK;
    if (errno != EPIPE)
        log_error("stdout: %s", strerror(errno ? errno : EIO));
    return EXIT_FAILED;
}

char *rpc_show_bytes(double bytes, char buf[SHOW_CELL])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    unsigned u = 0;
    for (; u < 4 && bytes >= 999.5; u++)
        bytes /= 1000;
    snprintf(buf, SHOW_CELL, u && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, units[u]);
    return buf;
}

static bool ends_in(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* What a terminal would obey is shown as a question mark: a client's name is the client's choice.
 */
static bool is_control(char c)
{
    return (unsigned char)c < ' ' || c == 0x7f;
}

static void copy_text(const char *text, char buf[SHOW_CELL])
{
    size_t n = 0;
    for (; text[n] && n < SHOW_CELL - 1; n++)
        buf[n] = is_control(text[n]) ? '?' : text[n];
    buf[n] = '\0';
}

char *rpc_show_cell(const char *name, const json_t *v, char buf[SHOW_CELL])
{
    const bool bytes = ends_in(name, "bytes");
    if (json_is_string(v))
        copy_text(json_string_value(v), buf);
    else if (json_is_number(v) && bytes)
        rpc_show_bytes(json_number_value(v), buf);
    else if (json_is_integer(v))
        snprintf(buf, SHOW_CELL, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v) && fabs(json_real_value(v)) >= 1000)
        snprintf(buf, SHOW_CELL, "%.0f", json_real_value(v));
    else if (json_is_real(v))
        snprintf(buf, SHOW_CELL, "%.4g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(buf, SHOW_CELL, json_is_true(v) ? "yes" : "no");
    else if (json_is_array(v) || json_is_object(v))
        snprintf(buf, SHOW_CELL, "...");
    if (!v || json_is_null(v) || !*buf)
        snprintf(buf, SHOW_CELL, "-");
    return buf;
}

/* "kv_budget_bytes" -> "kv budget" */
static char *heading(const char *name, char buf[SHOW_CELL])
{
    snprintf(buf, SHOW_CELL, "%s", name);
    if (ends_in(buf, "_bytes"))
        buf[strlen(buf) - strlen("_bytes")] = '\0';
    for (char *c = buf; *c; c++)
        if (*c == '_')
            *c = ' ';
    return buf;
}

/* Letters, not bytes: what follows the first byte of one takes no place. */
static int width(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_padded(FILE *f, const char *text, int columns, bool right)
{
    const int pad = columns - width(text);
    fprintf(f, "%*s%s", right && pad > 0 ? pad : 0, "", text);
    if (!right)
        fprintf(f, "%*s", pad > 0 ? pad : 0, "");
}

struct column {
    const char *name;
    int width;
    bool right;
};

static uint32_t columns_of(const json_t *list, struct column columns[COLUMNS_MAX])
{
    char buf[SHOW_CELL];
    const char *name;
    json_t *row, *v;
    uint32_t n = 0;
    size_t i;
    json_object_foreach(json_array_get(list, 0), name, v)
    {
        if (n == COLUMNS_MAX)
            break;
        columns[n++] = (struct column){name, width(heading(name, buf)), true};
    }
    json_array_foreach(list, i, row)
    {
        for (uint32_t k = 0; k < n; k++) {
            v = json_object_get(row, columns[k].name);
            const int w = width(rpc_show_cell(columns[k].name, v, buf));
            columns[k].width = w > columns[k].width ? w : columns[k].width;
            columns[k].right = columns[k].right && !json_is_string(v);
        }
    }
    return n;
}

static void show_table(FILE *f, const json_t *list)
{
    struct column columns[COLUMNS_MAX];
    char buf[SHOW_CELL];
    json_t *row;
    size_t i;
    const uint32_t n = columns_of(list, columns);
    if (!json_array_size(list)) {
        fprintf(f, "none\n");
        return;
    }
    for (uint32_t k = 0; k < n; k++) {
        print_padded(f, heading(columns[k].name, buf), columns[k].width, columns[k].right);
        fputs(k + 1 < n ? "  " : "\n", f);
    }
    json_array_foreach(list, i, row)
    {
        for (uint32_t k = 0; k < n; k++) {
            const json_t *v = json_object_get(row, columns[k].name);
            print_padded(f, rpc_show_cell(columns[k].name, v, buf), columns[k].width,
                         columns[k].right);
            fputs(k + 1 < n ? "  " : "\n", f);
        }
    }
}

static bool is_table(const json_t *v)
{
    return json_is_array(v) && (!json_array_size(v) || json_is_object(json_array_get(v, 0)));
}

static void show_object(FILE *f, const json_t *o, int indent)
{
    char buf[SHOW_CELL];
    const char *name;
    json_t *v;
    int widest = 0;
    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        const int w = json_is_object(v) || is_table(v) ? 0 : width(heading(name, buf));
        widest = w > widest ? w : widest;
    }
    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        if (is_table(v) || strcmp(name, "now_s") == 0) /* a clock, for rates */
            continue;
        fprintf(f, "%*s", indent, "");
        if (json_is_object(v)) {
            fprintf(f, "%s\n", heading(name, buf));
            show_object(f, v, indent + 4);
            continue;
        }
        print_padded(f, heading(name, buf), widest, false);
        fprintf(f, "  %s\n", rpc_show_cell(name, v, buf));
    }
    json_object_foreach((json_t *)(uintptr_t)o, name, v)
    {
        if (!is_table(v))
            continue;
        fprintf(f, "\n%*s%s\n", indent, "", heading(name, buf));
        show_table(f, v);
    }
}

void rpc_show_lines(FILE *f, const json_t *lines)
{
    json_t *line;
    size_t i;
    json_array_foreach(lines, i, line)
    {
        for (const char *c = json_string_value(line); c && *c; c++)
            fputc(is_control(*c) ? '?' : *c, f);
        fputc('\n', f);
    }
}

void rpc_show(FILE *f, const json_t *result)
{
    char buf[SHOW_CELL];
    if (is_table(result))
        show_table(f, result);
    else if (json_is_object(result))
        show_object(f, result, 0);
    else
        fprintf(f, "%s\n", rpc_show_cell("", result, buf));
}
