/* op_mixture: linears by heads. Each head reads a mixture of its own of the normalised streams:
 *
 *   out_i[n, h*D + d] = sum_c linear_i[h*D + d, c] z_h[n,c]
 *   z_h[n,c] = gain[c] sum_m weights[h,m] stream_m[n,c] / rms(stream_m[n,:])
 *
 * The mixtures are as many streams as there are heads. They never lie in memory as a whole: a task makes those of a
 * few heads for a block of rows, and multiplies them while its cache has them; the backward pass makes them again. */
#include "ops/ops.h"
#include "base/arena.h"
#include "ops/split_k.h"

#include <string.h>

typedef struct {
    int H, D, layers;
} Attributes;

/* in: the weights, (H,layers) or (…,H*layers); gain (C); linears (H*D,C), one an output; of every layer its stream
 * and the stream's statistic, NULL where it offers none.   out: (…,H*D). All have gradients in a backward pass, or
 * none. */
enum { WEIGHTS, GAIN, LINEARS };

static int stream_at(const Step *s, int layer) { return LINEARS + s->outs + 2 * layer; }
static int last_stream(const Step *s) { return s->ins - 2; }

#define HEADS_EACH 4 /* of a task: those that share one reading of the streams */
#define BLOCK_ROWS 48

static size_t block_rows(const Step *s) { return s->out[0]->rows < BLOCK_ROWS ? s->out[0]->rows : BLOCK_ROWS; }
static int blocks_of(const Step *s) { return slice_count(s->out[0]->rows, BLOCK_ROWS); }
/* Few rows leave threads without work unless every head is a task. */
static int heads_each(const Step *s) { return s->out[0]->rows <= FEW_ROWS ? 1 : HEADS_EACH; }
static int groups_of(const Step *s) {
    return slice_count((size_t)attributes_of(s, Attributes)->H, (size_t)heads_each(s));
}
static int width_of(const Step *s) { return (int)s->in[GAIN]->cols; }

/* --- what all tasks of a step share ------------------------------------------------------------------------------- */
typedef struct {
    const Step *s;
    Exec *x;
    int H, D, C;
    Mixture mixture;
    real *packed;             /* every linear's heads; NULL: they are read where they lie */
    size_t packed_each;       /* reals of one */
    bool transposed;          /* as forwards reads them */
    MixtureGradients first;   /* of the first heads, which may overwrite */
    const bool *adds;         /* of the other heads: true, all of them */
    real *parts, *sums;       /* of the linears' gradients; of those of weights and gain */
    size_t sums_each, rows_each;
} Job;

/* What is offered; the arrays have room for all layers. */
static Mixture mixture_of(const Step *s, const real **streams, const real **rstds, int *columns) {
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *weights = s->in[WEIGHTS];
    Mixture m = {0, streams, rstds, columns, weights->data, 0, (size_t)n->layers, s->in[GAIN]->data};
    if (weights->cols != (size_t)n->layers) m.row = weights->cols;
    for (int l = 0; l < n->layers; l++) {
        const Tensor *stream = s->in[stream_at(s, l)];
        if (!stream) continue;
        streams[m.count] = stream->data;
        rstds[m.count] = s->in[stream_at(s, l) + 1]->data;
        columns[m.count++] = l;
    }
    return m;
}

static Job job_of(const Step *s, Exec *x, Mixture m) {
    const Attributes *n = attributes_of(s, Attributes);
    return (Job){.s = s, .x = x, .H = n->H, .D = n->D, .C = width_of(s), .mixture = m};
}

/* The mixture as heads from h on read it. */
static Mixture from_head(const Job *j, int h) {
    Mixture m = j->mixture;
    m.weights += (size_t)h * m.head;
    return m;
}

static int heads_from(const Job *j, int h) { return j->H - h < heads_each(j->s) ? j->H - h : heads_each(j->s); }

/* Scratch of a task: gemm's, the rows of its heads, a block of outputs, what a kernel needs. */
static real *rows_of(const Job *j, int slot) { return scratch_of(j->x, slot) + j->x->k->gemm_work; }
static size_t head_size(const Job *j) { return block_rows(j->s) * (size_t)j->C; }
static real *behind_rows(const Job *j, int slot) { return rows_of(j, slot) + HEADS_EACH * head_size(j); }
static real *kernel_work(const Job *j, int slot) { return behind_rows(j, slot) + block_rows(j->s) * (size_t)j->D; }

