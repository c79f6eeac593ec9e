/* op_linear: linears of one x in one step: out_i = x weight_i^T + bias_i, each weight as the file has it: (O,I), or
 * (I,O) for a Conv1D, which lies as (O,I) where it is narrow (storage.h). Their tasks are one lot, and the gradient
 * of x is written once. */
#include "ops/split_k.h"
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

#include <stdio.h>
#include <string.h>

/* in: x, the weights, as many biases (NULL: none);  out: one a weight. All have gradients in a backward pass, or
 * none. */
enum { X, WEIGHT };
typedef struct {
    bool in_out; /* weights are (I,O) */
} Attributes;

static int weight_at(int i) { return WEIGHT + i; }
static int bias_at(const Step *s, int i) { return WEIGHT + s->outs + i; }
static const real *bias_of(const Step *s, int i) {
    const Tensor *bias = s->in[bias_at(s, i)];
    return bias ? bias->data : NULL;
}
static bool in_out_of(const Step *s) { return attributes_of(s, Attributes)->in_out; }

/* Tasks of every output, one number each: those of the first, then those of the next. */
static size_t tasks_sum(const size_t *tasks, int outs) {
    size_t sum = 0;
    for (int i = 0; i < outs; i++) sum += tasks[i];
    return sum;
}

/* Whose task `index` is, which becomes its number among those; outs: it comes after all of them. */
static int tasks_find(const size_t *tasks, int outs, size_t *index) {
    int i = 0;
    while (i < outs && *index >= tasks[i]) *index -= tasks[i++];
    return i;
}

/* Which of `count` tasks the index-th is, so that of threads that take turns each reads on where it ended. */
static size_t reading_on(size_t index, size_t count, size_t threads) {
    const size_t each = count / threads, longer = count % threads, thread = index % threads;
    return thread * each + (thread < longer ? thread : longer) + index / threads;
}

/* --- few rows, weights that lie as (I,O): a task takes inputs, not outputs, so that it reads on and on; sums are
 * partial */
#define PART_COLUMNS_EACH 512
#define PARTS 8 /* about so many; more take more adding up */
#define PART_GRAIN 64

static bool cut_by_inputs(const Step *s) {
    const Stored *narrow = s->in[weight_at(0)]->narrow;
    return in_out_of(s) && !(narrow && narrow->transposed) && s->in[X]->rows <= FEW_ROWS;
}

static size_t inputs_each(const Step *s) {
    const size_t I = s->in[X]->cols;
    return ((I + PARTS - 1) / PARTS + PART_GRAIN - 1) / PART_GRAIN * PART_GRAIN;
}
static size_t input_parts(const Step *s) { return (size_t)slice_count(s->in[X]->cols, inputs_each(s)); }

/* Reals before the partial sums of output i. */
static size_t sums_before(const Step *s, int i) {
    size_t size = 0;
    for (int k = 0; k < i; k++) size += input_parts(s) * tensor_count(s->out[k]);
    return size;
}

static void add_part(void *context, size_t index, int slot) {
    const Work *w = context;
    const size_t parts = input_parts(w->s);
    index = reading_on(index, (size_t)w->s->outs * parts, (size_t)w->x->slots);
    const size_t number = index % parts;
    const int i = (int)(index / parts);
    const Tensor *in = w->s->in[X], *out = w->s->out[i];
    const Slice part = slice_at(in->cols, inputs_each(w->s), number);
    w->x->k->gemm(w->x->workspace + sums_before(w->s, i) + number * tensor_count(out), out->cols,
                  matrix_at(operand(in, false), 0, part.first),
                  matrix_at(operand(w->s->in[weight_at(i)], false), part.first, 0), NULL, (int)out->rows,
                  (int)out->cols, (int)part.count, false, scratch_of(w->x, slot));
}

typedef struct {
    Work work;
    const size_t *columns; /* tasks */
} Sums;

static void sum_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Sums *sums = context;
    const Work *w = &sums->work;
    const int i = tasks_find(sums->columns, w->s->outs, &index);
    const Tensor *out = w->s->out[i];
    const real *bias = bias_of(w->s, i);
    const Slice columns = slice_at(out->cols, PART_COLUMNS_EACH, index);
    for (size_t m = 0; m < out->rows; m++) {
        const size_t first = m * out->stride + columns.first;
        real *sum = w->x->workspace + sums_before(w->s, i) + m * out->cols + columns.first;
        for (size_t k = 1; k < input_parts(w->s); k++)
            w->x->k->accumulate(sum, sum + k * tensor_count(out), columns.count);
        if (bias) w->x->k->accumulate(sum, bias + columns.first, columns.count);
        if (out->is_bfloat16) w->x->k->round(out->bfloat16 + first, sum, columns.count);
        else memcpy(out->data + first, sum, columns.count * sizeof(real));
    }
}

