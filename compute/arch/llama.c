/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/arch/arch.h"

/* Llama 1-3, SmolLM2, Mistral. GGUF stores q and k permuted for interleaved pairs. */
const struct arch arch_llama = {
    .name = "llama",
    .rope_neox = false,
    .qkv_bias = false,
};
