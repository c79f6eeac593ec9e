/* Attention of one head, in blocks of queries and keys: the (T,Tk) pattern is never stored.
 *
 *   p[t,s]   = exp(scale q[t].k[s] - logsumexp[t]) where query t sees key s, 0 elsewhere;  sum_s p[t,s] = 1
 *   out[t,:] = sum_s drop(p[t,s]) v[s,:]            drop(p) = p / (1 - rate) where kept, 0 elsewhere
 *
 *   delta[t]  = dout[t].out[t]
 *   ds[t,s]   = scale p[t,s] (drop'(dout[t].v[s]) - delta[t])
 *   dq[t,:]   = sum_s ds[t,s] k[s,:]     dk[s,:] = sum_t ds[t,s] q[t,:]     dv[s,:] = sum_t drop(p[t,s]) dout[t,:]
 *
 * q, out (T,D)   k, v (Tk,D)   logsumexp (T)   work attention_work(D) reals
 *
 * Query t sits at key slot t + Tk - T. It sees slot s if s is not padding, not later (causal), and fewer than `window`
 * slots back. Key blocks start at multiples of KEYS and every sum over keys has a fixed order, so a query's output has
 * the same bits whichever queries share the call: a decoded token equals its row of the full forward.
 * The products are gemm's: table.c includes gemm.c first. */
#include "kernels/kernels.h"
#include "kernels/lanes.h"
#include "kernels/math.h"
#include "base/rng.h"

#define QUERIES 48 /* more waste work above the diagonal, fewer pack keys too often */
#define KEYS 256   /* at most KC: one chain for each block */

/* Keys [first, last) are those that query t sees, padding aside. */
typedef struct {
    int first, last;
} Span;

static inline Span visible_keys(const Attention *a, int t) {
    const int slot = t + a->Tk - a->T;
    const int first = a->window > 0 ? slot - a->window + 1 : 0;
    const int last = a->causal ? slot + 1 : a->Tk;
    return (Span){first > 0 ? first : 0, last > 0 ? last : 0};
}

/* Key blocks that any query of [t0, t1) sees: spans move forwards with t. */
static inline Span visible_blocks(const Attention *a, int t0, int t1) {
    return (Span){visible_keys(a, t0).first / KEYS * KEYS, visible_keys(a, t1 - 1).last};
}

/* Scores of the keys [key, key + count) of query t, scaled; -inf where unseen and up to the next whole vector. Returns
 * how many numbers that makes. */
static int mask_scores(real *restrict scores, const Attention *a, int t, int key, int count) {
    const int whole = (count + WIDTH - 1) / WIDTH * WIDTH;
    const Span seen = visible_keys(a, t);
    const int first = seen.first > key ? smaller(seen.first - key, count) : 0;
    const int last = seen.last > key ? smaller(seen.last - key, count) : 0;
    const real scale = a->scale;
    const uint8_t *mask = a->mask;
    for (int j = 0; j < count; j++) scores[j] *= scale;
    if (mask)
        for (int j = 0; j < count; j++) scores[j] = mask[key + j] ? scores[j] : -INFINITY;
    for (int j = 0; j < first; j++) scores[j] = -INFINITY;
    for (int j = last; j < whole; j++) scores[j] = -INFINITY;
    return whole;
}

/* What dropout multiplies the probabilities of query t by: 1 / (1 - rate), or 0. */
static void dropout_factors(real *restrict factors, const Attention *a, int t, int key, int count) {
    const real rate = a->dropout.rate, kept = 1 / (1 - rate);
    const uint64_t stream = a->dropout.key, first = a->drop_base + (uint64_t)t * (uint64_t)a->Tk + (uint64_t)key;
    for (int j = 0; j < count; j++) factors[j] = rng_uniform(stream, first + (uint64_t)j) >= rate ? kept : 0;
}

/* Scores become weights exp(score - top); top and total follow. Returns what earlier sums must be multiplied by. */
static real weigh_scores(real *restrict scores, real *top, real *total, const Attention *a, int t, int key, int count) {
    const int whole = mask_scores(scores, a, t, key, count);
    real highest = *top, sum = 0;
#pragma omp simd reduction(max : highest)
    for (int j = 0; j < whole; j++) highest = scores[j] > highest ? scores[j] : highest;
    const real base = highest == -INFINITY ? 0 : highest; /* no key yet: weights are 0, or NaN where the scores are */
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < whole; j++) {
        scores[j] = math_weight(scores[j] - base);
        sum += scores[j];
    }
    const real shrink = math_weight(*top - base);
    *top = highest;
    *total = *total * shrink + sum;
    if (a->dropout.rate > 0) {
        real factors[KEYS];
        dropout_factors(factors, a, t, key, count);
        for (int j = 0; j < count; j++) scores[j] *= factors[j];
    }
    return shrink;
}

static inline void multiply_row(real *row, real factor, int D) {
    for (int d = 0; d < D; d++) row[d] *= factor;
}

