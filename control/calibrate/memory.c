/* SPDX-License-Identifier: Apache-2.0 */
#include "control/calibrate/memory.h"

#include "compute/backprop.h"
#include "compute/calibrate/calibrate.h"
#include "control/cmd.h"
#include "control/eval/text.h"
#include "control/log.h"
#include "control/meminfo.h"

int calibrate_check_memory(const struct model *m, uint32_t split, uint32_t tokens, uint32_t cols,
                           uint32_t samples, unsigned threads)
{
    const double available = (double)meminfo("MemAvailable") * 1024;
    const size_t windows = tokens / EVAL_WINDOW, workers = threads < windows ? threads : windows;
    const size_t row = cols * sizeof(float);
    size_t weights, work;
    char err[GGUF_ERR] = "";

    if (backprop_footprint(m->gguf, split, EVAL_WINDOW, samples, &weights, &work, err) < 0) {
        log_error("%s", err);
        return EXIT_USAGE;
    }
    work += EVAL_WINDOW * samples * (row + sizeof(int32_t)); /* a window's gradients and ids */
    const size_t data = tokens * (row * (1 + (size_t)samples) + sizeof(uint32_t));
    const size_t gradients = weights + workers * work, statistics = calibrate_bytes(tokens, cols);
    /* One after the other. The curves, the last, take less than the gradients did. */
    const double most = (double)data + (double)(gradients > statistics ? gradients : statistics);

    if (available == 0 || most <= available)
        return EXIT_OK;
    log_error("calibration needs %.1f GB of memory and %.1f GB are available: rows and gradients "
              "of %u tokens %.1f GB, weights behind the split %.1f GB, %.1f GB for each of %zu "
              "threads: take fewer of --chunks, --samples or --threads",
              most / 1e9, available / 1e9, tokens, (double)data / 1e9, (double)weights / 1e9,
              (double)work / 1e9, workers);
    return EXIT_FAILED;
}
