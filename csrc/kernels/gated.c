/* Gated activation: SwiGLU for SILU, GeGLU for GELU
 *   out[i]   = act(gate[i]) * up[i]
 *   dgate[i] = dout[i] * up[i] * act'(gate[i])
 *   dup[i]   = dout[i] * act(gate[i])
 *
 * n elements each   out may be gate or up; dgate and dup, when overwritten, may be any of dout, gate and up */
#include "kernels/activation.h"

static void gated_forward(real *out, const real *gate, const real *up, Activation act, size_t n) {
    #define FORWARD(ACT)                                                            \
        case ACT:                                                                   \
            _Pragma("omp simd")                                                     \
            for (size_t i = 0; i < n; i++) out[i] = activate(gate[i], ACT) * up[i]; \
            break;
    switch (act) {
        FOR_EACH_ACTIVATION(FORWARD)
        case ACT_COUNT: break;
    }
    #undef FORWARD
}

static void gated_backward(real *dgate, real *dup, const real *dout, const real *gate, const real *up, Activation act,
                           size_t n, bool accumulate) {
    #define BACKWARD(ACT)                                       \
        case ACT:                                               \
            if (accumulate) {                                   \
                _Pragma("omp simd")                             \
                for (size_t i = 0; i < n; i++) {                \
                    real d = dout[i], g = gate[i], u = up[i];   \
                    dgate[i] += d * u * activate_slope(g, ACT); \
                    dup[i] += d * activate(g, ACT);             \
                }                                               \
            } else {                                            \
                _Pragma("omp simd")                             \
                for (size_t i = 0; i < n; i++) {                \
                    real d = dout[i], g = gate[i], u = up[i];   \
                    dgate[i] = d * u * activate_slope(g, ACT);  \
                    dup[i] = d * activate(g, ACT);              \
                }                                               \
            }                                                   \
            break;
    switch (act) {
        FOR_EACH_ACTIVATION(BACKWARD)
        case ACT_COUNT: break;
    }
    #undef BACKWARD
}
