/* exp, log, tanh, erf and the logistic function, branch-free so that a loop over them vectorises.
 *
 * In float, over every finite argument, errors in units in the last place of the true value, products fused or not:
 *   math_exp      1.5   0 below -103.98, inf above 88.73, gradual underflow kept
 *   math_weight   1.5   exp of what is not above 0, to stand beside a 1: 0 below -87, no subnormal
 *   math_log      1.5   -inf at 0, NaN below 0, subnormal arguments included
 *   math_tanh     1.5
 *   math_erf      1.5
 *   math_sigmoid  2.5   down to -87; below that it falls to 0 at -88 instead of passing through the subnormals
 * NaN in, NaN out; infinities give the limits. In double these are the C library's: double is for checking. */
#pragma once
#include <math.h>
#include <string.h>
#include "base/real.h"

#ifdef LLMC_DOUBLE

static inline real math_exp(real x) { return exp(x); }
static inline real math_weight(real x) { return x < -87 ? 0 : exp(x); }
static inline real math_log(real x) { return log(x); }
static inline real math_tanh(real x) { return tanh(x); }
static inline real math_erf(real x) { return erf(x); }
static inline real math_sigmoid(real x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }

#else

static inline int32_t math_bits(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float math_float(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds and leaves n in the low bits;
 * ln 2 is subtracted in two parts. */
#define ROUNDER 0x1.8p23f

typedef struct {
    float fraction; /* exp(r) */
    int32_t shifted; /* n above the bits of ROUNDER */
} Exponential;

static inline Exponential math_split_exp(float x) {
    float shifted = x * 0x1.715476p+0f + ROUNDER;
    float whole = shifted - ROUNDER;
    float r = (x - whole * 0x1.62e400p-1f) - whole * 0x1.7f7d1cp-20f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    return (Exponential){p, math_bits(shifted)};
}

/* 2^n is multiplied in two halves, for n = 128 and n < -126 are no exponents. */
static inline float math_exp(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    Exponential e = math_split_exp(x);
    int32_t n = e.shifted - math_bits(ROUNDER);
    int32_t half = n >> 1;
    return e.fraction * math_float((half + 127) << 23) * math_float((n - half + 127) << 23);
}

/* Where n is an exponent, -87 <= x <= 88: the shift drops the bits of ROUNDER. Elsewhere any number. */
static inline float math_exp_within(float x) {
    Exponential e = math_split_exp(x);
    return e.fraction * math_float((int32_t)((uint32_t)e.shifted << 23) + (127 << 23));
}

static inline float math_weight(float x) {
    float y = math_exp_within(x);
    return x < -87.0f ? 0.0f : y;
}

/* log(x) = n ln 2 + log(1 + f), x = 2^n (1 + f), sqrt(1/2) <= 1 + f < sqrt(2) */
static inline float math_log(float x) {
    float scaled = x < 0x1p-126f ? x * 0x1p23f : x;
    int32_t lift = x < 0x1p-126f ? 23 : 0;
    int32_t bits = math_bits(scaled) - 0x3f3504f3; /* sqrt(1/2) */
    float n = (float)((bits >> 23) - lift);
    float f = math_float((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    float square = f * f;
    float tail = p * (f * square) + n * -2.12194440e-4f - 0.5f * square;
    float y = (f + tail) + n * 0.693359375f;
    y = x > 0x1.fffffep127f ? x : y;
    y = x == 0 ? -INFINITY : y;
    return x >= 0 ? y : NAN;
}

/* tanh(x) = x + x^3 P(x^2) near 0, sign(x) (1 - 2 / (exp(2|x|) + 1)) elsewhere */
static inline float math_tanh(float x) {
    float t = fabsf(x), square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    float inner = p * square * t + t;
    float outer = 1.0f - 2.0f / (math_exp(2.0f * t) + 1.0f);
    return copysignf(t < 0.625f ? inner : outer, x);
}

/* erf(x) = x + x P(x^2) near 0, sign(x) (1 - exp(-|x| Q(|x|))) elsewhere (after N. Juffa) */
static inline float math_erf(float x) {
    float t = fabsf(x), square = x * x;
    float p = -5.96761703e-4f;
    p = p * square + 4.99119423e-3f;
    p = p * square - 2.67681349e-2f;
    p = p * square + 1.12819925e-1f;
    p = p * square - 3.76125336e-1f;
    p = p * square + 1.28379166e-1f;
    float inner = p * x + x;
    float c = t > 4.0f ? 4.0f : t; /* erf(4) is 1 in float */
    float q = -1.72853470e-5f;
    q = q * c + 3.83197126e-4f;
    q = q * c - 3.88396438e-3f;
    q = q * c + 2.42546219e-2f;
    q = q * c - 1.06777877e-1f;
    q = q * c - 6.34846687e-1f;
    q = q * c - 1.28717512e-1f;
    float outer = copysignf(1.0f - math_exp(q * c - c), x);
    return t > 0.927734375f ? outer : inner;
}

static inline float math_sigmoid(float x) {
    float e = math_exp_within(-x);
    e = x > 87.0f ? 0.0f : e;
    e = x < -88.0f ? (float)INFINITY : e;
    return 1.0f / (1.0f + e);
}

#endif
