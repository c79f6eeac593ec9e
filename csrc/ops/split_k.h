/* deep: a product whose depth is far beyond the sides of its result is cut along the depth.
 *
 * Cut into tiles, a small result would leave every task as much to pack as to multiply, and have it read its operands
 * in narrow strips. A part multiplies whole rows of both over its share of the depth, into its place in the workspace;
 * the parts are added in order afterwards. */
#pragma once
#include "ops/product.h"

#define SPLIT_DEPTH WHOLE_CHAINS
#define SPLITS_MOST 8
#define SPLITS_LEAST 4          /* fewer do not share the work better than tiles */
#define SPLIT_SIZE (1024 * 1024) /* larger results make tiles that pack well */

/* count 1: the product is not deep. */
typedef struct {
    int count, depth;
} SplitK;

static inline SplitK split_of(size_t M, size_t N, size_t K) {
    size_t most = K / SPLIT_DEPTH < SPLITS_MOST ? K / SPLIT_DEPTH : SPLITS_MOST;
    if (most < SPLITS_LEAST || M * N > SPLIT_SIZE) return (SplitK){1, (int)K};
    size_t depth = (K + most * SPLIT_DEPTH - 1) / (most * SPLIT_DEPTH) * SPLIT_DEPTH;
    return (SplitK){slice_count(K, depth), (int)depth};
}

/* Reals that the parts of a product take. */
static inline size_t split_size(size_t M, size_t N, size_t K) {
    SplitK parts = split_of(M, N, K);
    return parts.count > 1 ? (size_t)parts.count * M * N : 0;
}

/* The index-th part of p, without bias, into place + index * M * N. */
static inline void product_part(const Product *p, SplitK parts, real *place, size_t index, Exec *x, int slot) {
    Slice depth = slice_at((size_t)p->K, (size_t)parts.depth, index);
    int M = p->tiles.M, N = p->tiles.N;
    Product part = product(place + index * (size_t)M * (size_t)N, (size_t)N, matrix_at(p->A, 0, depth.first),
                           matrix_at(p->B, depth.first, 0), NULL, M, N, (int)depth.count, false);
    part.tiles = (Tiles){M, N, M, N, 1, 1};
    product_tile(&part, 0, x, slot);
}

/* The index-th slice of the elements of p's result, whose rows follow each other, from its parts at `place`. */
static inline void add_splits_slice(const Product *p, SplitK parts, const real *place, size_t index, const Exec *x) {
    size_t size = (size_t)p->tiles.M * (size_t)p->tiles.N;
    Slice e = slice_at(size, ELEMENTS_EACH, index);
    real *out = p->out + e.first;
    const real *part = place + e.first;
    int i = p->accumulate ? 0 : 2;
    if (!p->accumulate) x->k->add(out, part, part + size, e.count);
    for (; i < parts.count; i++) x->k->accumulate(out, part + (size_t)i * size, e.count);
}