static size_t scratch(const Step *s, const Kernels *k) {
    const Attributes *n = attributes_of(s, Attributes);
    const size_t C = (size_t)width_of(s);
    return k->gemm_work + block_rows(s) * (HEADS_EACH * C + (size_t)n->D) + HEADS_EACH * (size_t)n->layers + C;
}

/* The mixtures of some heads in a block of rows, each head_size numbers. */
static real *mix_block(const Job *j, int h, Slice rows, int slot) {
    const Mixture m = from_head(j, h);
    real *z = rows_of(j, slot);
    j->x->k->mixture(z, head_size(j), &m, heads_from(j, h), (int)rows.first, (int)rows.count, j->C,
                     kernel_work(j, slot));
    return z;
}

/* --- the linears of a head, packed once for all rows -------------------------------------------------------------- */
static int depth_of(const Job *j) { return j->transposed ? j->C : j->D; }
static int columns_of(const Job *j) { return j->transposed ? j->D : j->C; }

/* Reals of workspace; 0: they are not packed. */
static size_t packed_size(const Step *s, const Kernels *k, bool transposed) {
    const Attributes *n = attributes_of(s, Attributes);
    const int C = width_of(s);
    const size_t each = arena_round(k->packed_size(transposed ? C : n->D, transposed ? n->D : C));
    const size_t all = each * (size_t)n->H * (size_t)s->outs;
    return blocks_of(s) < SHARED_LEAST || all > SHARED_MOST / sizeof(real) * (size_t)s->outs ? 0 : all;
}

static Matrix head_of(const Job *j, int i, int h) {
    const Matrix linear = operand(j->s->in[LINEARS + i], j->transposed);
    return j->transposed ? matrix_at(linear, 0, (size_t)h * (size_t)j->D) : matrix_at(linear, (size_t)(h * j->D), 0);
}

static void pack_head(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Matrix head = head_of(j, (int)index / j->H, (int)index % j->H);
    j->x->k->pack(j->packed + index * j->packed_each, head, depth_of(j), columns_of(j), 0, columns_of(j));
}

/* Returns the workspace behind what it takes of it. */
static real *pack_heads(Job *j, bool transposed, real *spare) {
    const size_t size = packed_size(j->s, j->x->k, transposed), count = (size_t)(j->H * j->s->outs);
    j->transposed = transposed;
    if (size == 0) return spare;
    j->packed = spare;
    j->packed_each = size / count;
    parallel(j->x, count, pack_head, j);
    return spare + size;
}

/* out (rows,·) = A linear_i of head h, as the job reads it */
static void multiply_head(const Job *j, int i, int h, Matrix A, size_t rows, real *out, size_t ldo, bool add,
                          int slot) {
    const int N = columns_of(j);
    real *packed = j->packed ? j->packed + (size_t)(i * j->H + h) * j->packed_each : NULL;
    const Product p = {.A = A, .B = head_of(j, i, h), .K = depth_of(j), .accumulate = add,
                       .packed = {packed, depth_of(j), N}};
    multiply_tile(&p, (Tile){0, 0, (int)rows, N}, out, ldo, j->x, slot);
}

/* --- forwards ----------------------------------------------------------------------------------------------------- */
static void write_head(const Job *j, int i, int h, const real *z, Slice rows, int slot) {
    const Tensor *out = j->s->out[i];
    const Matrix A = matrix_of(z, (size_t)j->C, false);
    const size_t at = rows.first * out->stride + (size_t)(h * j->D);
    if (!out->is_bfloat16) {
        multiply_head(j, i, h, A, rows.count, out->data + at, out->stride, false, slot);
        return;
    }
    real *spare = behind_rows(j, slot);
    multiply_head(j, i, h, A, rows.count, spare, (size_t)j->D, false, slot);
    for (size_t n = 0; n < rows.count; n++)
        j->x->k->round(out->bfloat16 + at + n * out->stride, spare + n * (size_t)j->D, (size_t)j->D);
}

static void forward_task(void *context, size_t index, int slot) {
    const Job *j = context;
    const size_t groups = (size_t)groups_of(j->s);
    const Slice rows = slice_at(j->s->out[0]->rows, BLOCK_ROWS, index / groups);
    const int h = (int)(index % groups) * heads_each(j->s), heads = heads_from(j, h);
    const real *z = mix_block(j, h, rows, slot);
    for (int k = 0; k < heads; k++)
        for (int i = 0; i < j->s->outs; i++) write_head(j, i, h + k, z + (size_t)k * head_size(j), rows, slot);
}

