/* SPDX-License-Identifier: Apache-2.0 */
#include "control/table.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/cmd.h"
#include "control/log.h"

int table_parse_format(const char *text, enum table_format *f)
{
    static const char *const names[] = {"md", "csv", "jsonl"};

    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *f = (enum table_format)i;
            return 0;
        }
    }
    return -EINVAL;
}

static int end_line(void)
{
    if (putchar('\n') != EOF && fflush(stdout) == 0)
        return EXIT_OK;
    log_error("stdout: %s", strerror(errno));
    return EXIT_FAILED;
}

int table_head(enum table_format f, const struct table_column *columns)
{
    if (f == TABLE_JSONL)
        return EXIT_OK;
    for (const struct table_column *c = columns; c->name; c++) {
        if (f == TABLE_CSV)
            printf("%s%s", c == columns ? "" : ",", c->name);
        else if (c->heading)
            printf("| %s ", c->heading);
    }
    if (f == TABLE_MD) {
        printf("|\n");
        for (const struct table_column *c = columns; c->name; c++)
            if (c->heading)
                printf(c->digits == TABLE_TEXT || c->digits == TABLE_BOOL ? "|---" : "|---:");
        printf("|");
    }
    return end_line();
}

static bool empty(const struct table_column *c, const struct table_cell *cell)
{
    return c->digits == TABLE_TEXT ? !cell->text : !isfinite(cell->value);
}

static const char *truth(const struct table_cell *cell)
{
    return cell->value != 0 ? "true" : "false";
}

static json_t *json_cell(const struct table_column *c, const struct table_cell *cell)
{
    if (empty(c, cell))
        return json_null();
    switch (c->digits) {
    case TABLE_TEXT:
        return json_string(cell->text);
    case TABLE_COUNT:
        return json_integer((json_int_t)cell->value);
    case TABLE_BOOL:
        return json_boolean(cell->value != 0);
    default:
        return json_real(cell->value);
    }
}

static int json_row(const struct table_column *columns, const struct table_cell *cells)
{
    json_t *o = json_object();
    int rc = o ? 0 : -1;

    for (unsigned i = 0; columns[i].name && rc == 0; i++)
        rc = json_object_set_new(o, columns[i].name, json_cell(&columns[i], &cells[i]));
    char *line = rc == 0 ? json_dumps(o, JSON_REAL_PRECISION(6)) : NULL;
    json_decref(o);
    if (!line) {
        log_error("out of memory");
        return EXIT_FAILED;
    }
    fputs(line, stdout);
    free(line);
    return end_line();
}

/* Quoted where it has to be. */
static void csv_text(const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        printf("%s", text);
        return;
    }
    putchar('"');
    for (; *text; text++)
        printf(*text == '"' ? "\"\"" : "%c", *text);
    putchar('"');
}

static void csv_cell(const struct table_column *c, const struct table_cell *cell)
{
    if (empty(c, cell))
        return;
    if (c->digits == TABLE_TEXT)
        csv_text(cell->text);
    else if (c->digits == TABLE_BOOL)
        printf("%s", truth(cell));
    else
        printf("%.*g", c->digits == TABLE_COUNT ? 15 : 6, cell->value);
}

static void md_cell(const struct table_column *c, const struct table_cell *cell)
{
    if (empty(c, cell))
        printf("| - ");
    else if (c->digits == TABLE_TEXT)
        printf("| %s ", cell->text);
    else if (c->digits == TABLE_BOOL)
        printf("| %s ", truth(cell));
    else if (c->digits == TABLE_REAL)
        printf("| %.6g ", cell->value);
    else
        printf("| %.*f ", c->digits == TABLE_COUNT ? 0 : c->digits, cell->value);
}

int table_row(enum table_format f, const struct table_column *columns,
              const struct table_cell *cells)
{
    if (f == TABLE_JSONL)
        return json_row(columns, cells);
    for (unsigned i = 0; columns[i].name; i++) {
        if (f == TABLE_CSV) {
            printf("%s", i ? "," : "");
            csv_cell(&columns[i], &cells[i]);
        } else if (columns[i].heading) {
            md_cell(&columns[i], &cells[i]);
        }
    }
    printf(f == TABLE_MD ? "|" : "");
    return end_line();
}
