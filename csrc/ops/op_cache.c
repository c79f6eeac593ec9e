/* op_cache: keys or values of this call go behind those of the past, head by head. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    int layer;
} Attributes;

enum { NEW, CACHE }; /* in: keys or values of this call (B,T,G*D), those of the past (B,G,capacity,D) */

static void copy_head(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *k = w->s->in[NEW], *cache = w->s->in[CACHE];
    const size_t T = (size_t)k->shape[1], G = (size_t)cache->shape[1], D = cache->cols;
    const real *from = k->data + index / G * T * k->stride + index % G * D;
    const Feed *f = feed_of(w->x);
    const size_t held = (size_t)(f->past - f->first[attributes_of(w->s, Attributes)->layer]);
    size_t to = (index * (size_t)cache->shape[2] + held) * D;
    for (size_t t = 0; t < T; t++, from += k->stride, to += D) {
        if (cache->is_bfloat16) w->x->k->round(cache->bfloat16 + to, from, D);
        else memcpy(cache->data + to, from, D * sizeof(real));
    }
}

static void forward(const Step *s, Exec *x) {
    Work work = {s, x};
    const Tensor *cache = s->in[CACHE];
    const size_t heads = (size_t)cache->shape[0] * (size_t)cache->shape[1];
    if (s->in[NEW]->shape[1] > 1) parallel(x, heads, copy_head, &work);
    else
        for (size_t i = 0; i < heads; i++) copy_head(&work, i, 0); /* sooner done than handed out */
}

static const Op REMEMBER = {.name = "remember", .forward = forward};

Tensor *remember(Plan *p, Tensor *k, Tensor *cache, int layer) {
    Tensor *out = cache->is_bfloat16 ? tensor_outside_bfloat16(p, cache->ndim, cache->shape, cache->bfloat16)
                                : tensor_outside(p, cache->ndim, cache->shape, cache->data);
    Attributes n = {layer};
    record(p, &REMEMBER, 2, TENSORS(k, cache), 1, TENSORS(out), &n, sizeof n);
    return out;
}