static void forward(const Step *s, Exec *x) {
    const int layers = attributes_of(s, Attributes)->layers;
    const real *streams[layers], *rstds[layers];
    int columns[layers];
    Job job = job_of(s, x, mixture_of(s, streams, rstds, columns));
    pack_heads(&job, true, x->workspace);
    parallel(x, (size_t)(blocks_of(s) * groups_of(s)), forward_task, &job);
}

/* --- backwards: the linears --------------------------------------------------------------------------------------- */
#define LINEAR_TASKS 16

/* Rows are cut into parts, whose sums are added in order afterwards, where groups of heads alone are too few tasks. */
static SplitK linear_parts(const Step *s) {
    const size_t N = s->out[0]->rows, most = N < 8 * BLOCK_ROWS ? 1 : N / (4 * BLOCK_ROWS);
    const size_t enough = (size_t)slice_count(LINEAR_TASKS, (size_t)groups_of(s));
    const size_t count = most < enough ? most : enough;
    const size_t depth = ((N + count - 1) / count + BLOCK_ROWS - 1) / BLOCK_ROWS * BLOCK_ROWS;
    return (SplitK){slice_count(N, depth), (int)depth};
}

static bool trains(const Step *s, int i) { return s->grad[LINEARS + i] != GRAD_NONE; }
static bool any_trains(const Step *s) {
    bool any = false;
    for (int i = 0; i < s->outs; i++) any |= trains(s, i);
    return any;
}
static size_t linear_size(const Step *s) { return tensor_count(s->in[LINEARS]); }

/* dlinear_i of head h, from the rows of a block: = dout^T z, or added to it. */
static void linear_gradient(const Job *j, int i, int h, const real *z, Slice rows, real *to, bool add, int slot) {
    const Tensor *dout = j->s->out[i]->grad;
    const real *dy = dout->data + rows.first * dout->stride + (size_t)(h * j->D);
    const Product p = {.A = matrix_of(dy, dout->stride, true), .B = matrix_of(z, (size_t)j->C, false),
                       .K = (int)rows.count, .accumulate = add};
    multiply_tile(&p, (Tile){0, 0, j->D, j->C}, to + (size_t)(h * j->D) * (size_t)j->C, (size_t)j->C, j->x, slot);
}

/* Where part `part` of dlinear_i is summed, and whether it adds to what is there already. */
static real *linear_place(const Job *j, int i, SplitK parts, size_t part, bool *adds) {
    *adds = parts.count == 1 && grad_adds(j->s, j->x, LINEARS + i);
    if (parts.count == 1) return grad_of(j->s, LINEARS + i);
    return j->parts + ((size_t)(i * parts.count) + part) * linear_size(j->s);
}

static void linear_task(const Job *j, size_t index, int slot) {
    const Step *s = j->s;
    const SplitK parts = linear_parts(s);
    const size_t number = index % (size_t)parts.count;
    const Slice part = slice_at(s->out[0]->rows, (size_t)parts.depth, number);
    const int h = (int)(index / (size_t)parts.count) * heads_each(s), heads = heads_from(j, h);
    for (size_t row = 0; row < part.count && pool_going(j->x->cancel, slot); row += BLOCK_ROWS) {
        const size_t left = part.count - row;
        const Slice rows = {part.first + row, left < BLOCK_ROWS ? left : BLOCK_ROWS};
        const real *z = mix_block(j, h, rows, slot);
        for (int i = 0; i < s->outs; i++) {
            if (!trains(s, i)) continue;
            bool adds;
            real *to = linear_place(j, i, parts, number, &adds);
            for (int k = 0; k < heads; k++)
                linear_gradient(j, i, h + k, z + (size_t)k * head_size(j), rows, to, adds || row > 0, slot);
        }
    }
}

static void add_linear_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Step *s = j->s;
    const SplitK parts = linear_parts(s);
    const size_t slices = (size_t)slice_count(linear_size(s), ELEMENTS_EACH);
    const int i = (int)(index / slices), w = LINEARS + i;
    if (!trains(s, i)) return;
    const Product p = {.out = grad_of(s, w), .accumulate = grad_adds(s, j->x, w),
                       .tiles = {.M = j->H * j->D, .N = j->C}};
    add_splits_slice(&p, parts, j->parts + (size_t)(i * parts.count) * linear_size(s), index % slices, j->x);
}

/* --- backwards: weights, gain and streams ------------------------------------------------------------------------- */
#define PARTS_MOST 64

/* Sums over rows (of the gain's gradient, and of weights that are the same in all rows) are kept a part of the rows,
 * and the parts are added in order afterwards. */
static size_t rows_each(const Step *s) {
    const size_t blocks = (size_t)blocks_of(s);
    return (blocks + PARTS_MOST - 1) / PARTS_MOST * BLOCK_ROWS;
}

