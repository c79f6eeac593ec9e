/* Compare: what two rows of numbers differ in
 *   sums[0..5] = sum b^2, sum t^2, sum d^2, sum b t, sum d, sum spacing(b)^2
 * with d = t - b in reals and everything added up in double; or, where `other` is d itself, t = b + d in double.
 *
 * Element i goes to partial sum i mod SUM_LANES, and the partial sums are folded in halves: the order depends on n
 * only. Products of floats are exact in double, so that every instruction set gives the same bits. */
#include <math.h>
#include <string.h>
#include "kernels/stored.h"

#define SUM_LANES 8
#define COMPARED ((size_t)1024) /* numbers that lie side by side as reals; a multiple of SUM_LANES */

/* As many doubles as a register holds, and as many reals. */
#define DOUBLES (VECTOR_BYTES / (int)sizeof(double))
typedef double vdouble __attribute__((vector_size(VECTOR_BYTES)));
typedef real vfew __attribute__((vector_size(DOUBLES * sizeof(real)), aligned(sizeof(real)), may_alias));

ALWAYS_INLINE vdouble doubles_at(const real *x) { return __builtin_convertvector(*(const vfew *)x, vdouble); }

/* 2^e of a normal number of exponent e, 0 of smaller ones. */
ALWAYS_INLINE real power_below(real x) {
#ifdef LLMC_DOUBLE
    union { double x; uint64_t bits; } u = {.x = x};
    u.bits &= (uint64_t)0x7ff << 52;
#else
    union { float x; uint32_t bits; } u = {.x = x};
    u.bits &= (uint32_t)0xff << 23;
#endif
    return u.x;
}

/* What of n numbers the order does not matter to: d, the spacing of b, and counts. Returns the largest |d|. */
ALWAYS_INLINE real compare_apart(Compared *c, real *restrict d, real *restrict spacing, const real *restrict b,
                                 const real *restrict o, int n, real least, const bool is_delta) {
    real top = 0;
    int changed = 0, odd = 0;
    #pragma omp simd reduction(+ : changed, odd) reduction(max : top)
    for (int i = 0; i < n; i++) {
        const real x = b[i], y = o[i], apart = is_delta ? y : y - x, size = (real)fabs(apart), power = power_below(x);
        const int differs = x != y, both_nan = (x != x) & (y != y);
        changed += is_delta ? y != 0 : differs & !both_nan;
        odd += !(fabs(x) < (real)INFINITY) + !(fabs(y) < (real)INFINITY);
        top = size > top ? size : top;
        d[i] = apart;
        spacing[i] = x == 0 ? 0 : power > least ? power : least;
    }
    c->changed += (size_t)changed;
    c->odd += (size_t)odd;
    return top;
}

/* Adds n numbers, a multiple of SUM_LANES, to the partial sums. */
ALWAYS_INLINE void compare_sums(vdouble (*restrict sum)[SUM_LANES / DOUBLES], const real *b, const real *o,
                                const real *d, const real *spacing, size_t n, const bool is_delta) {
    for (size_t i = 0; i < n; i += SUM_LANES)
        for (int part = 0; part < SUM_LANES / DOUBLES; part++) {
            const size_t at = i + (size_t)(part * DOUBLES);
            const vdouble x = doubles_at(b + at), apart = doubles_at(d + at), step = doubles_at(spacing + at);
            const vdouble y = is_delta ? x + apart : doubles_at(o + at);
            sum[0][part] += x * x;
            sum[1][part] += y * y;
            sum[2][part] += apart * apart;
            sum[3][part] += x * y;
            sum[4][part] += apart;
            sum[5][part] += step * step;
        }
}

/* Adds to what is known of each column. */
static void compare_columns(double *restrict columns, size_t C, const real *b, const real *o, const real *d, size_t n,
                            bool is_delta) {
    for (size_t i = 0; i < n; i++) columns[i] += (double)b[i] * (double)b[i];
    for (size_t i = 0; i < n; i++) {
        const double t = is_delta ? (double)b[i] + (double)d[i] : (double)o[i];
        columns[C + i] += t * t;
    }
    for (size_t i = 0; i < n; i++) columns[2 * C + i] += (double)d[i] * (double)d[i];
}

/* Numbers [first, first + n) of a row as reals, followed by zeros up to a multiple of SUM_LANES; in place where they
 * are reals and that many. */
static const real *compare_operand(real *room, const void *row, size_t first, size_t n, Storage storage) {
    const real *reals = (const real *)row + first;
    const size_t filled = (n + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
    if (storage == STORED_REAL && filled == n) return reals;
    size_t i = 0;
    if (storage == STORED_REAL) {
        memcpy(room, reals, n * sizeof *room);
    } else {
        const uint16_t *narrow = (const uint16_t *)row + first;
        for (; i + WIDTH <= n; i += WIDTH) *(vreal *)(void *)(room + i) = widen_bfloat16(narrow + i);
        for (; i < n; i++) room[i] = bfloat16_widen(narrow[i]);
    }
    for (i = n; i < filled; i++) room[i] = 0;
    return room;
}

/* The first place of the largest |d| of a stretch, where it is larger than any before. */
static void compare_top(Compared *c, real top, const real *d, size_t first, size_t n) {
    if (!(top > c->top)) return;
    c->top = top;
    for (size_t i = 0; i < n; i++) {
        if ((real)fabs(d[i]) != top) continue;
        c->at = first + i;
        return;
    }
}

ALWAYS_INLINE void compare_as(Compared *c, double *columns, real *delta, const void *base, Storage base_storage,
                              const void *other, Storage other_storage, size_t n, real least, const bool is_delta) {
    real room[4][COMPARED] __attribute__((aligned(64)));
    vdouble sum[6][SUM_LANES / DOUBLES] = {0};
    *c = (Compared){0};
    for (size_t first = 0; first < n; first += COMPARED) {
        const size_t count = n - first < COMPARED ? n - first : COMPARED;
        const size_t filled = (count + SUM_LANES - 1) / SUM_LANES * SUM_LANES;
        const real *b = compare_operand(room[0], base, first, count, base_storage);
        const real *o = compare_operand(room[1], other, first, count, other_storage);
        const real top = compare_apart(c, room[2], room[3], b, o, (int)filled, least, is_delta);
        compare_sums(sum, b, o, room[2], room[3], filled, is_delta);
        compare_top(c, top, room[2], first, count);
        if (columns) compare_columns(columns + first, n, b, o, room[2], count, is_delta);
        if (delta) memcpy(delta + first, room[2], count * sizeof *delta);
    }
    for (int s = 0; s < 6; s++) {
        double lane[SUM_LANES];
        memcpy(lane, sum[s], sizeof lane);
        for (int half = SUM_LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++) lane[j] += lane[j + half];
        c->sums[s] = lane[0];
    }
}

static void compare(Compared *c, double *columns, real *delta, const void *base, Storage base_storage,
                    const void *other, Storage other_storage, size_t n, real least, bool is_delta) {
    if (is_delta) compare_as(c, columns, delta, base, base_storage, other, other_storage, n, least, true);
    else compare_as(c, columns, delta, base, base_storage, other, other_storage, n, least, false);
}
