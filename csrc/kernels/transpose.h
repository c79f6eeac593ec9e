/* A square of vectors in registers, its rows made columns. */
#pragma once
#include "kernels/tile.h"

/* All lanes of a vector: F(H, 0), F(H, 1), ... */
#define LANES_2(F, H, l) F(H, l), F(H, l + 1)
#define LANES_4(F, H, l) LANES_2(F, H, l), LANES_2(F, H, l + 2)
#define LANES_8(F, H, l) LANES_4(F, H, l), LANES_4(F, H, l + 4)
#define LANES_16(F, H, l) LANES_8(F, H, l), LANES_8(F, H, l + 8)
#ifdef LLMC_DOUBLE
typedef int64_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#define LANE_BYTES 8
#else
typedef int32_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#define LANE_BYTES 4
#endif
#if VECTOR_BYTES / LANE_BYTES == 16
#define EACH_LANE(F, H) LANES_16(F, H, 0)
#elif VECTOR_BYTES / LANE_BYTES == 8
#define EACH_LANE(F, H) LANES_8(F, H, 0)
#elif VECTOR_BYTES / LANE_BYTES == 4
#define EACH_LANE(F, H) LANES_4(F, H, 0)
#else
#define EACH_LANE(F, H) LANES_2(F, H, 0)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vlane){__VA_ARGS__})
#endif

/* Rows i and i + H of every 2H x 2H block swap the H x H blocks off its diagonal. */
#define UPPER(H, l) (((l) & (H)) ? (l) - (H) + WIDTH : (l))
#define LOWER(H, l) (((l) & (H)) ? (l) + WIDTH : (l) + (H))
#define SWAP_BLOCKS(H)                                                                                                 \
    if (H < WIDTH) {                                                                                                   \
        _Pragma("GCC unroll 16") for (int i = 0; i < WIDTH; i++) if (!(i & H)) {                                       \
            const vreal upper = rows[i], lower = rows[i + H];                                                          \
            rows[i] = SHUFFLE(upper, lower, EACH_LANE(UPPER, H));                                                      \
            rows[i + H] = SHUFFLE(upper, lower, EACH_LANE(LOWER, H));                                                  \
        }                                                                                                              \
    }

/* WIDTH rows of WIDTH units become columns, in log2(WIDTH) rounds. */
ALWAYS_INLINE void transpose_rows(unit *out, size_t ldo, vreal *rows) {
    SWAP_BLOCKS(1)
    SWAP_BLOCKS(2)
    SWAP_BLOCKS(4)
    SWAP_BLOCKS(8)
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) vstore((real *)out + i * ldo, rows[i]);
}
