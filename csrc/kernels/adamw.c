/* AdamW, as torch.optim.AdamW does it
 *   g     = grad * grad_scale
 *   param = param * (1 - lr * weight_decay)
 *   m     = m + (1 - beta1) * (g - m)
 *   v     = beta2 * v + (1 - beta2) * g^2
 *   param = param - lr / bias_correction1 * m / (sqrt(v) / sqrt(bias_correction2) + eps)
 *
 * param, m, v, grad: n elements each */
#include <math.h>
#include "kernels/kernels.h"

static void adamw(real *restrict param, real *restrict m, real *restrict v, const real *restrict grad, size_t n,
                  const AdamwStep *s) {
    const real grad_scale = (real)s->grad_scale, eps = (real)s->eps, beta2 = (real)s->beta2;
    const real keep = (real)(1 - s->lr * s->weight_decay);
    const real rate1 = (real)(1 - s->beta1), rate2 = (real)(1 - s->beta2);
    const real step = (real)(s->lr / s->bias_correction1);
    const real unbias = (real)(1 / sqrt(s->bias_correction2));
    #pragma omp simd
    for (size_t i = 0; i < n; i++) {
        real g = grad[i] * grad_scale;
        m[i] += rate1 * (g - m[i]);
        v[i] = beta2 * v[i] + rate2 * g * g;
        param[i] = param[i] * keep - step * m[i] / ((real)sqrt(v[i]) * unbias + eps);
    }
}
