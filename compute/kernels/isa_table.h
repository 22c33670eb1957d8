/* SPDX-License-Identifier: Apache-2.0 */
/* The panel functions of every type and the table of one ISA, made from PANEL_FN(type, kind),
 * which defines mul_<kind>_<type>. Included once by each ISA's file. */

#define QUANTIZED_TYPES(F, kind)                                                                   \
    F(Q4_0, kind)                                                                                  \
    F(Q4_1, kind)                                                                                  \
    F(Q5_0, kind)                                                                                  \
    F(Q5_1, kind)                                                                                  \
    F(Q8_0, kind)                                                                                  \
    F(Q4_K, kind)                                                                                  \
    F(Q5_K, kind)                                                                                  \
    F(Q6_K, kind)
#define FLOAT_TYPES(F, kind)                                                                       \
    F(F32, kind)                                                                                   \
    F(F16, kind)                                                                                   \
    F(BF16, kind)

QUANTIZED_TYPES(PANEL_FN, int)
QUANTIZED_TYPES(PANEL_FN, word)
QUANTIZED_TYPES(PANEL_FN, float)
FLOAT_TYPES(PANEL_FN, float)

#define TABLE_ENTRY(type, kind) [LAYOUT_##type] = mul_##kind##_##type,
#define KERNELS_ISA_TABLE(isa_name)                                                                \
    {                                                                                              \
        .rows = {.name = isa_name,                                                                 \
                 .rmsnorm = rmsnorm,                                                               \
                 .silu_mul = silu_mul,                                                             \
                 .rope = rope,                                                                     \
                 .f32_to_f16 = f32_to_f16,                                                         \
                 .f16_to_f32 = f16_to_f32,                                                         \
                 .logsumexp = logsumexp,                                                           \
                 .attend = ATTEND_KERNELS},                                                        \
        .quantize = quantize,                                                                      \
        .mul = {QUANTIZED_TYPES(TABLE_ENTRY, int) FLOAT_TYPES(TABLE_ENTRY, float)},                \
        .mul_int16 = {QUANTIZED_TYPES(TABLE_ENTRY, word) FLOAT_TYPES(TABLE_ENTRY, float)},         \
        .mul_f32 = {QUANTIZED_TYPES(TABLE_ENTRY, float) FLOAT_TYPES(TABLE_ENTRY, float)},          \
        .scheme = {[ACTS_INT8] = SCHEME_FNS(int),                                                  \
                   [ACTS_F32] = SCHEME_FNS(float),                                                 \
                   [ACTS_INT16] = SCHEME_FNS(word)},                                               \
        .sparse = sparse_add, .finish = finish,                                                    \
    }