static void forward_by_inputs(const Step *s, Exec *x) {
    size_t columns[s->outs];
    for (int i = 0; i < s->outs; i++) columns[i] = (size_t)slice_count(s->out[i]->cols, PART_COLUMNS_EACH);
    Sums sums = {{s, x}, columns};
    parallel(x, (size_t)s->outs * input_parts(s), add_part, &sums.work);
    parallel(x, tasks_sum(columns, s->outs), sum_parts, &sums);
}

/* --- forwards ----------------------------------------------------------------------------------------------------- */
typedef struct {
    const Step *s;
    Exec *x;
    const Product *products; /* one an output */
    const size_t *tiles;     /* tasks */
} Forward;

static void forward_tile(void *context, size_t index, int slot) {
    const Forward *f = context;
    const int outs = f->s->outs;
    if (f->s->in[X]->rows <= FEW_ROWS) index = reading_on(index, tasks_sum(f->tiles, outs), (size_t)f->x->slots);
    const int i = tasks_find(f->tiles, outs, &index);
    const Tensor *out = f->s->out[i];
    if (out->is_bfloat16) product_tile_bfloat16(&f->products[i], out->bfloat16, index, f->x, slot);
    else product_tile(&f->products[i], index, f->x, slot);
}

static void forward(const Step *s, Exec *x) {
    if (cut_by_inputs(s)) {
        forward_by_inputs(s, x);
        return;
    }
    const Tensor *in = s->in[X];
    Product products[s->outs];
    size_t tiles[s->outs];
    real *spare = x->workspace;
    for (int i = 0; i < s->outs; i++) {
        const Tensor *out = s->out[i];
        products[i] = product(out->data, out->stride, operand(in, false), operand(s->in[weight_at(i)], !in_out_of(s)),
                              bias_of(s, i), (int)out->rows, (int)out->cols, (int)in->cols, false);
        tiles[i] = (size_t)products[i].tiles.count;
        spare += share_operand(&products[i], x, spare);
    }
    Forward f = {s, x, products, tiles};
    parallel(x, tasks_sum(tiles, s->outs), forward_tile, &f);
}

/* --- backwards ---------------------------------------------------------------------------------------------------- */
/* What an output takes part in. */
typedef struct {
    Product weight; /* dweight, */
    SplitK parts;    /* its parts, */
    real *place;    /* and where they lie */
    Product input;  /* dx is the sum of these */
} Terms;

typedef struct {
    const Step *s;
    Exec *x;
    Terms *terms; /* one an output */
    size_t *weight_tasks, *adding_tasks, *bias_tasks;
    size_t input_tiles;
} Backward;

static int weight_rows(const Step *s, int i) { return (int)(in_out_of(s) ? s->in[X]->cols : s->out[i]->cols); }
static int weight_cols(const Step *s, int i) { return (int)(in_out_of(s) ? s->out[i]->cols : s->in[X]->cols); }

/* dweight (O,I) = dout^T x, or (I,O) = x^T dout. Returns the workspace behind what it takes of it. */
static real *prepare_weight(Backward *b, int i, real *spare) {
    const Step *s = b->s;
    Terms *t = &b->terms[i];
    const int w = weight_at(i), rows = weight_rows(s, i), cols = weight_cols(s, i), N = (int)s->in[X]->rows;
    const Tensor *in = s->in[X], *dout = s->out[i]->grad, *left = in_out_of(s) ? in : dout,
                 *right = in_out_of(s) ? dout : in;
    const size_t size = (size_t)rows * (size_t)cols;
    t->weight = product(grad_of(s, w), s->in[w]->stride, operand(left, true), operand(right, false), NULL, rows, cols,
                        N, grad_adds(s, b->x, w));
    t->parts = split_of((size_t)rows, (size_t)cols, (size_t)N);
    t->place = spare;
    if (t->parts.count == 1) {
        b->weight_tasks[i] = (size_t)t->weight.tiles.count;
        return spare + share_operand(&t->weight, b->x, spare);
    }
    b->weight_tasks[i] = (size_t)t->parts.count;
    b->adding_tasks[i] = (size_t)slice_count(size, ELEMENTS_EACH);
    return spare + (size_t)t->parts.count * size;
}

