/* Activation
 *   out[i]  = act(inp[i])
 *   dinp[i] = dout[i] * act'(inp[i])
 *
 * n elements each   out may be inp, dinp may be dout */
#include "kernels/activation.h"

static void activation_forward(real *out, const real *inp, Activation act, size_t n) {
    #define FORWARD(ACT)                                                   \
        case ACT:                                                          \
            _Pragma("omp simd")                                            \
            for (size_t i = 0; i < n; i++) out[i] = activate(inp[i], ACT); \
            break;
    switch (act) {
        FOR_EACH_ACTIVATION(FORWARD)
        case ACT_COUNT: break;
    }
    #undef FORWARD
}

static void activation_backward(real *dinp, const real *dout, const real *inp, Activation act, size_t n,
                                bool accumulate) {
    #define BACKWARD(ACT)                                                                        \
        case ACT:                                                                                \
            if (accumulate) {                                                                    \
                _Pragma("omp simd")                                                              \
                for (size_t i = 0; i < n; i++) dinp[i] += dout[i] * activate_slope(inp[i], ACT); \
            } else {                                                                             \
                _Pragma("omp simd")                                                              \
                for (size_t i = 0; i < n; i++) dinp[i] = dout[i] * activate_slope(inp[i], ACT);  \
            }                                                                                    \
            break;
    switch (act) {
        FOR_EACH_ACTIVATION(BACKWARD)
        case ACT_COUNT: break;
    }
    #undef BACKWARD
}
