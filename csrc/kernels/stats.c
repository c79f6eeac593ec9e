/* Statistics of n elements, in double
 *   sum          sum_i x[i]
 *   sum_squares  sum_i x[i]^2
 *   all_finite   no x[i] is infinite or NaN
 *   likeliest    the first i with the highest x[i]; NOT_FINITE where all_finite is false
 *
 * Element i goes to partial sum i mod LANES, and the partial sums are folded in halves: the order depends on n only. */
#include <math.h>
#include "kernels/lanes.h"

static double lanes_sum_double(double *lane) {
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++) lane[j] += lane[j + half];
    return lane[0];
}

static double sum(const real *x, size_t n) {
    double lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += (double)x[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)x[i];
    return lanes_sum_double(lane);
}

static double sum_squares(const real *x, size_t n) {
    double lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)x[i + j];
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)x[i] * (double)x[i];
    return lanes_sum_double(lane);
}

static bool all_finite(const real *x, size_t n) {
    int odd = 0;
    #pragma omp simd reduction(| : odd)
    for (size_t i = 0; i < n; i++) odd |= !(fabs(x[i]) < (real)INFINITY);
    return !odd;
}

static size_t likeliest(const real *x, size_t n) {
    real top = -(real)INFINITY;
    if (!all_finite(x, n)) return NOT_FINITE;
    #pragma omp simd reduction(max : top)
    for (size_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    for (size_t first = 0; first < n; first += LANES) {
        const size_t count = n - first < LANES ? n - first : LANES;
        int here = 0;
        #pragma omp simd reduction(| : here)
        for (size_t i = 0; i < count; i++) here |= x[first + i] == top;
        for (size_t i = 0; here && i < count; i++)
            if (x[first + i] == top) return first + i;
    }
    return NOT_FINITE; /* n is 0 */
}
