/* op_linear: out = x weight^T + bias, with the weight as the file stores it: (O,I), or (I,O) for a Conv1D. */
#include "ops/deep.h"
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    bool in_out; /* weight is (I,O) */
} Numbers;

typedef struct {
    const Step *s;
    Exec *x;
    Product products[2]; /* forward: out;  backward: dweight, dinp */
    int count[2];
    Parts parts;         /* of dweight */
} Job;

static void forward_tile(void *context, size_t index, int slot) {
    const Job *j = context;
    const Tensor *out = j->s->out[0];
    if (out->halved) product_tile_halved(&j->products[0], out->half, index, j->x, slot);
    else product_tile(&j->products[0], index, j->x, slot);
}

/* --- few rows, weight (I,O): a task takes inputs, not outputs, so that it reads on and on; its sums are partial ------ */
#define PART_COLUMNS_EACH 512
#define PARTS 8 /* about so many; more take more adding up */

static bool cut_by_inputs(const Step *s) { return step_numbers(s, Numbers)->in_out && s->in[0]->rows <= FEW_ROWS; }

/* Inputs of a task: whole groups. */
static size_t inputs_each(const Step *s) {
    const size_t I = s->in[0]->cols;
    return ((I + PARTS - 1) / PARTS + GROUP - 1) / GROUP * GROUP;
}

static void add_part(void *context, size_t index, int slot) {
    const Work *w = context;
    const Tensor *in = w->s->in[0], *out = w->s->out[0];
    const Slice part = slice_at(in->cols, inputs_each(w->s), index);
    w->x->k->gemm(w->x->workspace + index * tensor_count(out), out->cols, matrix_at(operand(in, false), 0, part.first),
                  matrix_at(operand(w->s->in[1], false), part.first, 0), NULL, (int)out->rows, (int)out->cols,
                  (int)part.count, false, scratch_of(w->x, slot));
}

static void sum_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *out = w->s->out[0];
    const Slice columns = slice_at(out->cols, PART_COLUMNS_EACH, index);
    const size_t parts = (size_t)slice_count(w->s->in[0]->cols, inputs_each(w->s));
    for (size_t m = 0; m < out->rows; m++) {
        const size_t first = m * out->stride + columns.first;
        real *sum = w->x->workspace + m * out->cols + columns.first;
        for (size_t i = 1; i < parts; i++) w->x->k->accumulate(sum, sum + i * tensor_count(out), columns.count);
        if (w->s->ins > 2) w->x->k->accumulate(sum, w->s->in[2]->data + columns.first, columns.count);
        if (out->halved) w->x->k->round(out->half + first, sum, columns.count);
        else memcpy(out->data + first, sum, columns.count * sizeof(real));
    }
}

static void forward_by_inputs(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[0]->cols, inputs_each(s), add_part);
    parallel_slices(s, x, s->out[0]->cols, PART_COLUMNS_EACH, sum_parts);
}

static size_t sums_size(const Step *s) {
    return cut_by_inputs(s) ? (size_t)slice_count(s->in[0]->cols, inputs_each(s)) * tensor_count(s->out[0]) : 0;
}

/* --- forwards ------------------------------------------------------------------------------------------------------ */
static void forward(const Step *s, Exec *x) {
    if (cut_by_inputs(s)) {
        forward_by_inputs(s, x);
        return;
    }
    const Tensor *in = s->in[0], *weight = s->in[1], *out = s->out[0];
    bool in_out = step_numbers(s, Numbers)->in_out;
    Job job = {.s = s, .x = x};
    job.products[0] = product(out->data, out->stride, operand(in, false), operand(weight, !in_out),
                              s->ins > 2 ? s->in[2]->data : NULL, (int)in->cols, false,
                              tiles_of((int)out->rows, (int)out->cols));
    share_operand(&job.products[0], x, x->workspace);
    parallel(x, (size_t)job.products[0].tiles.count, forward_tile, &job);
}

static void bias_columns(const Job *j, size_t index) {
    const Tensor *dout = j->s->out[0]->grad;
    size_t first = index * COLUMNS_EACH, end = slice_end(dout->cols, COLUMNS_EACH, index);
    real *dbias = grad_of(j->s, 2) + first;
    if (!grad_adds(j->s, j->x, 2)) memset(dbias, 0, (end - first) * sizeof(real));
    j->x->k->column_sums(dbias, dout->data + first, dout->stride, (int)dout->rows, (int)(end - first));
}

static void backward_tile(void *context, size_t index, int slot) {
    const Job *j = context;
    for (int i = 0; i < 2; i++) {
        if (index < (size_t)j->count[i]) {
            if (i == 0 && j->parts.count > 1) product_part(&j->products[0], j->parts, index, j->x, slot);
            else product_tile(&j->products[i], index, j->x, slot);
            return;
        }
        index -= (size_t)j->count[i];
    }
    bias_columns(j, index);
}

