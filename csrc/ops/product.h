/* product: how an op multiplies tensors: operands, the tiles of a result, a B packed once for all of them. */
#pragma once
#include "ops/slices.h"

/* Output tiles of a product: large enough that packing is cheap, small enough that there is work to share. Their sides
 * are whole panels of every register tile, so that only the last of a product has panels that are not full. */
typedef struct {
    int M, N, tile_m, tile_n, across, count;
} Tiles;

#define TILE_ROWS 48    /* what a transposed operand is packed by, at once */
#define PANEL_ROWS 12
#define TILE_COLUMNS 64
_Static_assert(TILE_COLUMNS % GROUP == 0, "an int8 matrix is cut between groups");
#define TILE_MOST 512
#define TILES_ENOUGH 16

/* A side cut into equal pieces, each whole grains long. */
static inline int piece_of(int side, int pieces, int grain) {
    return slice_count((size_t)side, (size_t)pieces * (size_t)grain) * grain;
}

static inline int tile_count(int M, int N, int m, int n) {
    return slice_count((size_t)M, (size_t)m) * slice_count((size_t)N, (size_t)n);
}

static inline Tiles tiles_of(int M, int N) {
    const int grain = M < 4 * TILE_ROWS ? PANEL_ROWS : TILE_ROWS;
    int m = piece_of(M, slice_count((size_t)M, TILE_MOST), grain);
    int n = piece_of(N, slice_count((size_t)N, TILE_MOST), TILE_COLUMNS);
    while (tile_count(M, N, m, n) < TILES_ENOUGH && (m >= 2 * TILE_ROWS || n >= 2 * TILE_COLUMNS)) {
        if (n < 2 * TILE_COLUMNS || (m >= 2 * TILE_ROWS && m >= n)) m = piece_of(m, 2, grain);
        else n = piece_of(n, 2, TILE_COLUMNS);
    }
    return (Tiles){M, N, m, n, slice_count((size_t)N, (size_t)n), tile_count(M, N, m, n)};
}

typedef struct {
    int m, n, rows, cols; /* first row and column, and how many */
} Tile;

static inline Tile tile_at(const Tiles *t, size_t index) {
    int m = (int)index / t->across * t->tile_m, n = (int)index % t->across * t->tile_n;
    int rows = t->M - m < t->tile_m ? t->M - m : t->tile_m;
    int cols = t->N - n < t->tile_n ? t->N - n : t->tile_n;
    return (Tile){m, n, rows, cols};
}

/* One product cut into tiles: out (M,N) = A B (+ bias). */
typedef struct {
    real *out;
    size_t ldo;
    Matrix A, B;
    const real *bias; /* NULL: none */
    int K;
    bool accumulate;
    Tiles tiles;
    Packed packed;    /* B, where it was packed beforehand */
} Product;

static inline Product product(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K,
                              bool accumulate) {
    return (Product){out, ldo, A, B, bias, K, accumulate, tiles_of(M, N), {NULL, K, N}};
}

#define DEPTH_EACH (2 * WHOLE_CHAINS) /* between two looks at Ctrl-C */

static inline void multiply_tile(const Product *p, Tile t, real *out, size_t ldo, Exec *x, int slot) {
    size_t m = (size_t)t.m, n = (size_t)t.n;
    const bool packed = p->packed.units != NULL;
    const int each =
        t.rows <= FEW_ROWS && !packed && p->K > 0 ? p->K : DEPTH_EACH; /* few rows are soon done, and read on */
    for (int k = 0; (k < p->K || k == 0) && pool_going(x->cancel, slot); k += each) {
        const Matrix A = matrix_at(p->A, m, (size_t)k);
        const real *bias = p->bias && k == 0 ? p->bias + n : NULL;
        const int depth = p->K - k < each ? p->K - k : each;
        const bool add = p->accumulate || k > 0;
        real *work = scratch_of(x, slot);
        if (packed) x->k->gemm_packed(out, ldo, A, p->packed, k, t.n, bias, t.rows, t.cols, depth, add, work);
        else x->k->gemm(out, ldo, A, matrix_at(p->B, (size_t)k, n), bias, t.rows, t.cols, depth, add, work);
    }
}

static inline void product_tile(const Product *p, size_t index, Exec *x, int slot) {
    Tile t = tile_at(&p->tiles, index);
    multiply_tile(p, t, p->out + (size_t)t.m * p->ldo + t.n, p->ldo, x, slot);
}

/* The same, written in bfloat16 through spare_of() reals of scratch behind gemm's own. */
static inline size_t spare_of(const Tiles *t) { return (size_t)t->tile_m * (size_t)t->tile_n; }

static inline void product_tile_bfloat16(const Product *p, uint16_t *half, size_t index, Exec *x, int slot) {
    Tile t = tile_at(&p->tiles, index);
    real *spare = scratch_of(x, slot) + x->k->gemm_work;
    multiply_tile(p, t, spare, (size_t)t.cols, x, slot);
    for (int i = 0; i < t.rows; i++)
        x->k->round(half + (size_t)(t.m + i) * p->ldo + t.n, spare + (size_t)i * (size_t)t.cols, (size_t)t.cols);
}

/* --- a B that many tiles share is packed once
 * ------------------------------------------------------------------------- */
#define SHARED_LEAST 3                     /* rows of tiles that make it worth while */
#define SHARED_MOST ((size_t)32 << 20)     /* bytes */

/* Reals of workspace that a packed B takes; 0: it is packed tile by tile. */
static inline size_t shared_size(const Kernels *k, int M, int N, int K) {
    Tiles tiles = tiles_of(M, N);
    size_t size = k->packed_size(K, N);
    return slice_count((size_t)M, (size_t)tiles.tile_m) < SHARED_LEAST || size > SHARED_MOST / sizeof(real) ? 0 : size;
}

typedef struct {
    const Product *p;
    Exec *x;
} Sharing;

static inline void share_columns(void *context, size_t index, int slot) {
    (void)slot;
    const Sharing *s = context;
    Slice columns = slice_at((size_t)s->p->tiles.N, TILE_COLUMNS, index);
    s->x->k->pack(s->p->packed.units, s->p->B, s->p->K, s->p->tiles.N, (int)columns.first, (int)columns.count);
}

/* Packs B into the workspace from `at` on, where shared_size says so. Returns the reals taken. */
static inline size_t share_operand(Product *p, Exec *x, real *at) {
    size_t size = shared_size(x->k, p->tiles.M, p->tiles.N, p->K);
    if (size == 0) return 0;
    p->packed.units = at;
    Sharing sharing = {p, x};
    parallel(x, (size_t)slice_count((size_t)p->tiles.N, TILE_COLUMNS), share_columns, &sharing);
    return size;
}

/* A tensor as an operand, as it is or transposed. */
static inline Matrix operand(const Tensor *t, bool transposed) {
    if (t->is_bfloat16)
        return (Matrix){.data = t->bfloat16, .stride = t->stride, .transposed = transposed, .storage = STORED_BFLOAT16};
    return t->narrow ? matrix_stored(t->narrow, transposed) : matrix_of(t->data, t->stride, transposed);
}
