/* The activation functions and their slopes, one number at a time, named as transformers names them.
 *
 * With `act` a constant the switch folds away, and a loop over either function vectorises: FOR_EACH_ACTIVATION lets a
 * kernel write its loop once and have it compiled for each. A NaN goes through every function as a NaN. */
#pragma once
#include "kernels/kernels.h"
#include "kernels/math.h"

#define FOR_EACH_ACTIVATION(DO) \
    DO(ACT_LINEAR) DO(ACT_GELU) DO(ACT_GELU_TANH) DO(ACT_GELU_QUICK) DO(ACT_SILU) DO(ACT_RELU) DO(ACT_RELU2) \
    DO(ACT_RELU6) DO(ACT_LEAKY_RELU) DO(ACT_TANH) DO(ACT_SIGMOID) DO(ACT_MISH) DO(ACT_GELU_10) DO(ACT_LAPLACE)

#define SQRT_HALF ((real)0.70710678118654752)         /* 1 / sqrt(2) */
#define GAUSS_PEAK ((real)0.39894228040143268)        /* 1 / sqrt(2 pi) */
#define SQRT_2_OVER_PI ((real)0.79788456080286536)
#define GELU_CUBIC ((real)0.044715)
#define LAPLACE_MU ((real)0.707107)
#define LAPLACE_SIGMA ((real)0.282095)

/* x times the normal distribution's cumulative function */
static inline real gelu(real x) {
    return x * ((real)0.5 * (1 + math_erf(x * SQRT_HALF)));
}

static inline real gelu_slope(real x) {
    return (real)0.5 * (1 + math_erf(x * SQRT_HALF)) + x * GAUSS_PEAK * math_exp((real)-0.5 * x * x);
}

/* (1 + tanh(u)) / 2 = sigmoid(2u): one exponential instead of a tanh. This is 2u. */
static inline real gelu_tanh_argument(real x) {
    return 2 * SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x);
}

/* tanh(softplus(x)) = w / (w + 2), w = e^2 + 2 e, e = exp(x); beyond 20 it is 1 to the last bit */
static inline real mish_gate(real x) {
    real e = math_exp(x > 20 ? 20 : x), w = e * (e + 2);
    return w / (w + 2);
}

static inline real mish_gate_slope(real x) {
    real e = math_exp(x > 20 ? 20 : x), w = e * (e + 2);
    return 4 * e * (e + 1) / ((w + 2) * (w + 2));
}

static inline __attribute__((always_inline)) real activate(real x, Activation act) {
    switch (act) {
    case ACT_GELU: return gelu(x);
    case ACT_GELU_TANH: return x * math_sigmoid(gelu_tanh_argument(x));
    case ACT_GELU_QUICK: return x * math_sigmoid((real)1.702 * x);
    case ACT_SILU: return x * math_sigmoid(x);
    case ACT_RELU: return x < 0 ? 0 : x;
    case ACT_RELU2: return x < 0 ? 0 : x * x;
    case ACT_RELU6: return x < 0 ? 0 : x > 6 ? 6 : x;
    case ACT_LEAKY_RELU: return x < 0 ? (real)0.01 * x : x;
    case ACT_TANH: return math_tanh(x);
    case ACT_SIGMOID: return math_sigmoid(x);
    case ACT_MISH: return x * mish_gate(x);
    case ACT_GELU_10: {
        real y = gelu(x);
        return y > 10 ? 10 : y; /* never below -0.17 */
    }
    case ACT_LAPLACE: return (real)0.5 * (1 + math_erf((x - LAPLACE_MU) * (SQRT_HALF / LAPLACE_SIGMA)));
    default: return x;
    }
}

/* At a corner, torch's choice: 0 for relu and relu6, 0.01 for leaky_relu. */
static inline __attribute__((always_inline)) real activate_slope(real x, Activation act) {
    switch (act) {
    case ACT_GELU: return gelu_slope(x);
    case ACT_GELU_TANH: {
        real s = math_sigmoid(gelu_tanh_argument(x));
        return s * (1 + (1 - s) * (2 * SQRT_2_OVER_PI) * x * (1 + 3 * GELU_CUBIC * x * x));
    }
    case ACT_GELU_QUICK: {
        real s = math_sigmoid((real)1.702 * x);
        return s * (1 + (real)1.702 * x * (1 - s));
    }
    case ACT_SILU: {
        real s = math_sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    case ACT_RELU: return x <= 0 ? 0 : 1;
    case ACT_RELU2: return x < 0 ? 0 : 2 * x;
    case ACT_RELU6: return x <= 0 || x >= 6 ? 0 : 1;
    case ACT_LEAKY_RELU: return x > 0 ? 1 : (real)0.01;
    case ACT_TANH: {
        real t = math_tanh(x);
        return 1 - t * t;
    }
    case ACT_SIGMOID: {
        real s = math_sigmoid(x);
        return s * (1 - s);
    }
    case ACT_MISH: return mish_gate(x) + x * mish_gate_slope(x);
    case ACT_GELU_10: return gelu(x) > 10 ? 0 : gelu_slope(x);
    case ACT_LAPLACE: {
        real z = (x - LAPLACE_MU) / LAPLACE_SIGMA;
        return GAUSS_PEAK / LAPLACE_SIGMA * math_exp((real)-0.5 * z * z);
    }
    default: return 1;
    }
}
