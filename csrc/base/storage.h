/* Storage: how numbers lie in memory: as reals, or narrower where nobody trains them. */
#pragma once
#include <string.h>
#include "base/real.h"

typedef enum {
    STORED_REAL,
    STORED_BFLOAT16, /* the upper half of a float */
    STORED_INT8,     /* times a scale that GROUP numbers share */
} Storage;

#define GROUP 64

/* A matrix of weights as it lies in memory. Narrower than reals the inputs of an output lie side by side, whichever way
 * round its file has them: few rows of x meet it in dot products, and a scale belongs to neighbours. */
typedef struct {
    Storage storage;
    bool transposed;         /* a parameter (I,O), which lies as (O,I) */
    void *data;
    size_t stride;       /* between the rows as they lie, in numbers */
    float *scales;       /* int8 alone: (O,I/GROUP), one for GROUP inputs of an output */
    size_t scale_stride;
} Stored;

static inline size_t storage_bytes(Storage s) {
    return s == STORED_REAL ? sizeof(real) : s == STORED_BFLOAT16 ? 2 : 1;
}

static inline float bfloat16_widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest, ties to even; NaN stays NaN, and subnormals become zeros, as the processors' own instruction has it. */
static inline uint16_t bfloat16_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    if (!(bits & 0x7f800000)) return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