static void add_weight_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    add_parts_slice(&j->products[0], j->parts, index, j->x);
}

/* The gradient of the weight comes first: its tasks are the longer ones. */
static void backward(const Step *s, Exec *x) {
    const Tensor *in = s->in[0], *weight = s->in[1], *dout = s->out[0]->grad;
    bool in_out = step_numbers(s, Numbers)->in_out;
    int N = (int)in->rows, I = (int)in->cols, O = (int)dout->cols;
    real *dinp = grad_of(s, 0), *dweight = grad_of(s, 1);
    Job job = {.s = s, .x = x, .parts = parts_of((size_t)I, (size_t)O, (size_t)N)};
    if (dweight && in_out) { /* dweight (I,O) = x^T dout */
        job.products[0] = product(dweight, weight->stride, operand(in, true), operand(dout, false), NULL, N,
                                  grad_adds(s, x, 1), tiles_of(I, O));
    } else if (dweight) { /* dweight (O,I) = dout^T x */
        job.products[0] = product(dweight, weight->stride, operand(dout, true), operand(in, false), NULL, N,
                                  grad_adds(s, x, 1), tiles_of(O, I));
    }
    if (dweight) job.count[0] = job.parts.count > 1 ? job.parts.count : job.products[0].tiles.count;
    if (dinp) { /* dinp (N,I) = dout (N,O) weight */
        job.products[1] = product(dinp, in->grad->stride, operand(dout, false), operand(weight, in_out), NULL, O,
                                  grad_adds(s, x, 0), tiles_of(N, I));
        job.count[1] = job.products[1].tiles.count;
    }
    real *spare = x->workspace + parts_size((size_t)I, (size_t)O, (size_t)N);
    if (dweight && job.parts.count == 1) spare += share_operand(&job.products[0], x, spare);
    if (dinp) share_operand(&job.products[1], x, spare);
    int bias = s->ins > 2 && grad_of(s, 2) ? slice_count(dout->cols, COLUMNS_EACH) : 0;
    parallel(x, (size_t)(job.count[0] + job.count[1] + bias), backward_tile, &job);
    if (dweight && job.parts.count > 1)
        parallel(x, (size_t)slice_count((size_t)I * (size_t)O, ELEMENTS_EACH), add_weight_parts, &job);
}

static double flops(const Step *s) { return 2.0 * (double)tensor_count(s->in[0]) * (double)s->out[0]->cols; }

static size_t scratch(const Step *s, const Kernels *k) {
    Tiles tiles = tiles_of((int)s->out[0]->rows, (int)s->out[0]->cols);
    return k->gemm_work + (s->out[0]->halved ? spare_of(&tiles) : 0);
}

static size_t forwards_size(const Step *s, const Kernels *k) {
    if (cut_by_inputs(s)) return sums_size(s);
    return shared_size(k, (int)s->in[0]->rows, (int)s->out[0]->cols, (int)s->in[0]->cols);
}

static size_t backwards_size(const Step *s, const Kernels *k) {
    if (!s->differentiated) return 0;
    bool in_out = step_numbers(s, Numbers)->in_out;
    int N = (int)s->in[0]->rows, I = (int)s->in[0]->cols, O = (int)s->out[0]->cols;
    size_t size = parts_size((size_t)I, (size_t)O, (size_t)N);
    size += in_out ? shared_size(k, I, O, N) : shared_size(k, O, I, N);
    return size + shared_size(k, N, I, O);
}

static size_t workspace(const Step *s, const Kernels *k) {
    const size_t forwards = forwards_size(s, k), backwards = backwards_size(s, k);
    return forwards > backwards ? forwards : backwards;
}

static const Op LINEAR = {.name = "linear", .forward = forward, .backward = backward, .flops = flops,
                          .scratch = scratch, .workspace = workspace, .saved_inputs = 3, .multiplies = 1, .halves = true,
                          .costly = 3, .backward_flops = 1};

Tensor *multiply(Plan *p, Tensor *x, Tensor *weight, Tensor *bias, bool in_out) {
    int I = weight->shape[in_out ? 0 : 1], O = weight->shape[in_out ? 1 : 0];
    if ((size_t)I != x->cols)
        error_set(&p->error, ERROR_SHAPE, "%s: input width %zu does not fit a weight of %d inputs", p->path, x->cols, I);
    Tensor *out = tensor_wide(p, x, O);
    Numbers n = {in_out};
    record(p, &LINEAR, bias ? 3 : 2, TENSORS(x, weight, bias), 1, TENSORS(out), &n, sizeof n);
    return out;
}

Tensor *linear(Plan *p, Tensor *x, int O, bool bias, bool in_out) {
    int I = (int)x->cols;
    Tensor *weight = parameter(p, "weight", 2, in_out ? (int[]){I, O} : (int[]){O, I});
    Tensor *b = bias ? parameter(p, "bias", 1, (int[]){O}) : NULL;
    return adapted(p, x, multiply(p, x, weight, b, in_out));
}
