/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/arch.h"

/* Qwen2, Qwen2.5 and their Coder and Math kin. */
const struct arch arch_qwen2 = {
    .name = "qwen2",
    .rope_neox = true,
    .qkv_bias = true,
};