static bool weights_by_row(const Step *s) {
    return s->in[WEIGHTS]->cols != (size_t)attributes_of(s, Attributes)->layers;
}
static size_t weights_size(const Step *s) {
    const Attributes *n = attributes_of(s, Attributes);
    return arena_round((size_t)n->H * (size_t)n->layers);
}
static size_t sums_each(const Step *s) { return weights_size(s) + arena_round((size_t)width_of(s)); }

/* What some heads' mixtures owe the outputs. */
static void mixture_gradient(const Job *j, int h, Slice rows, real *dz, int slot) {
    for (int i = 0; i < j->s->outs; i++) {
        const Tensor *dout = j->s->out[i]->grad;
        const real *dy = dout->data + rows.first * dout->stride + (size_t)(h * j->D);
        multiply_head(j, i, h, matrix_of(dy, dout->stride, false), rows.count, dz, (size_t)j->C, i > 0, slot);
    }
}

static void block_back(const Job *j, Slice rows, MixtureGradients d, int slot) {
    real *const weights = d.weights, *dz = rows_of(j, slot);
    for (int h = 0; h < j->H && pool_going(j->x->cancel, slot); h += heads_each(j->s)) {
        const int heads = heads_from(j, h);
        const Mixture m = from_head(j, h);
        for (int k = 0; k < heads; k++) mixture_gradient(j, h + k, rows, dz + (size_t)k * head_size(j), slot);
        d.weights = weights + (size_t)h * m.head;
        j->x->k->mixture_backward(&d, dz, head_size(j), &m, heads, (int)rows.first, (int)rows.count, j->C,
                                  kernel_work(j, slot));
        d.adds = j->adds;
    }
}

static void rows_task(const Job *j, size_t index, int slot) {
    const Step *s = j->s;
    const Slice part = slice_at(s->out[0]->rows, j->rows_each, index);
    real *sums = j->sums + index * j->sums_each, *weights = grad_of(s, WEIGHTS);
    MixtureGradients d = j->first;
    memset(sums, 0, j->sums_each * sizeof(real));
    d.gain = sums + weights_size(s);
    d.weights = sums;
    if (weights && weights_by_row(s)) {
        d.row = s->in[WEIGHTS]->cols;
        d.weights = weights;
        if (!grad_adds(s, j->x, WEIGHTS)) memset(weights + part.first * d.row, 0, part.count * d.row * sizeof(real));
    }
    for (size_t row = 0; row < part.count; row += BLOCK_ROWS) {
        const size_t left = part.count - row;
        block_back(j, (Slice){part.first + row, left < BLOCK_ROWS ? left : BLOCK_ROWS}, d, slot);
    }
}

static void add_sums(const Job *j, int input, size_t offset, size_t size) {
    real *grad = grad_of(j->s, input);
    if (!grad) return;
    if (!grad_adds(j->s, j->x, input)) memset(grad, 0, size * sizeof(real));
    const int parts = slice_count(j->s->out[0]->rows, j->rows_each);
    j->x->k->column_sums(grad, j->sums + offset, j->sums_each, parts, (int)size);
}

/* Is anything but the linears' gradients wanted? */
static bool any_other(const Step *s) {
    bool any = s->grad[WEIGHTS] != GRAD_NONE || s->grad[GAIN] != GRAD_NONE;
    for (int i = LINEARS + s->outs; i < s->ins; i += 2) any |= s->grad[i] != GRAD_NONE;
    return any;
}

static size_t linear_tasks(const Step *s) {
    return any_trains(s) ? (size_t)(linear_parts(s).count * groups_of(s)) : 0;
}

/* The gradients of the linears come first: their tasks are the longer ones. */
static void backward_task(void *context, size_t index, int slot) {
    const Job *j = context;
    const size_t linears = linear_tasks(j->s);
    if (index < linears) linear_task(j, index, slot);
    else rows_task(j, index - linears, slot);
}

static void stream_gradients(const Step *s, const Exec *x, real **streams, bool *adds, bool *later) {
    int count = 0;
    for (int l = 0; l < attributes_of(s, Attributes)->layers; l++) {
        if (!s->in[stream_at(s, l)]) continue;
        streams[count] = grad_of(s, stream_at(s, l));
        later[count] = true;
        adds[count++] = grad_adds(s, x, stream_at(s, l));
    }
}

static size_t parts_size(const Step *s) {
    const int count = linear_parts(s).count;
    return any_trains(s) && count > 1 ? (size_t)(count * s->outs) * linear_size(s) : 0;
}

