/* SPDX-License-Identifier: Apache-2.0 */
#include "codec/levels.h"

#include <string.h>

#define FORBIDDEN_COST (255u * 256)

static void init_costs(struct levels *l, unsigned table)
{
    const uint8_t *freq = l->tables[table].freq;

    for (unsigned s = 0; s < RANS_SYMBOLS; s++) {
        const unsigned as = freq[s] ? s : 0;
        const unsigned cost = rans_cost[freq[as]] + (as ? 0 : LEVEL_ESCAPE_COST);
        l->coded_as[table][s] = (uint8_t)as;
        l->cost_low[table][s] = (uint8_t)cost;
        l->cost_high[table][s] = (uint8_t)(cost >> 8);
    }
}

void levels_init(struct levels *l)
{
    memset(l, 0, sizeof(*l));
    rans_family_init(l->tables);
    for (unsigned k = 0; k < RANS_FAMILY; k++)
        init_costs(l, k);
    memset(l->cost_high[TABLE_NONE], FORBIDDEN_COST >> 8, RANS_SYMBOLS);
    l->cost_high[TABLE_NONE][8] = 0; /* of the value 0 */
    l->table[0] = TABLE_NONE;
    for (unsigned i = 1; i < LEVEL_INDICES; i++) {
        int level = LEVEL_OFF + (int)i - 1;
        for (; level > LEVEL_MAX; level -= 4)
            l->shift[i]++;
        l->table[i] = (uint8_t)((level < LEVEL_MIN ? LEVEL_MIN : level) - LEVEL_MIN);
    }
}
