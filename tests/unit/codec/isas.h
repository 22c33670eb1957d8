/* SPDX-License-Identifier: Apache-2.0 */
/* The C kernels, and those of every instruction set to be compared with them. */
#ifndef ISTHMUS_TESTS_CODEC_ISAS_H
#define ISTHMUS_TESTS_CODEC_ISAS_H

#include <stdio.h>

#include "codec/cpu.h"
#include "codec/dsp.h"

static struct codec_dsp ref;
static struct isa {
    const char *name;
    struct codec_dsp dsp;
} isas[4];
static size_t n_isas;

/* emulated: puts the emulated AVX-512 kernels in place; NULL: none were built. */
static inline void list_isas(void (*emulated)(struct codec_dsp *dsp))
{
    const unsigned have = cpu_detect();

    codec_dsp_init(&ref, 0);
    if (have & CPU_AVX2) {
        isas[n_isas].name = "avx2";
        codec_dsp_init(&isas[n_isas++].dsp, CPU_AVX2);
#if defined(__x86_64__)
        isas[n_isas].name = cpu_pext_is_fast() ? "avx2, PEXT not used" : "avx2, PEXT used";
        codec_dsp_init(&isas[n_isas].dsp, CPU_AVX2);
        tsq_dsp_init_avx2(&isas[n_isas++].dsp, !cpu_pext_is_fast());
#endif
    }
    if (have & CPU_AVX512) {
        isas[n_isas].name = "avx512";
        codec_dsp_init(&isas[n_isas++].dsp, CPU_AVX2 | CPU_AVX512);
    }
    if (emulated && have & CPU_AVX2) { /* its 256-bit parts are native */
        isas[n_isas].name = "avx512 (emulated)";
        codec_dsp_init(&isas[n_isas].dsp, CPU_AVX2);
        emulated(&isas[n_isas++].dsp);
    }
    for (size_t i = 0; i < n_isas; i++)
        printf("isa: %s\n", isas[i].name);
}

#endif
