/* The total of a vector's lanes, halves added to halves. */
#pragma once
#include "kernels/transpose.h"

#define ACROSS(H, l) ((l) ^ (H))
#define FOLD(H)                                                                                                        \
    if (H < WIDTH) v += SHUFFLE(v, v, EACH_LANE(ACROSS, H));

ALWAYS_INLINE real lanes_total(vreal v) {
    FOLD(8)
    FOLD(4)
    FOLD(2)
    FOLD(1)
    return v[0];
}
