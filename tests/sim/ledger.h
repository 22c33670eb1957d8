/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nonce ledger: every (key, nonce) that sealed something, and what it sealed, associated data
 * included. A pair that seals two different byte strings ends the program. It stands between keys
 * and AEAD by the linker's --wrap=aead_open and --wrap=aead_seal (ledger_link_args).
 */
#ifndef ISTHMUS_TESTS_SIM_LEDGER_H
#define ISTHMUS_TESTS_SIM_LEDGER_H

#include <stdint.h>

/* Forget all: between runs whose keys differ. */
void ledger_clear(void);
/* Seals seen since the program began, and how many of these were of a pair seen before. */
uint64_t ledger_seals(void);
uint64_t ledger_repeats(void);

#endif
