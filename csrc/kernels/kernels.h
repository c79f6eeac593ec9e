/* The kernels: every number the core ever computes is computed behind one of these pointers.
 *
 * A kernel sees raw pointers and sizes. It cannot fail, does not allocate, knows no threads and no Tensor: the ops
 * above cut their work into slices and call a kernel for each. The same sources compile once for every instruction set
 * (table.c), each giving one Kernels table; engine.c picks the one that fits the processor.
 *
 * Letters: B batch, T time, N rows = B*T, C width, H query heads, G key/value heads, D head size, V vocabulary.
 * Order: outputs, saved, inputs, weights / sizes / scalars. Matrices are row-major; ld* is a row stride in elements.
 * `accumulate` false overwrites the output, true adds to it. NULL for an optional output means: not wanted. */
#pragma once
#include "base/storage.h"

typedef enum {
    ACT_LINEAR, ACT_GELU, ACT_GELU_TANH, ACT_GELU_QUICK, ACT_SILU, ACT_RELU, ACT_RELU2, ACT_RELU6,
    ACT_LEAKY_RELU, ACT_TANH, ACT_SIGMOID, ACT_MISH, ACT_GELU_10, ACT_LAPLACE, ACT_COUNT
} Activation;

/* An operand of a product: a matrix (rows, cols), or one stored the other way round, as (cols, rows). */
typedef struct {
    const void *data;
    size_t stride;       /* between stored rows, in numbers */
    bool transposed;     /* stored the other way round */
    Storage storage;
    const float *scales; /* int8 alone: one for GROUP numbers of a stored row */
    size_t scale_stride;
} Matrix;

/* The part of a matrix from (row, col) on. Of int8: a stored row is cut at a multiple of GROUP. */
static inline Matrix matrix_at(Matrix m, size_t row, size_t col) {
    const size_t r = m.transposed ? col : row, c = m.transposed ? row : col;
    m.data = (const char *)m.data + (r * m.stride + c) * storage_bytes(m.storage);
    if (m.storage == STORED_INT8) m.scales += r * m.scale_stride + c / GROUP;
    return m;
}
static inline Matrix matrix_stored(const Stored *s, bool transposed) {
    return (Matrix){s->data, s->stride, transposed != s->transposed, s->storage, s->scales, s->scale_stride};
}
static inline Matrix matrix_transposed(Matrix m) {
    m.transposed = !m.transposed;
    return m;
}
static inline Matrix matrix_of(const real *data, size_t stride, bool transposed) {
    return (Matrix){.data = data, .stride = stride, .transposed = transposed};
}

/* B (K,N) of a product, packed once to meet many rows of A (gemm.c). */
typedef struct {
    real *units; /* NULL: not packed */
    int K, N;
} Packed;

#define NOT_FINITE SIZE_MAX /* in the place of an index */

/* Dropout is counter-based: element i of a tensor is kept iff rng_uniform(key, i) >= rate, and scaled by 1/(1-rate). */
typedef struct {
    uint64_t key;
    real rate; /* 0: off */
} Dropout;

/* One head's view of the attention problem: what is constant over its query blocks. */
typedef struct {
    int T;               /* queries */
    int Tk;              /* keys; query t sits at key position t + Tk - T (the past comes first) */
    int D;               /* head size */
    int window;          /* a query sees the keys of the last `window` positions, its own included; 0: no window */
    bool causal;
    real scale;          /* multiplies q.k */
    const uint8_t *mask; /* (Tk) 1 = may be seen, 0 = padding; NULL: all may be seen */
    Dropout dropout;     /* of the probabilities; element index = drop_base + t*Tk + key */
    uint64_t drop_base;
} Attention;

/* In double: 1 - beta2 of a float beta2 is wrong in its fifth digit. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double bias_correction1, bias_correction2; /* 1 - beta^step */
    double grad_scale;                         /* clipping: every gradient is multiplied by it first */
} AdamwStep;

/* Reals that the kernels of Hyper-Connections work in. */
static inline size_t hyper_work(int S, int C) { return 2 * (size_t)S * (size_t)(C + S + 2); }
/* What heads read: for each a weighted sum of the rows of several streams. */
typedef struct {
    int count;                              /* streams */
    const real *const *streams, *const *rstds; /* (…,C) and 1 / the root mean square of every row, from row 0 on */
    const int *columns;                     /* of the weights, one a stream */
    const real *weights;                    /* of the first head in row 0; strides: */
    size_t row, head;                       /* between rows (0: the same in all), between heads */
    const real *gain;                       /* (C) */
} Mixture;

