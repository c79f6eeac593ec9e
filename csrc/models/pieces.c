/* pieces: operands come from outside, so a plan of one step differentiates them like any other. */
#include "models/pieces.h"

#include "base/arena.h"
#include "kernels/engine.h"
#include "ops/ops.h"

#include <math.h>
#include <string.h>

typedef struct {
    const Piece *piece;
    Plan plan;
    Tensor *in[PIECE_ARRAYS];
} Bench;

/* "weight" is the second operand, "bias" the third. */
static Tensor *operand(Plan *p, const char *path, int ndim, const int *shape) {
    Bench *b = p->owner;
    int i = strstr(path, "bias") ? 2 : 1;
    const PieceArray *a = &b->piece->in[i];
    for (int d = 0; d < ndim; d++)
        if (a->ndim != ndim || a->shape[d] != shape[d])
            error_set(&p->error, ERROR_SHAPE, "%s: %s has %d in dimension %d, %d is needed", b->piece->op,
                      i == 1 ? "weight" : "bias", d < a->ndim ? a->shape[d] : 0, d, shape[d]);
    return p->error.code == FINE ? b->in[i] : &p->nowhere;
}

static Tensor *bring(Plan *p, const PieceArray *a) {
    if (!a->data) return NULL;
    Tensor *t = tensor_outside(p, a->ndim, a->shape, a->data);
    if (!a->grad) return t;
    t->grad = tensor_outside(p, a->ndim, a->shape, a->grad);
    t->needs_grad = true;
    return t;
}

static Tensor *record_piece(Bench *b) {
    const Piece *c = b->piece;
    Plan *p = &b->plan;
    Tensor *const *in = b->in;
    const char *op = c->op;
    if (!strcmp(op, "embedding")) return embed(p, c->in[1].shape[0], c->in[1].shape[1], BY_IDS, -1);
    if (!strcmp(op, "rmsnorm")) return rmsnorm(p, in[0], (real)c->number);
    if (!strcmp(op, "layernorm")) return layernorm(p, in[0], (real)c->number);
    if (!strcmp(op, "linear")) return multiply(p, in[0], in[1], in[2], false);
    if (!strcmp(op, "activation")) return activate(p, in[0], (Activation)c->kind);
    if (!strcmp(op, "gate")) return gate(p, in[0], in[1], (Activation)c->kind);
    if (!strcmp(op, "softmax")) return softmax(p, in[0]);
    if (!strcmp(op, "cross_entropy")) return cross_entropy(p, in[0]);
    if (!strcmp(op, "rope")) return rope(p, in[0], rope_table(p, c->D), c->heads, c->D);
    AttendNumbers n = {.H = c->heads, .G = c->groups, .D = c->D, .window = c->window, .causal = c->causal,
                       .scale = (real)c->number};
    return attend(p, in[0], in[1], in[2], n, NULL);
}

static void replay(Bench *b, Tensor *out, Cancel *cancel) {
    const Piece *c = b->piece;
    Plan *p = &b->plan;
    const Kernels *k = engine_kernels();
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
        Exec x = {.k = k, .B = c->B, .T = c->T, .scratch = scratch->data, .scratch_stride = p->scratch,
                  .workspace = workspace, .slots = slots, .cancel = cancel,
                  .feed = {.ids = c->ids, .targets = c->ids, .positions = c->ids, .mask = c->mask,
                           .mask_stride = c->in[1].ndim > 1 ? (size_t)c->in[1].shape[1] : 0, .inv_freq = inv_freq,
                           .rope_factor = 1, .items = c->number}};
        bool going = plan_forward(p, &x, 0, p->count) && (!c->dout || plan_backward(p, &x));
        if (!going) error_set(&p->error, ERROR_CANCELLED, "interrupted");
        else if (c->out) memcpy(c->out, out->data, tensor_count(out) * sizeof(real));
    }
    arena_release(arena);
    arena_release(scratch);
}

bool piece_run(const Piece *c, Error *e, Cancel *cancel) {
    Bench b = {.piece = c};
    Plan *p = &b.plan;
    p->B = c->B;
    p->T = c->T;
    p->backward = c->dout != NULL;
    p->owner = &b;
    p->parameter = operand;
    plan_begin(p);
    for (int i = 0; i < PIECE_ARRAYS; i++) b.in[i] = bring(p, &c->in[i]);
    Tensor *out = record_piece(&b);
    out->kept = true;
    if (p->error.code == FINE && c->dout) {
        out->grad = tensor_outside(p, out->ndim, out->shape, (real *)c->dout);
        out->grad_written = true;
    }
    if (plan_finish(p, engine_kernels())) replay(&b, out, cancel);
    *e = p->error;
    plan_free(p);
    return e->code == FINE;
}
