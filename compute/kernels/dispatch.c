/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/cpu.h"
#include "compute/kernels/internal.h"

const struct kernels_isa *kernels_isa_get(void)
{
#if defined(__x86_64__)
    unsigned flags = cpu_flags();

    if (flags & CPU_VNNI)
        return &kernels_isa_vnni;
    if (flags & CPU_AVX512)
        return &kernels_isa_avx512;
    if (flags & CPU_AVX2)
        return &kernels_isa_avx2;
#endif
    return &kernels_isa_c;
}

const struct kernels *kernels_get(void)
{
    return &kernels_isa_get()->rows;
}
