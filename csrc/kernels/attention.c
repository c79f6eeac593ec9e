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
 * Query t sits at key position t + Tk - T. It sees slot s if s is not padding, not later (causal), and fewer than
 * `window` slots back. Key blocks start at multiples of KEYS and every sum over keys has a fixed order, so a query's
 * output has the same bits whichever queries share the call, but where they are few (few_rows.c): keys and values are
 * then read where they lie, and a decoded token equals its row of the full forward up to rounding.
 *
 * A block of keys and values is packed once and meets all queries of a block, a tile's rows at a time: their scores
 * never leave the first-level cache. Backwards the scores of a block of queries stay in the second, to be transposed.
 * A product has
 * the same bits packed here or by gemm's tiles (table.c includes gemm.c first). */
#include "kernels/kernels.h"
#include "kernels/lane_sum.h"
#include "kernels/lanes.h"
#include "kernels/math.h"
#include "base/rng.h"

#define QUERIES 192       /* that share a packed block of keys forwards */
#define TURNED_QUERIES 96 /* whose scores are kept to be transposed backwards */
#define KEYS 192          /* of a block; at most KC: one chain. Whole panels, of rows and of columns */
#define SCORES_STRIDE (KEYS + 16) /* between rows of scores; no power of two, or they would share a few cache sets */

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

static inline bool sees_any(const Attention *a, int t0, int t1, int key, int end) {
    return visible_keys(a, t0).first < end && visible_keys(a, t1 - 1).last > key;
}

