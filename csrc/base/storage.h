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

/* A matrix of weights as it lies in memory, row-major. */
typedef struct {
    Storage storage;
    void *data;
    float *scales;       /* int8 alone: one for GROUP inputs of an output: (O,I/GROUP), or (I/GROUP,O) if inputs_first */
    size_t scale_stride;
    bool inputs_first;   /* its rows are inputs */
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