/* Everything is added to, but a stream's gradient only where `adds` says so. */
typedef struct {
    real *const *streams; /* NULL: not wanted */
    const bool *adds;
    real *weights;        /* as the mixture's, but that its stride between rows is: */
    size_t row;
    real *gain;
} MixtureGradients;
/* What two rows of numbers differ in; d is tuned - base. */
typedef struct {
    double sums[6];      /* of base^2, tuned^2, d^2, base * tuned, d, spacing(base)^2 */
    size_t changed, odd; /* numbers that differ; NaNs and infinities of both */
    real top;            /* the largest |d| */
    size_t at;           /* where it stands, the first of several */
} Compared;

#define WHOLE_CHAINS 512 /* a product cut along k at its multiples is summed as the whole one, in every table */
#define FEW_ROWS 6 /* gemm reads B where it lies for so many rows of A: every number once */

typedef struct Kernels {
    const char *name; /* "portable", "avx2", "avx512", "avx512_bf16" */

    bool rounds; /* products round their operands to bfloat16 */

    /* gemm.c   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)
     * out (M,N)   A (M,K)   B (K,N)   bias (N) or NULL   work: gemm_work reals, 64-byte aligned. One thread. */
    void (*gemm)(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
                 real *work);
    size_t gemm_work;
    /* The same bits from a B that `pack` has packed into packed_size(K, N) reals, its columns [n, n + cols) a call, n a
     * multiple of 64; gemm_packed takes its part from (k, n) on, k a multiple of WHOLE_CHAINS, n such one. */
    size_t (*packed_size)(int K, int N); /* 0: gemm alone is to be called */
    void (*pack)(real *packed, Matrix B, int K, int N, int n, int cols);
    void (*gemm_packed)(real *out, size_t ldo, Matrix A, Packed B, int k, int n, const real *bias, int M, int N, int K,
                        bool accumulate, real *work);

    /* embedding.c   out[n,:] = weight[ids[n],:], widened;   backward adds dout[n,:] into dweight[ids[n],:] in order
     * of n, where ids[n] is not `padding` (-1: everywhere)
     * (C may be a slice of columns: ldw and ldd are the full row strides) */
    void (*embedding_forward)(real *out, const int32_t *ids, Matrix weight, int N, int C);
    void (*embedding_backward)(real *dweight, size_t ldw, const real *dout, size_t ldd, const int32_t *ids, int N,
                               int C, int32_t padding);

    /* layernorm.c   out = (inp - mean) * rstd * weight + bias over the last axis (weight NULL: without both)
     * backward: dinp (NULL: not wanted) as accumulate says; dweight, dbias (NULL: not wanted) are always added to */
    void (*layernorm_forward)(real *out, real *mean, real *rstd, const real *inp, const real *weight, const real *bias,
                              int N, int C, real eps);
    void (*layernorm_backward)(real *dinp, real *dweight, real *dbias, const real *dout, const real *mean,
                               const real *rstd, const real *inp, const real *weight, int N, int C, bool accumulate);

    /* rmsnorm.c   out[n,c] = inp[n,c] * rstd[n] * weight[c],   rstd[n] = 1 / sqrt(mean_c(inp[n,c]^2) + eps) */
    void (*rmsnorm_forward)(real *out, real *rstd, const real *inp, const real *weight, int N, int C, real eps);
    void (*rmsnorm_backward)(real *dinp, real *dweight, const real *dout, const real *rstd, const real *inp,
                             const real *weight, int N, int C, bool accumulate);
    void (*rms_statistic)(real *rstd, const real *inp, int N, int C, real eps); /* alone */

    /* rope.c   table[n] = { cos(a_0..a_{D/2-1}), sin(a_0..) } * factor,   a_i = positions[n] * inv_freq[i] (product in
     * float, as the field computes it; in double in the double core)
     * rope_forward rotates the halves of every head: out[i] = x[i] cos_i - x[i+D/2] sin_i,
     * out[i+D/2] = x[i+D/2] cos_i + x[i] sin_i;  backward is the transpose.  inp, out (N, heads, D) */
    void (*rope_table)(real *table, const int32_t *positions, const real *inv_freq, real factor, int N, int D);
    void (*rope_forward)(real *out, const real *inp, const real *table, int N, int heads, int D);
    void (*rope_backward)(real *dinp, const real *dout, const real *table, int N, int heads, int D, bool accumulate);

    /* route.c   out[n,g,:] = sum_c weight[g*row + c*col] inp[n,c,:];   out, inp, dout (N, G*D) with row strides
     * dweight[g*row + c] += sum_{n,d} dout[n,g,d] inp[n,c,d]
     * the gradient of inp is a route of dout with row and col exchanged */
    void (*route)(real *out, size_t ldo, const real *inp, size_t ldi, const real *weight, size_t row, size_t col,
                  int N, int G, int D, bool accumulate);
    void (*route_backward)(real *dweight, size_t row, const real *dout, size_t ldd, const real *inp, size_t ldi, int N,
                           int G, int D);

    /* hyper.c   Hyper-Connections: what a branch reads of S streams, how they go on, and what each takes of what the
     * branch gives. inp, streams, out (N,S,C), read, y (N,C), beta (N,S); fn (S+2,C), NULL: none depends on the token;
     * fixed (S,S+2), scale (2); dynamic (N,S,S+2), mean, rstd (N,S) are kept for the backward pass where there is fn
     * width backward: dread, dstreams, dbeta NULL: zero; dinp, dfn, dfixed, dscale NULL: not wanted; dinp as accumulate
     * says, the others are always added to. work: hyper_work reals. depth: out may be streams; dy as accumulate says */
    void (*hyper_width_forward)(real *read, real *streams, real *beta, real *dynamic, real *mean, real *rstd,
                                const real *inp, const real *fn, const real *fixed, const real *scale, int N, int S,
                                int C, real eps, real *work);
    void (*hyper_width_backward)(real *dinp, real *dfn, real *dfixed, real *dscale, const real *dread,
                                 const real *dstreams, const real *dbeta, const real *dynamic, const real *mean,
                                 const real *rstd, const real *inp, const real *fn, const real *fixed,
                                 const real *scale, int N, int S, int C, bool accumulate, real *work);
    void (*hyper_depth_forward)(real *out, const real *streams, const real *y, const real *beta, int N, int S, int C);
    void (*hyper_depth_backward)(real *dy, real *dbeta, const real *dout, const real *y, const real *beta, int N, int S,
                                 int C, bool accumulate);
    /* mixture.c   out[h*ldo + n*C + c] = gain[c] sum_i weights[h,i] rstd_i streams_i[c], of rows [first, first + N) of
     * the streams, the weights and the statistics.  work: (count heads + C) reals
     * backward: through the statistics too; heads are one step after another, so that the first may overwrite */
    void (*mixture)(real *out, size_t ldo, const Mixture *m, int heads, int first, int N, int C, real *work);
    void (*mixture_backward)(const MixtureGradients *d, const real *dout, size_t ldo, const Mixture *m, int heads,
                             int first, int N, int C, real *work);

    /* retrieve.c   softmax over what is offered of M, N times (out may be inp); the smallest set of the largest whose
     * sum exceeds top_p, made to sum to 1 */
    void (*softmax_offered)(real *out, const real *inp, const bool *offered, int N, int M);
    void (*softmax_offered_backward)(real *dinp, const real *dout, const real *out, int N, int M, bool accumulate);
    void (*prune)(real *out, const real *inp, real top_p, int N, int M);
    void (*prune_backward)(real *dinp, const real *dout, const real *out, const real *inp, int N, int M,
                           bool accumulate);

    /* activation.c   out = act(inp);  dinp = dout * act'(inp).  n elements */
    void (*activation_forward)(real *out, const real *inp, Activation act, size_t n);
    void (*activation_backward)(real *dinp, const real *dout, const real *inp, Activation act, size_t n,
                                bool accumulate);

    /* gated.c   out = act(gate) * up   (SwiGLU for SILU, GeGLU for GELU)
     * backward: dgate and dup as accumulate says */
    void (*gated_forward)(real *out, const real *gate, const real *up, Activation act, size_t n);
    void (*gated_backward)(real *dgate, real *dup, const real *dout, const real *gate, const real *up, Activation act,
                           size_t n, bool accumulate);

    /* attention.c   queries [t0, t1) of one head, softmax over the keys each may see, online over key blocks
     * out[t,:] = sum_s p[t,s] v[s,:],  p = softmax(scale q.k);  logsumexp[t] kept for the backward pass.
     * Pointers and matrices (as stored) begin with the head's row 0 (not t0), but forward's out with row t0.
     * A query that sees no key gives zeros and logsumexp = -inf; its gradients are zero.
     * backward: keys [s0, s1) of one query head; dk, dv (Tk,D), never NULL, overwritten or added to, as add_k, add_v
     * say (heads that share keys are called one after another); dq is added to, but the call with s0 = 0, which comes
     * first, overwrites it and fills delta (T), which later calls read.
     * pattern: the probabilities p (T,Tk) of one head, zeros where unseen. work: attention_work(D) reals */
    void (*attention_forward)(real *out, size_t ldo, real *logsumexp, Matrix q, Matrix k, Matrix v, const Attention *a,
                              int t0, int t1, real *work);
    void (*attention_backward)(real *dq, size_t lddq, real *dk, size_t lddk, real *dv, size_t lddv, const real *dout,
                               size_t lddo, Matrix out, real *delta, const real *logsumexp, Matrix q, Matrix k,
                               Matrix v, const Attention *a, int s0, int s1, bool add_k, bool add_v, real *work);
    void (*attention_pattern)(real *pattern, size_t ldp, const real *logsumexp, Matrix q, Matrix k, const Attention *a,
                              real *work);
    size_t (*attention_work)(int D);

    /* cross_entropy.c   losses[n] = logsumexp(logits[n,:]) - logits[n,targets[n]], 0 where targets[n] < 0 (ignored)
     * backward, in place of the logits or beside them: dlogits[n,v] = (softmax(logits[n])[v] - [v == target]) * scale,
     * 0 for ignored rows; it gives the losses, too, unless they are NULL: they cost it nothing */
    void (*cross_entropy_forward)(real *losses, const real *logits, const int32_t *targets, int N, int V);
    void (*cross_entropy_backward)(real *dlogits, real *losses, const real *logits, const int32_t *targets, int N,
                                   int V, real scale, bool accumulate);
    void (*softmax_forward)(real *out, const real *inp, int N, int V); /* rows */
    void (*softmax_backward)(real *dinp, const real *dout, const real *out, int N, int V);

    /* vector.c   n elements each */
    void (*add)(real *out, const real *a, const real *b, size_t n);
    void (*accumulate)(real *out, const real *inp, size_t n);           /* out += inp */
    void (*scale)(real *out, const real *inp, real factor, size_t n);   /* out = inp * factor */
    void (*dropout)(real *out, const real *inp, Dropout d, uint64_t first, size_t n, bool accumulate); /* both ways */
    void (*round)(uint16_t *out, const real *inp, size_t n); /* to bfloat16 */
    void (*column_sums)(real *out, const real *inp, size_t ld, int N, int C); /* out[c] += sum_n inp[n,c] */

    /* stats.c   in double, in a fixed order */
    double (*sum)(const real *x, size_t n);
    double (*sum_squares)(const real *x, size_t n);
    bool (*all_finite)(const real *x, size_t n);
    /* the first i with the highest x[i]; NOT_FINITE: one is infinite or NaN */
    size_t (*likeliest)(const real *x, size_t n);

    /* observe.c   sums (N,6): what a module did to its input, see ops/op_observe.c. x (N,I), y (N,O) with row
     * strides */
    void (*observe)(real *sums, const real *x, size_t ldx, const real *y, size_t ldy, int N, int I, int O);

    /* compare.c   two rows of n numbers, as reals or bfloat16. `other` is tuned, or d itself where is_delta says so.
     * delta (n) gets d, columns (3,n) have base^2, tuned^2, d^2 added; NULL: not wanted. spacing(b) is 2^exponent of b,
     * at least `least`, and 0 for 0: of a dtype with m bits behind the point it is 2^m times too large. A NaN on both
     * sides does not differ, nor do 0 and -0. */
    void (*compare)(Compared *c, double *columns, real *delta, const void *base, Storage base_storage,
                    const void *other, Storage other_storage, size_t n, real least, bool is_delta);

    /* adamw.c   torch's AdamW: p *= 1 - lr*wd;  m, v moments of g * grad_scale;
     * p -= lr/bc1 * m / (sqrt(v)/sqrt(bc2) + eps);   n elements */
    void (*adamw)(real *param, real *m, real *v, const real *grad, size_t n, const AdamwStep *s);

    /* peak.c   what one thread can do at best: `rounds` of so many operations each, from registers (bfloat16: 0 where
     * there is no such instruction); n reals read once, from a line on, a multiple of 1024. What they return is of no
     * use but to depend on all of the work. 0 < factor < 1, value and shift: any number */
    real (*peak_multiply_add)(size_t rounds, real factor, real shift);
    real (*peak_bfloat16)(size_t rounds, real value);
    size_t peak_multiply_add_flops, peak_bfloat16_flops;
    real (*peak_read)(const real *x, size_t n);
} Kernels;

/* One table an instruction set; NULL is never in a table. A build without an instruction set lacks its table. */
extern const Kernels kernels_portable;
#ifdef LLMC_HAVE_AVX2
extern const Kernels kernels_avx2;
#endif
#ifdef LLMC_HAVE_AVX512
extern const Kernels kernels_avx512;
#endif
#ifdef LLMC_HAVE_AVX512_BF16
extern const Kernels kernels_avx512_bf16; /* its products, those of attention too, round their operands to bfloat16 */
#endif
