/* Sums and maxima of a row, in an order that depends on its length only.
 *
 * Element i goes to lane i mod LANES, and the lanes are folded in halves: the same bits for every address and vector
 * width, and a rounding error that grows with n / LANES instead of n. */
#pragma once
#include <math.h>
#include "kernels/lane_sum.h"

#define LANES ((size_t)64)

static inline real lanes_sum(const real *lane) {
    vreal sum[LANES / WIDTH];
    for (size_t i = 0; i < LANES / WIDTH; i++) sum[i] = vload(lane + i * WIDTH);
    for (size_t half = LANES / WIDTH / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) sum[i] += sum[i + half];
    return lanes_total(sum[0]);
}

/* sum_i x[i] */
static inline real row_sum(const real *x, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += x[i];
    return lanes_sum(lane);
}

/* sum_i a[i] b[i] */
static inline real row_dot(const real *a, const real *b, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += a[i + j] * b[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += a[i] * b[i];
    return lanes_sum(lane);
}

/* sum_i a[i] b[i] c[i] */
static inline real row_dot3(const real *a, const real *b, const real *c, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += a[i + j] * b[i + j] * c[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += a[i] * b[i] * c[i];
    return lanes_sum(lane);
}

/* max_i x[i], -inf for an empty row. A NaN may be overlooked: it shows in the sum that always follows. */
static inline real row_max(const real *x, size_t n) {
    real lane[LANES];
    for (size_t j = 0; j < LANES; j++) lane[j] = -(real)INFINITY;
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] = lane[j] > x[i + j] ? lane[j] : x[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] = lane[i - whole] > x[i] ? lane[i - whole] : x[i];
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++) lane[j] = lane[j] > lane[j + half] ? lane[j] : lane[j + half];
    return lane[0];
}
