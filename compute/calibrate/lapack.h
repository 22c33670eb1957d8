/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_LAPACK_H
#define ISTHMUS_COMPUTE_CALIBRATE_LAPACK_H

#include <errno.h>
#include <lapacke.h>

/* What a LAPACKE function returned: 0, -ENOMEM, or -EDOM for a problem without a solution. */
static inline int lapack_errno(lapack_int rc)
{
    if (rc == LAPACK_WORK_MEMORY_ERROR || rc == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return -ENOMEM;
    return rc ? -EDOM : 0;
}

#endif
