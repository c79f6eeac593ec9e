/* packing: which ranges of one block are taken at which times, and which one is free for a while. Its memory is the
 * plan's, and lasts until the next recording. */
#pragma once
#include "plan/plan.h"

typedef struct Packing Packing;

/* Nothing is taken yet. Much of what lasts long is there at the time `turn`. NULL: no memory, as the plan's error
 * says. */
Packing *packing_begin(Plan *plan, int times, int turn);
/* The lowest offset at which `size` numbers are free at all of the times [first, last]. It is found soon where they are
 * asked for by size, and of one size in the order of their first times. */
size_t packing_lowest(Packing *p, int first, int last, size_t size);
/* They are taken then. False: no memory, as the plan's error says. */
bool packing_take(Packing *p, int first, int last, size_t offset, size_t size);
