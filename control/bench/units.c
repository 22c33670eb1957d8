/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bench/units.h"

#include <stdint.h>

#include "codec/cpu.h"

#define ROUNDS 4000

#define OPS(macs) (2.0 * (macs)*ROUNDS)

#if defined(__x86_64__)

#define CLOBBERED                                                                                  \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* Zeroes first: numbers that happen to be tiny could slow floating point down. */
#define UNITS_LOOP(function, reg, body)                                                            \
    static void function(void)                                                                     \
    {                                                                                              \
        __asm__ volatile(".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"                          \
                         "vpxor %%xmm\\r, %%xmm\\r, %%xmm\\r\n"                                    \
                         ".endr\n" ::                                                              \
                             : CLOBBERED);                                                         \
        for (int i = 0; i < ROUNDS; i++)                                                           \
            __asm__ volatile(body ::: CLOBBERED);                                                  \
        __asm__ volatile("vzeroupper" ::: CLOBBERED);                                              \
    }

/* A block of 32 columns as kernels of 4-bit codes sum it: eight groups of four columns whose pairs
 * stay within 16 bits, then widened. Four such blocks side by side. */
#define MADD_BLOCKS(reg)                                                                           \
    ".irp r,0,1,2,3\n"                                                                             \
    "vpmaddubsw %%" reg "12, %%" reg "13, %%" reg "\\r\n"                                          \
    ".endr\n"                                                                                      \
    ".rept 7\n"                                                                                    \
    ".irp r,0,1,2,3\n"                                                                             \
    "vpmaddubsw %%" reg "12, %%" reg "13, %%" reg "15\n"                                           \
    "vpaddw %%" reg "15, %%" reg "\\r, %%" reg "\\r\n"                                             \
    ".endr\n"                                                                                      \
    ".endr\n"                                                                                      \
    ".irp r,0,1,2,3\n"                                                                             \
    "vpmaddwd %%" reg "14, %%" reg "\\r, %%" reg "\\r\n"                                           \
    ".endr\n"                                                                                      \
    "vpaddd %%" reg "0, %%" reg "4, %%" reg "4\n"                                                  \
    "vpaddd %%" reg "1, %%" reg "5, %%" reg "5\n"                                                  \
    "vpaddd %%" reg "2, %%" reg "6, %%" reg "6\n"                                                  \
    "vpaddd %%" reg "3, %%" reg "7, %%" reg "7\n"
#define TWELVE(instruction, reg)                                                                   \
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n" instruction " %%" reg "12, %%" reg "13, %%" reg "\\r\n"   \
    ".endr\n"

UNITS_LOOP(dot_avx2, "ymm", MADD_BLOCKS("ymm"))
UNITS_LOOP(dot_avx512, "zmm", MADD_BLOCKS("zmm"))
UNITS_LOOP(dot_vnni, "zmm", TWELVE("vpdpbusd", "zmm"))
UNITS_LOOP(fma_avx2, "ymm", TWELVE("vfmadd231ps", "ymm"))
UNITS_LOOP(fma_avx512, "zmm", TWELVE("vfmadd231ps", "zmm"))

#endif

/* Whatever the compiler has on every machine of this kind: 16-byte vectors. */
#define PLAIN_LOOP(function, type)                                                                 \
    static void function(void)                                                                     \
    {                                                                                              \
        typedef type vec __attribute__((vector_size(16)));                                         \
        static volatile type sink;                                                                 \
        vec sum[8] = {{0}}, a = {0}, b[8] = {{0}};                                                 \
        for (int i = 0; i < ROUNDS; i++) {                                                         \
            __asm__ volatile("" : "+m"(a), "+m"(b));                                               \
            for (int k = 0; k < 8; k++)                                                            \
                sum[k] += a * b[k];                                                                \
        }                                                                                          \
        for (int k = 1; k < 8; k++)                                                                \
            sum[0] += sum[k];                                                                      \
        sink = sum[0][0];                                                                          \
        (void)sink;                                                                                \
    }

PLAIN_LOOP(dot_plain, uint16_t)
PLAIN_LOOP(fma_plain, float)

static const struct units_loop loops[] = {
    {"16-bit products of 16-byte vectors", 0, false, OPS(8 * 8), dot_plain},
    {"products of 16-byte vectors", 0, true, OPS(8 * 4), fma_plain},
#if defined(__x86_64__)
    {"vpmaddubsw, vpaddw; an eighth vpmaddwd, vpaddd", CPU_AVX2, false, OPS(4 * 8 * 32), dot_avx2},
    {"vfmadd231ps ymm", CPU_AVX2, true, OPS(12 * 8), fma_avx2},
    {"vpmaddubsw, vpaddw; an eighth vpmaddwd, vpaddd", CPU_AVX2 | CPU_AVX512, false,
     OPS(4 * 8 * 64), dot_avx512},
    {"vfmadd231ps zmm", CPU_AVX2 | CPU_AVX512, true, OPS(12 * 16), fma_avx512},
    {"vpdpbusd zmm", CPU_ALL, false, OPS(12 * 64), dot_vnni},
#endif
};

unsigned units_loops(void)
{
    return sizeof(loops) / sizeof(loops[0]);
}

const struct units_loop *units_loop(unsigned nth)
{
    return &loops[nth];
}