/* dx (N,I) = sum_i dout_i weight_i, the last first: the order in which steps of their own would come. */
static real *prepare_input(Backward *b, int i, real *spare) {
    const Step *s = b->s;
    const Tensor *in = s->in[X], *dout = s->out[i]->grad;
    const bool adds = i < s->outs - 1 || grad_adds(s, b->x, X);
    Product *input = &b->terms[i].input;
    const Matrix weight = operand(s->in[weight_at(i)], in_out_of(s));
    *input = product(grad_of(s, X), in->grad->stride, operand(dout, false), weight, NULL,
                     (int)in->rows, (int)in->cols, (int)dout->cols, adds);
    b->input_tiles = (size_t)input->tiles.count;
    return spare + share_operand(input, b->x, spare);
}

static void bias_columns(const Backward *b, int i, size_t index) {
    const Tensor *dout = b->s->out[i]->grad;
    const Slice columns = slice_at(dout->cols, COLUMNS_EACH, index);
    real *dbias = grad_of(b->s, bias_at(b->s, i)) + columns.first;
    if (!grad_adds(b->s, b->x, bias_at(b->s, i))) memset(dbias, 0, columns.count * sizeof(real));
    b->x->k->column_sums(dbias, dout->data + columns.first, dout->stride, (int)dout->rows, (int)columns.count);
}

/* The gradients of the weights come first: their tasks are the longer ones. */
static void backward_task(void *context, size_t index, int slot) {
    const Backward *b = context;
    const int outs = b->s->outs;
    int i = tasks_find(b->weight_tasks, outs, &index);
    if (i < outs) {
        const Terms *t = &b->terms[i];
        if (t->parts.count > 1) product_part(&t->weight, t->parts, t->place, index, b->x, slot);
        else product_tile(&t->weight, index, b->x, slot);
    } else if (index < b->input_tiles) {
        for (i = outs - 1; i >= 0; i--) product_tile(&b->terms[i].input, index, b->x, slot);
    } else {
        index -= b->input_tiles;
        i = tasks_find(b->bias_tasks, outs, &index);
        bias_columns(b, i, index);
    }
}

static void add_weight_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Backward *b = context;
    const Terms *t = &b->terms[tasks_find(b->adding_tasks, b->s->outs, &index)];
    add_splits_slice(&t->weight, t->parts, t->place, index, b->x);
}

static void backward(const Step *s, Exec *x) {
    Terms terms[s->outs];
    size_t weight_tasks[s->outs], adding_tasks[s->outs], bias_tasks[s->outs];
    Backward b = {s, x, terms, weight_tasks, adding_tasks, bias_tasks, 0};
    real *spare = x->workspace;
    for (int i = 0; i < s->outs; i++) {
        const bool bias = s->in[bias_at(s, i)] && grad_of(s, bias_at(s, i));
        weight_tasks[i] = adding_tasks[i] = 0;
        bias_tasks[i] = bias ? (size_t)slice_count(s->out[i]->cols, COLUMNS_EACH) : 0;
        if (grad_of(s, weight_at(i))) spare = prepare_weight(&b, i, spare);
        if (grad_of(s, X)) spare = prepare_input(&b, i, spare);
    }
    parallel(x, tasks_sum(weight_tasks, s->outs) + b.input_tiles + tasks_sum(bias_tasks, s->outs), backward_task, &b);
    parallel(x, tasks_sum(adding_tasks, s->outs), add_weight_parts, &b);
}

/* --- sizes -------------------------------------------------------------------------------------------------------- */
static double flops(const Step *s, int i) { return 2.0 * (double)tensor_count(s->in[X]) * (double)s->out[i]->cols; }

static double gradient_flops(const Step *s, int input) {
    double sum = 0;
    for (int i = 0; i < s->outs; i++) sum += input == X || input == weight_at(i) ? flops(s, i) : 0;
    return sum;
}

static size_t scratch(const Step *s, const Kernels *k) {
    size_t spare = 0;
    for (int i = 0; i < s->outs; i++) {
        const Tiles tiles = tiles_of((int)s->out[i]->rows, (int)s->out[i]->cols);
        if (s->out[i]->is_bfloat16 && spare_of(&tiles) > spare) spare = spare_of(&tiles);
    }
    return k->gemm_work + spare;
}

