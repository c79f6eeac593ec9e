/* functional: operands come from outside, so a plan of one step differentiates them like any other. */
#include "runs/functional.h"

#include "base/arena.h"
#include "base/clock.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Functional *asked;
    Plan plan;
    Tensor *in[FUNCTIONAL_ARRAYS];
} Single;

/* --- what an op needs so that it stays within its operands
 * ---------------------------------------------------------- */
typedef struct {
    const char *op;
    int arrays;      /* operands that must be there, one bit each */
    int ndim;        /* of the first; 0: any */
    bool ids;        /* (B,T) of them */
    bool all_or_none; /* its kernel gives every gradient or none */
} Need;

static const Need needs[] = {
    {"embedding", 2, 0, true, false},  {"rmsnorm", 3, 0, false, false},   {"layernorm", 7, 0, false, false},
    {"linear", 3, 0, false, false},    {"activation", 1, 0, false, false}, {"gate", 3, 0, false, true},
    {"softmax", 1, 0, false, false},   {"cross_entropy", 1, 3, true, false}, {"rope", 1, 3, true, false},
    {"attention", 7, 3, false, true},
};

static bool same_shape(const FunctionalArray *a, const FunctionalArray *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

/* in[0] is (B, T, anything). */
static bool spans_call(const Functional *c) { return c->in[0].shape[0] == c->B && c->in[0].shape[1] == c->T; }

static const char *what_is_wrong(const Functional *c, const Need *n) {
    int gradients = 0, operands = 0;
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++) {
        if ((n->arrays >> i & 1) && !c->in[i].data) return "an operand is missing";
        operands += c->in[i].data != NULL;
        gradients += c->in[i].grad != NULL;
    }
    if (n->ndim && c->in[0].ndim != n->ndim) return "the first operand needs three dimensions";
    if (n->ndim && !spans_call(c)) return "the first operand has other rows and positions than the call";
    if (n->ids && !c->ids) return "ids are missing";
    if (n->all_or_none && gradients && gradients != operands)
        return "some operands have a place for their gradient, others none";
    if (!strcmp(c->op, "embedding") && c->in[1].ndim != 2) return "the weight needs two dimensions";
    if (!strcmp(c->op, "linear") &&
        (c->in[1].ndim != 2 || (c->in[2].data && (c->in[2].ndim != 1 || c->in[2].shape[0] != c->in[1].shape[0]))))
        return "weight (out, in) and bias (out) do not fit";
    if (!strcmp(c->op, "rope") && (c->heads < 1 || c->D < 2 || c->D % 2)) return "heads of an even size are needed";
    if (!strcmp(c->op, "attention") &&
        (c->heads < 1 || c->groups < 1 || c->D < 1 || c->window < 0 || c->in[1].ndim != 3 ||
         c->in[1].shape[0] != c->B || !same_shape(&c->in[1], &c->in[2])))
        return "q, k and v do not go together";
    return NULL;
}

static void check_piece(const Functional *c, Error *e) {
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        if (strcmp(needs[i].op, c->op) != 0) continue;
        const char *wrong = what_is_wrong(c, &needs[i]);
        if (wrong) error_set(e, ERROR_SHAPE, "%s: %s", c->op, wrong);
        return;
    }
    error_set(e, ERROR_NAME, "there is no function '%.100s'", c->op);
}

/* "weight" is the second operand, "bias" the third. */
static Tensor *operand(Plan *p, const Declaration *asked) {
    Single *b = p->owner;
    int i = strstr(asked->path, "bias") ? 2 : 1;
    const FunctionalArray *a = &b->asked->in[i];
    for (int d = 0; d < asked->ndim; d++)
        if (a->ndim != asked->ndim || a->shape[d] != asked->shape[d])
            error_set(&p->error, ERROR_SHAPE, "%s: %s has %d in dimension %d, %d is needed", b->asked->op,
                      i == 1 ? "weight" : "bias", d < a->ndim ? a->shape[d] : 0, d, asked->shape[d]);
    return p->error.code == FINE ? b->in[i] : &p->nowhere;
}

static Tensor *bring(Plan *p, const FunctionalArray *a) {
    if (!a->data) return NULL;
    Tensor *t = tensor_outside(p, a->ndim, a->shape, a->data);
    if (!a->grad) return t;
    t->grad = tensor_outside(p, a->ndim, a->shape, a->grad);
    t->needs_grad = true;
    return t;
}

