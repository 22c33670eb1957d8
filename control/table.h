/* SPDX-License-Identifier: Apache-2.0 */
/* Results on stdout, line by line: for people or for programs. */
#ifndef ISTHMUS_CONTROL_TABLE_H
#define ISTHMUS_CONTROL_TABLE_H

enum table_format { TABLE_MD, TABLE_CSV, TABLE_JSONL };

struct table_column {
    const char *name;    /* for programs: csv's header, JSON's key */
    const char *heading; /* for people; NULL: not in the Markdown table */
    int digits;          /* of a number behind the point, in Markdown; or one of those below */
};
#define TABLE_TEXT  (-1)
#define TABLE_COUNT (-2) /* a whole number */
#define TABLE_REAL  (-3) /* six digits wherever the point is, in Markdown too */
#define TABLE_BOOL  (-4) /* value is 0 or 1 */

/* Nothing to tell (a text of NULL, a number that is not finite) is "-" in Markdown, empty in csv
 * and null in JSON. */
struct table_cell {
    const char *text;
    double value;
};

/* "md", "csv" or "jsonl". 0 or -EINVAL. */
int table_parse_format(const char *text, enum table_format *f);

/* columns up to one without a name; a row has a cell for each. EXIT_OK, or EXIT_FAILED, said on
 * stderr. */
int table_head(enum table_format f, const struct table_column *columns);
int table_row(enum table_format f, const struct table_column *columns,
              const struct table_cell *cells);

#endif
