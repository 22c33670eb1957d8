/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a line of a suite: refused with a reason, or an item whose fields are sound. */
#include "control/eval/suite_line.h"

#include <stdlib.h>
#include <string.h>

static void check(int ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte chooses the suite, the rest is the line. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"hellaswag", "arc", "piqa"};
    char err[EVAL_SUITE_ERR] = "";

    if (size == 0)
        return 0;
    const struct eval_suite_kind *kind = eval_suite_kind(names[data[0] % 3]);
    json_t *line = eval_suite_parse(kind, (const char *)data + 1, size - 1, err);
    if (!line) {
        check(err[0] != '\0' && strlen(err) < sizeof err);
        return 0;
    }
    const json_t *choices = json_object_get(line, "choices");
    const size_t n = json_array_size(choices);
    check(json_string_length(json_object_get(line, "context")) > 0);
    check(n >= kind->min_choices && n <= kind->max_choices && n <= EVAL_CHOICES_MAX);
    for (size_t i = 0; i < n; i++)
        check(json_string_length(json_array_get(choices, i)) > 0);
    const json_int_t label = json_integer_value(json_object_get(line, "label"));
    check(label >= 0 && (size_t)label < n);
    json_decref(line);
    return 0;
}