static void backward(const Step *s, Exec *x) {
    const int layers = attributes_of(s, Attributes)->layers;
    const real *streams[layers], *rstds[layers];
    real *gradients[layers];
    bool adds[layers], later[layers];
    int columns[layers];
    Job j = job_of(s, x, mixture_of(s, streams, rstds, columns));
    stream_gradients(s, x, gradients, adds, later);
    j.first = (MixtureGradients){.streams = gradients, .adds = adds};
    j.adds = later;
    j.rows_each = rows_each(s);
    j.sums_each = sums_each(s);
    j.parts = x->workspace;
    j.sums = j.parts + parts_size(s);
    const size_t parts = any_other(s) ? (size_t)slice_count(s->out[0]->rows, j.rows_each) : 0;
    if (parts) pack_heads(&j, false, j.sums + parts * j.sums_each);
    parallel(x, linear_tasks(s) + parts, backward_task, &j);
    if (parts_size(s))
        parallel(x, (size_t)s->outs * (size_t)slice_count(linear_size(s), ELEMENTS_EACH), add_linear_parts, &j);
    if (parts && !weights_by_row(s)) add_sums(&j, WEIGHTS, 0, tensor_count(s->in[WEIGHTS]));
    if (parts) add_sums(&j, GAIN, weights_size(s), (size_t)j.C);
}

/* --- sizes -------------------------------------------------------------------------------------------------------- */
static size_t workspace(const Step *s, const Kernels *k) {
    const size_t forwards = packed_size(s, k, true);
    if (!s->differentiated) return forwards;
    const size_t parts = (size_t)slice_count(s->out[0]->rows, rows_each(s));
    const size_t backwards = parts_size(s) + parts * sums_each(s) + packed_size(s, k, false);
    return forwards > backwards ? forwards : backwards;
}

static double linear_flops(const Step *s, int i) { return 2.0 * (double)tensor_count(s->out[i]) * width_of(s); }
static double stream_flops(const Step *s) {
    return 2.0 * (double)s->out[0]->rows * attributes_of(s, Attributes)->H * width_of(s);
}
static double mixture_flops(const Step *s) {
    double all = 0;
    for (int l = 0; l < attributes_of(s, Attributes)->layers; l++) all += s->in[stream_at(s, l)] ? stream_flops(s) : 0;
    return all;
}

/* The mixtures count as the first output's. */
static double flops(const Step *s, int i) { return linear_flops(s, i) + (i == 0 ? mixture_flops(s) : 0); }

/* The mixtures' own gradients count as the last stream's, which every layer offers itself. */
static double gradient_flops(const Step *s, int input) {
    double sum = 0;
    if (input == WEIGHTS) return mixture_flops(s);
    if (input == GAIN) return 0;
    if (input < LINEARS + s->outs) return linear_flops(s, input - LINEARS);
    for (int i = 0; i < s->outs && input == last_stream(s); i++) sum += linear_flops(s, i);
    return sum + stream_flops(s);
}

static const Op MIXTURE = {.name = "mixture", .forward = forward, .backward = backward, .flops = flops,
                           .gradient_flops = gradient_flops, .scratch = scratch, .workspace = workspace,
                           .saved_inputs = FROM(WEIGHTS), .may_be_bfloat16 = FROM(0)};

/* --- recording ---------------------------------------------------------------------------------------------------- */
void mixture(Plan *p, Mixed m, int count, Tensor *const *linears, Tensor **out) {
    Tensor *in[LINEARS + count + 2 * m.layers], *own = m.streams[m.layers - 1];
    in[WEIGHTS] = m.weights;
    in[GAIN] = m.gain;
    for (int i = 0; i < count; i++) {
        if (linears[i]->rows != (size_t)m.H * (size_t)m.D || linears[i]->cols != own->cols)
            error_set(&p->error, ERROR_SHAPE, "%s: a linear (%zu, %zu) does not take %d heads of width %zu to %d",
                      p->path, linears[i]->rows, linears[i]->cols, m.H, own->cols, m.D);
        in[LINEARS + i] = linears[i];
        out[i] = tensor_wide(p, own, m.H * m.D);
    }
    for (int l = 0; l < m.layers; l++) {
        in[LINEARS + count + 2 * l] = m.streams[l];
        in[LINEARS + count + 2 * l + 1] = m.streams[l] ? m.rstds[l] : NULL;
    }
    const Attributes n = {m.H, m.D, m.layers};
    record(p, &MIXTURE, LINEARS + count + 2 * m.layers, in, count, out, &n, sizeof n);
}
