/* op_dropout: elements are dropped by a counter-based generator, keyed by seed, optimizer step, micro-batch and module,
 * so that any thread count and a resumed run drop the same ones. */
#include "base/rng.h"
#include "ops/ops.h"
#include "ops/slices.h"

typedef struct {
    real rate;
    int salt;
} Attributes;

enum { X };
enum { OUT };

typedef struct {
    const Step *s;
    Exec *x;
    Dropout dropout;
    real *out;
    const real *inp;
    bool accumulate;
} Job;

static uint64_t hash(const char *path, int salt) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (const char *c = path; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211u;
    return (h ^ (uint64_t)(unsigned)salt) * 1099511628211u;
}

Dropout dropout_now(const Exec *x, const char *path, int salt, real rate) {
    const Feed *f = feed_of(x);
    if (rate == 0) return (Dropout){0, 0};
    return (Dropout){rng_key(f->seed, f->update, f->micro, hash(path, salt)), rate};
}

static void slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ELEMENTS_EACH, n = slice_end(tensor_count(j->s->in[X]), ELEMENTS_EACH, index) - first;
    j->x->k->dropout(j->out + first, j->inp + first, j->dropout, first, n, j->accumulate);
}

static void run(const Step *s, Exec *x, real *out, const real *inp, bool accumulate) {
    const Attributes *n = attributes_of(s, Attributes);
    Job job = {s, x, dropout_now(x, s->path, n->salt, n->rate), out, inp, accumulate};
    parallel(x, (size_t)slice_count(tensor_count(s->in[X]), ELEMENTS_EACH), slice, &job);
}

static void forward(const Step *s, Exec *x) { run(s, x, s->out[OUT]->data, s->in[X]->data, false); }

static void backward(const Step *s, Exec *x) {
    run(s, x, grad_of(s, X), s->out[OUT]->grad->data, grad_adds(s, x, X));
}

static const Op DROPOUT = {.name = "dropout", .forward = forward, .backward = backward};

Tensor *dropout(Plan *p, Tensor *x, real rate, int salt) {
    if (!p->training || rate == 0) return x;
    Tensor *out = tensor_like(p, x);
    Attributes n = {rate, salt};
    record(p, &DROPOUT, 1, TENSORS(x), 1, TENSORS(out), &n, sizeof n);
    return out;
}
