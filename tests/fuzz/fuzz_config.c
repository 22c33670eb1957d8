/* SPDX-License-Identifier: Apache-2.0 */
/* A configuration file of whatever bytes, in an edge's and a cloud's tables, down to what is
 * parsed. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control/config/config.h"
#include "control/config/ini.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
    (void)key;
    (void)arg;
    (void)state;
    abort(); /* gathering runs no command's parser */
}

static const struct argp_option edge_options[] = {
    {"model", 'm', "FILE", 0, "A model", 0},
    {"port", 1000, "URI", 0, "Several", 0},
    {"insecure", 1001, NULL, 0, "A flag", 0},
    {"config", 1002, "FILE", 0, "Where from", 0},
    {0},
};
static const struct argp edge_argp = {edge_options, parse, NULL, NULL, NULL, NULL, NULL};
static const struct argp_option cloud_options[] = {{"lease", 1003, "S", 0, "How long", 0}, {0}};
static const struct argp cloud_argp = {cloud_options, parse, NULL, NULL, NULL, NULL, NULL};

const struct config_command config_commands[] = {
    {"edge", &edge_argp}, {"cloud", &cloud_argp}, {NULL, NULL}};

static void say(void *arg, const char *line)
{
    ++*(unsigned *)arg;
    assert(*line && !strchr(line, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[40];
    char *argv[] = {(char *)"isthmus edge", (char *)"--config", path, (char *)"--port=x", NULL};
    struct config c;
    unsigned faults = 0;
    const int fd = memfd_create("config", MFD_CLOEXEC);
    assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const int rc = config_gather(&config_commands[0], 4, argv, say, &faults, &c);
    assert((rc == 0) == (faults == 0));
    for (size_t i = 0; i < c.n_file; i++) {
        const struct config_entry *e = &c.list[i];
        assert(e->line > 0 && strcmp(e->option->name, "port") != 0);
        assert(e->option->arg ? *e->value : !e->value);
    }
    config_free(&c);
    close(fd);
    return 0;
}