static void attention_forward(real *out, size_t ldo, real *logsumexp, const real *q, size_t ldq, const real *k,
                              size_t ldk, const real *v, size_t ldv, const Attention *a, int t0, int t1, real *work) {
    real *scores = work + GEMM_WORK, *top = scores + QUERIES * KEYS, *total = top + QUERIES;
    const int D = a->D;
    for (int t = t0; t < t1; t += QUERIES) {
        const int queries = smaller(QUERIES, t1 - t);
        const Span blocks = visible_blocks(a, t, t + queries);
        const real *q_t = q + t * ldq;
        real *out_t = out + t * ldo;
        for (int i = 0; i < queries; i++) {
            top[i] = -INFINITY;
            total[i] = 0;
            memset(out_t + i * ldo, 0, D * sizeof(real));
        }
        for (int s = blocks.first; s < blocks.last; s += KEYS) {
            const int keys = smaller(KEYS, blocks.last - s);
            const real *k_s = k + s * ldk, *v_s = v + s * ldv;
            gemm(scores, KEYS, matrix_of(q_t, ldq, false), matrix_of(k_s, ldk, true), NULL, queries, keys, D, false, work);
            for (int i = 0; i < queries; i++) {
                const real shrink = weigh_scores(scores + i * KEYS, top + i, total + i, a, t + i, s, keys);
                if (shrink != 1) multiply_row(out_t + i * ldo, shrink, D);
            }
            gemm(out_t, ldo, matrix_of(scores, KEYS, false), matrix_of(v_s, ldv, false), NULL, queries, D, keys, true, work);
        }
        for (int i = 0; i < queries; i++) {
            multiply_row(out_t + i * ldo, total[i] == 0 ? 0 : 1 / total[i], D);
            logsumexp[t + i] = top[i] + math_log(total[i]);
        }
    }
}

/* Of one query: scores q.k become drop(p), and dscores, which come as dout.v, become ds. */
static void differentiate_scores(real *restrict scores, real *restrict dscores, real logsumexp, real delta,
                                 const Attention *a, int t, int key, int count) {
    if (logsumexp == -INFINITY) {
        memset(scores, 0, count * sizeof(real));
        memset(dscores, 0, count * sizeof(real));
        return;
    }
    const real scale = a->scale;
    mask_scores(scores, a, t, key, count);
    if (a->dropout.rate > 0) {
        real factors[KEYS];
        dropout_factors(factors, a, t, key, count);
        for (int j = 0; j < count; j++) {
            const real p = math_weight(scores[j] - logsumexp);
            scores[j] = p * factors[j];
            dscores[j] = scale * p * (dscores[j] * factors[j] - delta);
        }
    } else {
        for (int j = 0; j < count; j++) {
            const real p = math_weight(scores[j] - logsumexp);
            scores[j] = p;
            dscores[j] = scale * p * (dscores[j] - delta);
        }
    }
}

static void attention_backward(real *dq, size_t lddq, real *dk, size_t lddk, real *dv, size_t lddv, const real *dout,
                               size_t lddo, const real *out, size_t ldo, const real *logsumexp, const real *q,
                               size_t ldq, const real *k, size_t ldk, const real *v, size_t ldv, const Attention *a,
                               int t0, int t1, bool accumulate, real *work) {
    real *scores = work + GEMM_WORK, *dscores = scores + QUERIES * KEYS, *delta = dscores + QUERIES * KEYS;
    const int D = a->D;
    for (int s = 0; s < a->Tk && !accumulate; s++) {
        memset(dk + s * lddk, 0, D * sizeof(real));
        memset(dv + s * lddv, 0, D * sizeof(real));
    }
    for (int t = t0; t < t1; t += QUERIES) {
        const int queries = smaller(QUERIES, t1 - t);
        const Span blocks = visible_blocks(a, t, t + queries);
        const real *q_t = q + t * ldq, *out_t = out + t * ldo, *dout_t = dout + t * lddo;
        real *dq_t = dq + t * lddq;
        for (int i = 0; i < queries; i++) {
            delta[i] = row_dot(dout_t + i * lddo, out_t + i * ldo, D);
            memset(dq_t + i * lddq, 0, D * sizeof(real));
        }
        for (int s = blocks.first; s < blocks.last; s += KEYS) {
            const int keys = smaller(KEYS, blocks.last - s);
            const real *k_s = k + s * ldk, *v_s = v + s * ldv;
            gemm(scores, KEYS, matrix_of(q_t, ldq, false), matrix_of(k_s, ldk, true), NULL, queries, keys, D, false, work);
            gemm(dscores, KEYS, matrix_of(dout_t, lddo, false), matrix_of(v_s, ldv, true), NULL, queries, keys, D, false,
                 work);
            for (int i = 0; i < queries; i++)
                differentiate_scores(scores + i * KEYS, dscores + i * KEYS, logsumexp[t + i], delta[i], a, t + i, s,
                                     keys);
            gemm(dv + s * lddv, lddv, matrix_of(scores, KEYS, true), matrix_of(dout_t, lddo, false), NULL, keys, D, queries,
                 true, work);
            gemm(dk + s * lddk, lddk, matrix_of(dscores, KEYS, true), matrix_of(q_t, ldq, false), NULL, keys, D, queries, true,
                 work);
            gemm(dq_t, lddq, matrix_of(dscores, KEYS, false), matrix_of(k_s, ldk, false), NULL, queries, D, keys, true, work);
        }
    }
}

static void attention_pattern(real *pattern, const real *logsumexp, const real *q, size_t ldq, const real *k,
                              size_t ldk, const Attention *a) {
    for (int t = 0; t < a->T; t++) {
        const Span seen = visible_keys(a, t);
        real *pattern_t = pattern + (size_t)t * a->Tk;
        for (int s = 0; s < a->Tk; s++) {
            const bool sees = s >= seen.first && s < seen.last && (!a->mask || a->mask[s]);
            pattern_t[s] = sees ? math_weight(row_dot(q + t * ldq, k + s * ldk, a->D) * a->scale - logsumexp[t]) : 0;
        }
    }
}

static size_t attention_work(int D) {
    (void)D;
    return GEMM_WORK + 2 * QUERIES * KEYS + 2 * QUERIES;
}
