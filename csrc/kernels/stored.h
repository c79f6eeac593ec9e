/* Reading the numbers of a matrix from how they are stored. `storage` is a constant at every call. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/widen.h"

#define FETCH 64 /* bytes that come from memory together */

static inline int smaller(int a, int b) { return a < b ? a : b; }

typedef float vfloat __attribute__((vector_size(WIDTH * 4)));

/* The scale of the number at (row, col), as stored. */
static inline const float *stored_scale(const Matrix *m, size_t row, size_t col) {
    return m->scales + row * m->scale_stride + col / GROUP;
}

/* A number without its scale. */
ALWAYS_INLINE real unscaled_number(const Matrix *m, size_t row, size_t col, const Storage storage) {
    const size_t i = row * m->stride + col;
    if (storage == STORED_BFLOAT16) return bfloat16_widen(((const uint16_t *)m->data)[i]);
    return storage == STORED_INT8 ? ((const int8_t *)m->data)[i] : ((const real *)m->data)[i];
}

ALWAYS_INLINE real stored_number(const Matrix *m, size_t row, size_t col, const Storage storage) {
    const real x = unscaled_number(m, row, col, storage);
    return storage == STORED_INT8 ? (float)x * *stored_scale(m, row, col) : x;
}

/* WIDTH numbers of a stored row without their scales. */
ALWAYS_INLINE vreal unscaled_vector(const Matrix *m, size_t row, size_t col, const Storage storage) {
    const size_t i = row * m->stride + col;
    if (storage == STORED_BFLOAT16) return widen_bfloat16((const uint16_t *)m->data + i);
    if (storage == STORED_INT8) return widen_int8((const int8_t *)m->data + i);
    return vload((const real *)m->data + i);
}

/* WIDTH numbers of a stored row. Of int8: col is a multiple of WIDTH. */
ALWAYS_INLINE vreal stored_vector(const Matrix *m, size_t row, size_t col, const Storage storage) {
    const vreal x = unscaled_vector(m, row, col, storage);
    if (storage != STORED_INT8) return x;
    const vfloat q = __builtin_convertvector(x, vfloat);
    return __builtin_convertvector(q * *stored_scale(m, row, col), vreal);
}

ALWAYS_INLINE void prefetch_stored(const Matrix *m, size_t row, size_t col) {
    __builtin_prefetch((const char *)m->data + (row * m->stride + col) * storage_bytes(m->storage), 0, 2);
}

/* Runs `call`, which names `storage`, with it as a constant. */
#define FOR_STORAGE(of, call)                                                                                          \
    switch (of) {                                                                                                      \
        case STORED_REAL: { const Storage storage = STORED_REAL; call; } break;                                        \
        case STORED_BFLOAT16: { const Storage storage = STORED_BFLOAT16; call; } break;                                \
        case STORED_INT8: { const Storage storage = STORED_INT8; call; } break;                                        \
    }