static void pack_whole(Packed *p, Matrix B, int K, int N) {
    p->K = K;
    p->N = N;
    pack(p->units, B, K, N, 0, N);
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
    for (int j = 0; j < whole; j++) scores[j] *= scale;
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

/* The highest of `whole` scores and `top`. */
static real highest_score(const real *scores, real top, int whole) {
#pragma omp simd reduction(max : top)
    for (int j = 0; j < whole; j++) top = scores[j] > top ? scores[j] : top;
    return top;
}

/* Scores become weights exp(score - top); without any key yet they are 0, or NaN where the scores are. */
static void weigh_scores(real *restrict scores, real top, int whole) {
    const real base = top == -INFINITY ? 0 : top;
#pragma omp simd
    for (int j = 0; j < whole; j++) scores[j] = math_weight(scores[j] - base);
}

static real sum_weights(const real *weights, int whole) {
    vreal sum = {0};
    for (int j = 0; j < whole; j += WIDTH) sum += vload(weights + j);
    return lanes_total(sum);
}

/* Scores of the queries [t, t + rows) become weights exp(score - top); top and total follow, and shrink is what a
 * query's earlier sums must be multiplied by. A pass takes all rows before the next begins: they wait for nothing of
 * each other. */
static void weigh_rows(real *scores, real *top, real *total, real *shrink, const Attention *a, int t, int rows, int key,
                       int count) {
    int whole = 0;
    for (int r = 0; r < rows; r++) {
        whole = mask_scores(scores + r * SCORES_STRIDE, a, t + r, key, count);
        shrink[r] = top[r];
        top[r] = highest_score(scores + r * SCORES_STRIDE, top[r], whole);
    }
    for (int r = 0; r < rows; r++) weigh_scores(scores + r * SCORES_STRIDE, top[r], whole);
    for (int r = 0; r < rows; r++) {
        shrink[r] = shrink[r] == top[r] || shrink[r] == -INFINITY ? 1 : math_weight(shrink[r] - top[r]);
        total[r] = total[r] * shrink[r] + sum_weights(scores + r * SCORES_STRIDE, whole);
    }
    for (int r = 0; r < rows && a->dropout.rate > 0; r++) {
        real factors[KEYS];
        dropout_factors(factors, a, t + r, key, count);
        for (int j = 0; j < count; j++) scores[r * SCORES_STRIDE + j] *= factors[j];
    }
}

/* Where the forward pass keeps what. */
typedef struct {
    real *panels;             /* of rows */
    Packed k, v;              /* keys, transposed, and values */
    real *scores;             /* (MR,SCORES_STRIDE) */
    real *sums, *top, *total; /* of a query: weights times values so far, the highest score, the weights' sum */
    int width;                /* of a row of sums */
    real *gemm;               /* gemm_work reals */
} ForwardWork;

static size_t forward_work(ForwardWork *w, real *work, int D) {
    const int width = whole_panels(D);
    real *at = work;
    w->width = width;
    w->panels = at, at += PANELS * A_PANEL;
    w->k.units = at, at += packed_size(D, KEYS);
    w->v.units = at, at += packed_size(KEYS, D);
    w->scores = at, at += MR * SCORES_STRIDE;
    w->sums = at, at += QUERIES * width;
    w->top = at, at += QUERIES;
    w->total = at, at += QUERIES;
    w->gemm = at, at += GEMM_WORK;
    return (size_t)(at - work);
}

/* The queries [t, t + rows), rows <= MR, the i-th of their block and on, meet the keys [key, end), packed if
 * `shared`. */
static void meet_keys(const ForwardWork *w, int i, Matrix q_t, Matrix k_s, Matrix v_s, bool shared, const Attention *a,
                      int t, int rows, int key, int end) {
    const int count = smaller(visible_keys(a, t + rows - 1).last, end) - key;
    real *scores = w->scores, *sums = w->sums + i * w->width;
    if (shared)
        gemm_packed(scores, SCORES_STRIDE, q_t, w->k, 0, 0, NULL, rows, whole_panels(count), a->D, false, w->panels);
    else gemm(scores, SCORES_STRIDE, q_t, k_s, NULL, rows, count, a->D, false, w->gemm);
    real shrink[MR];
    weigh_rows(scores, w->top + i, w->total + i, shrink, a, t, rows, key, count);
    for (int r = 0; r < rows; r++)
        if (shrink[r] != 1)
            for (int d = 0; d < w->width; d++) sums[r * w->width + d] *= shrink[r];
    const Matrix weights = matrix_of(scores, SCORES_STRIDE, false);
    if (shared) gemm_packed(sums, w->width, weights, w->v, 0, 0, NULL, rows, w->width, count, true, w->panels);
    else gemm(sums, w->width, weights, v_s, NULL, rows, a->D, count, true, w->gemm);
}

static void attention_forward(real *out, size_t ldo, real *logsumexp, Matrix q, Matrix k, Matrix v, const Attention *a,
                              int t0, int t1, real *work) {
    const int D = a->D;
    ForwardWork w;
    forward_work(&w, work, D);
    for (int t = t0; t < t1; t += QUERIES) {
        const int queries = smaller(QUERIES, t1 - t);
        const Span blocks = visible_blocks(a, t, t + queries);
        memset(w.sums, 0, (size_t)(queries * w.width) * sizeof(real));
        for (int i = 0; i < queries; i++) {
            w.top[i] = -INFINITY;
            w.total[i] = 0;
        }
        for (int s = blocks.first; s < blocks.last; s += KEYS) {
            const int end = smaller(s + KEYS, blocks.last);
            const Matrix k_s = matrix_transposed(matrix_at(k, s, 0)), v_s = matrix_at(v, s, 0);
            const bool shared = queries > MR;
            if (shared) {
                pack_whole(&w.k, k_s, D, end - s);
                pack_whole(&w.v, v_s, end - s, D);
            }
            for (int i = 0; i < queries; i += MR) {
                const int rows = smaller(MR, queries - i);
                const Matrix q_t = matrix_at(q, t + i, 0);
                if (sees_any(a, t + i, t + i + rows, s, end))
                    meet_keys(&w, i, q_t, k_s, v_s, shared, a, t + i, rows, s, end);
            }
        }
        for (int i = 0; i < queries; i++) {
            const real factor = w.total[i] == 0 ? 0 : 1 / w.total[i];
            const real *sums = w.sums + i * w.width;
            real *out_t = out + (t + i - t0) * ldo;
            for (int d = 0; d < D; d++) out_t[d] = sums[d] * factor;
            logsumexp[t + i] = w.top[i] + math_log(w.total[i]);
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
    const int whole = mask_scores(scores, a, t, key, count);
    if (a->dropout.rate > 0) {
        real factors[KEYS];
        dropout_factors(factors, a, t, key, count);
        for (int j = 0; j < count; j++) {
            const real p = math_weight(scores[j] - logsumexp);
            scores[j] = p * factors[j];
            dscores[j] = scale * p * (dscores[j] * factors[j] - delta);
        }
    } else {
        for (int j = 0; j < whole; j++) {
            const real p = math_weight(scores[j] - logsumexp);
            scores[j] = p;
            dscores[j] = scale * p * (dscores[j] - delta);
        }
    }
}

/* Where the backward pass keeps what. */
typedef struct {
    real *panels; /* of rows */
    Packed k_turned, v_turned, k, q, dout;
    real *scores, *dscores; /* (TURNED_QUERIES,SCORES_STRIDE) */
} BackwardWork;

static size_t backward_work(BackwardWork *w, real *work, int D) {
    real *at = work;
    w->panels = at, at += PANELS * A_PANEL;
    w->k_turned.units = at, at += packed_size(D, KEYS);
    w->v_turned.units = at, at += packed_size(D, KEYS);
    w->k.units = at, at += packed_size(KEYS, D);
    w->q.units = at, at += packed_size(TURNED_QUERIES, D);
    w->dout.units = at, at += packed_size(TURNED_QUERIES, D);
    w->scores = at, at += TURNED_QUERIES * SCORES_STRIDE;
    w->dscores = at, at += TURNED_QUERIES * SCORES_STRIDE;
    return (size_t)(at - work);
}

/* The queries [t, t + rows), rows <= MR, meet `keys` packed keys from `key` on: p and ds, and what they give dq. */
static void differentiate_rows(const BackwardWork *w, real *scores, real *dscores, real *dq_t, size_t lddq, Matrix q_t,
                               Matrix dout_t, const real *delta, const real *logsumexp, const Attention *a, int t,
                               int rows, int key, int keys) {
    const int last = visible_keys(a, t + rows - 1).last - key, count = last < 0 ? 0 : smaller(last, keys);
    gemm_packed(scores, SCORES_STRIDE, q_t, w->k_turned, 0, 0, NULL, rows, whole_panels(count), a->D, false, w->panels);
    gemm_packed(dscores, SCORES_STRIDE, dout_t, w->v_turned, 0, 0, NULL, rows, whole_panels(count), a->D, false,
                w->panels);
    for (int r = 0; r < rows; r++, scores += SCORES_STRIDE, dscores += SCORES_STRIDE) {
        differentiate_scores(scores, dscores, logsumexp[t + r], delta[t + r], a, t + r, key, count);
        memset(scores + count, 0, (size_t)(keys - count) * sizeof(real));
        memset(dscores + count, 0, (size_t)(keys - count) * sizeof(real));
    }
    dscores -= rows * SCORES_STRIDE;
    gemm_packed(dq_t, lddq, matrix_of(dscores, SCORES_STRIDE, false), w->k, 0, 0, NULL, rows, a->D, count, true,
                w->panels);
}

/* dout . out, of a row of out as products take it: the same whether it was kept as it is or as an operand. */
ALWAYS_INLINE real operand_dot(const real *dout, const Matrix *out, int t, int D, const Storage storage) {
    vreal sum = {0};
    int d = 0;
    for (; d + WIDTH <= D; d += WIDTH) sum += vload(dout + d) * operand_of(stored_vector(out, t, d, storage));
    for (; d < D; d++) sum[0] += dout[d] * operand_of((vreal){stored_number(out, t, d, storage)})[0];
    return lanes_total(sum);
}

static void attention_backward(real *dq, size_t lddq, real *dk, size_t lddk, real *dv, size_t lddv, const real *dout,
                               size_t lddo, Matrix out, real *delta, const real *logsumexp, Matrix q, Matrix k,
                               Matrix v, const Attention *a, int s0, int s1, bool add_k, bool add_v, real *work) {
    const int D = a->D, T = a->T;
    BackwardWork w;
    backward_work(&w, work, D);
    for (int t = 0; t < T && s0 == 0; t++) {
        memset(dq + t * lddq, 0, D * sizeof(real));
        delta[t] = out.storage == STORED_BFLOAT16 ? operand_dot(dout + t * lddo, &out, t, D, STORED_BFLOAT16)
                                                  : operand_dot(dout + t * lddo, &out, t, D, STORED_REAL);
    }
    for (int s = s0; s < s1; s++) {
        if (!add_k) memset(dk + s * lddk, 0, D * sizeof(real));
        if (!add_v) memset(dv + s * lddv, 0, D * sizeof(real));
    }
    for (int s = s0; s < s1; s += KEYS) {
        const int count = smaller(KEYS, s1 - s);
        pack_whole(&w.k_turned, matrix_transposed(matrix_at(k, s, 0)), D, count);
        pack_whole(&w.v_turned, matrix_transposed(matrix_at(v, s, 0)), D, count);
        pack_whole(&w.k, matrix_at(k, s, 0), count, D);
        for (int t = 0; t < T; t += TURNED_QUERIES) {
            const int queries = smaller(TURNED_QUERIES, T - t);
            if (!sees_any(a, t, t + queries, s, s + count)) continue;
            const int keys = smaller(visible_keys(a, t + queries - 1).last - s, count);
            const Matrix q_t = matrix_at(q, t, 0), dout_t = matrix_of(dout + t * lddo, lddo, false);
            for (int i = 0; i < queries; i += MR)
                differentiate_rows(&w, w.scores + i * SCORES_STRIDE, w.dscores + i * SCORES_STRIDE, dq + (t + i) * lddq,
                                   lddq, matrix_at(q_t, i, 0), matrix_at(dout_t, i, 0), delta, logsumexp, a, t + i,
                                   smaller(MR, queries - i), s, keys);
            pack_whole(&w.dout, dout_t, queries, D);
            pack_whole(&w.q, q_t, queries, D);
            gemm_packed(dv + s * lddv, lddv, matrix_of(w.scores, SCORES_STRIDE, true), w.dout, 0, 0, NULL, keys, D,
                        queries, true, w.panels);
            gemm_packed(dk + s * lddk, lddk, matrix_of(w.dscores, SCORES_STRIDE, true), w.q, 0, 0, NULL, keys, D,
                        queries, true, w.panels);
        }
    }
}

static void attention_pattern(real *pattern, size_t ldp, const real *logsumexp, Matrix q, Matrix k, const Attention *a,
                              real *work) {
    gemm(pattern, ldp, q, matrix_transposed(k), NULL, a->T, a->Tk, a->D, false, work);
    for (int t = 0; t < a->T; t++, pattern += ldp) {
        const Span seen = visible_keys(a, t);
        for (int s = 0; s < a->Tk; s++) {
            const bool sees = s >= seen.first && s < seen.last && (!a->mask || a->mask[s]);
            pattern[s] = sees ? math_weight(pattern[s] * a->scale - logsumexp[t]) : 0;
        }
    }
}

static size_t attention_work(int D) {
    const size_t forward = forward_work(&(ForwardWork){0}, NULL, D),
                 backward = backward_work(&(BackwardWork){0}, NULL, D);
    return forward > backward ? forward : backward;
}