static Tensor *record_piece(Single *b) {
    const Functional *c = b->asked;
    Plan *p = &b->plan;
    Tensor *const *in = b->in;
    const char *op = c->op;
    if (!strcmp(op, "embedding")) return embed(p, c->in[1].shape[0], c->in[1].shape[1], BY_IDS, -1);
    if (!strcmp(op, "rmsnorm")) return rmsnorm(p, in[0], (real)c->number);
    if (!strcmp(op, "layernorm")) return layernorm(p, in[0], (real)c->number);
    if (!strcmp(op, "linear")) return multiply(p, in[0], in[1], in[2], false);
    if (!strcmp(op, "activation")) return activate(p, in[0], c->act);
    if (!strcmp(op, "gate")) return gate(p, in[0], in[1], c->act);
    if (!strcmp(op, "softmax")) return softmax(p, in[0]);
    if (!strcmp(op, "cross_entropy")) return cross_entropy(p, in[0]);
    if (!strcmp(op, "rope")) return rope(p, in[0], rope_table(p, c->D, 0), c->heads, c->D);
    AttendAttributes n = {.H = c->heads, .G = c->groups, .D = c->D, .window = c->window, .causal = c->causal,
                       .scale = (real)c->number};
    return attend(p, in[0], in[1], in[2], n, NULL);
}

static const Kernels *kernels_for(const Functional *c) {
    return engine_kernels(c->bfloat16 ? PRECISION_BFLOAT16 : PRECISION_FLOAT32);
}

static void replay(Single *b, Tensor *out, Cancel *cancel) {
    const Functional *c = b->asked;
    Plan *p = &b->plan;
    const Kernels *k = kernels_for(c);
    int slots = pool_threads();
    size_t half = (size_t)c->D / 2;
    Arena *arena = arena_new(p->size);
    Arena *scratch = arena_new(p->scratch * (size_t)slots + p->workspace + half);
    if (!arena || !scratch) {
        error_set(&p->error, ERROR_MEMORY, "%s: no memory", c->op);
    } else {
        plan_bind(p, arena->data);
        real *workspace = scratch->data + p->scratch * (size_t)slots, *inv_freq = workspace + p->workspace;
        for (size_t i = 0; i < half; i++) inv_freq[i] = (real)(1 / pow(c->number, 2.0 * (double)i / c->D));
        const Rotary rotary = {inv_freq, 1};
        const Feed feed = {.ids = c->ids, .targets = c->ids, .positions = c->ids, .mask = c->mask,
                           .mask_stride = c->in[1].ndim > 1 ? (size_t)c->in[1].shape[1] : 0, .rotary = &rotary,
                           .items = c->number};
        Exec x = {.k = k, .feed = &feed, .B = c->B, .T = c->T, .scratch = scratch->data, .scratch_stride = p->scratch,
                  .workspace = workspace, .slots = slots, .cancel = cancel};
        bool going = plan_forward(p, &x, 0, p->count) && (!c->dout || plan_backward(p, &x));
        for (int i = 0; i < c->repeats && going; i++) {
            double start = clock_seconds();
            going = c->dout ? plan_backward(p, &x) : plan_forward(p, &x, 0, p->count);
            c->seconds[i] = clock_seconds() - start;
        }
        if (!going) error_set(&p->error, ERROR_CANCELLED, "interrupted");
        else if (c->out) memcpy(c->out, out->data, tensor_count(out) * sizeof(real));
    }
    arena_release(arena);
    arena_release(scratch);
}

bool functional_run(const Functional *c, Error *e, Cancel *cancel) {
    Single b = {.asked = c};
    Plan *p = &b.plan;
    p->B = c->B;
    p->T = c->T;
    p->backward = c->dout != NULL;
    p->owner = &b;
    p->parameter = operand;
    plan_begin(p);
    check_piece(c, &p->error);
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++) b.in[i] = bring(p, &c->in[i]);
    Tensor *out = p->error.code == FINE ? record_piece(&b) : &p->nowhere;
    if (tensor_count(out) != c->count)
        error_set(&p->error, ERROR_SHAPE, "%s: the result has %zu numbers, %zu were expected", c->op, tensor_count(out),
                  c->count);
    out->kept = true;
    if (p->error.code == FINE && c->dout) {
        out->grad = tensor_outside(p, out->ndim, out->shape, (real *)c->dout);
        out->grad_written = true;
    }
    if (plan_finish(p, kernels_for(c))) replay(&b, out, cancel);
    *e = p->error;
    plan_free(p);
    return e->code == FINE;
}