static size_t forwards_size(const Step *s, const Kernels *k) {
    const int N = (int)s->in[X]->rows, I = (int)s->in[X]->cols;
    size_t size = 0;
    if (cut_by_inputs(s)) return sums_before(s, s->outs);
    for (int i = 0; i < s->outs; i++) size += shared_size(k, N, (int)s->out[i]->cols, I);
    return size;
}

static size_t backwards_size(const Step *s, const Kernels *k) {
    const int N = (int)s->in[X]->rows, I = (int)s->in[X]->cols;
    size_t size = 0;
    for (int i = 0; i < s->outs && s->differentiated; i++) {
        const int rows = weight_rows(s, i), cols = weight_cols(s, i);
        if (s->grad[weight_at(i)] != GRAD_NONE)
            size += split_size((size_t)rows, (size_t)cols, (size_t)N) + shared_size(k, rows, cols, N);
        if (s->grad[X] != GRAD_NONE) size += shared_size(k, N, I, (int)s->out[i]->cols);
    }
    return size;
}

static size_t workspace(const Step *s, const Kernels *k) {
    const size_t forwards = forwards_size(s, k), backwards = backwards_size(s, k);
    return forwards > backwards ? forwards : backwards;
}

/* Biases are saved for nothing, and cost nothing: they lie elsewhere. */
static const Op LINEAR = {.name = "linear", .forward = forward, .backward = backward, .flops = flops,
                          .gradient_flops = gradient_flops, .scratch = scratch, .workspace = workspace,
                          .saved_inputs = FROM(X), .multiplies = 1 << X, .may_be_bfloat16 = FROM(0)};

/* --- recording ---------------------------------------------------------------------------------------------------- */
static void multiply_each(Plan *p, Tensor *x, int count, Tensor *const *weights, Tensor *const *biases, bool in_out,
                          Tensor **out) {
    Tensor *in[WEIGHT + 2 * count];
    in[X] = x;
    for (int i = 0; i < count; i++) {
        int I = weights[i]->shape[in_out ? 0 : 1], O = weights[i]->shape[in_out ? 1 : 0];
        if ((size_t)I != x->cols)
            error_set(&p->error, ERROR_SHAPE, "%s: input width %zu does not fit a weight of %d inputs", p->path,
                      x->cols, I);
        in[WEIGHT + i] = weights[i];
        in[WEIGHT + count + i] = biases[i];
        out[i] = tensor_wide(p, x, O);
    }
    Attributes n = {in_out};
    record(p, &LINEAR, WEIGHT + 2 * count, in, count, out, &n, sizeof n);
}

Tensor *multiply(Plan *p, Tensor *x, Tensor *weight, Tensor *bias, bool in_out) {
    Tensor *out;
    multiply_each(p, x, 1, &weight, &bias, in_out, &out);
    return out;
}

static Tensor *linear(Plan *p, Tensor *x, const Linear *l, bool bias, bool in_out) {
    enter(p, l->part, l->name);
    Tensor *weight = parameter_weight(p, l->part, "weight", (int)x->cols, l->outputs, in_out);
    Tensor *b = bias ? parameter_bias(p, l->part, "bias", l->outputs) : NULL;
    Tensor *y = adapted(p, x, multiply(p, x, weight, b, in_out));
    leave(p, x, y);
    return y;
}

/* A module after which the pass stops has a step of its own, which its gradients do not pass. */
static bool stands_alone(const Plan *p, int count, const Linear *to) {
    bool alone = count == 1;
    for (int i = 0; i < count; i++) alone |= stops_after(p, to[i].name);
    return alone;
}

void linears(Plan *p, Tensor *x, int count, const Linear *to, bool bias, bool in_out, Tensor **out) {
    if (stands_alone(p, count, to)) {
        for (int i = 0; i < count; i++) out[i] = linear(p, x, &to[i], bias, in_out);
        return;
    }
    Tensor *weights[count], *biases[count];
    for (int i = 0; i < count; i++) {
        char leaf[80];
        snprintf(leaf, sizeof leaf, "%s.weight", to[i].name);
        weights[i] = parameter_weight(p, to[i].part, leaf, (int)x->cols, to[i].outputs, in_out);
        snprintf(leaf, sizeof leaf, "%s.bias", to[i].name);
        biases[i] = bias ? parameter_bias(p, to[i].part, leaf, to[i].outputs) : NULL;
    }
    multiply_each(p, x, count, weights, biases, in_out, out);
    for (int i = 0; i < count; i++) {
        enter(p, to[i].part, to[i].name);
        give(p, out[i]);
        out[i] = adapted(p, x, out[i]);
        leave(p, x, out[i]);
    }
}
