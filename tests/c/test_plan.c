/* Steps of any width, cheap outputs anywhere among them, and what a recording refuses, on ops made up for it. */
#include "harness.h"
#include "ops/ops.h"

#define COUNT 6 /* numbers of every tensor here */

enum { X, Y };

/* --- out[i] = sum_k (i + k + offset) in[k] ------------------------------------------------------------------------ */
typedef struct {
    int offset;
    double unused[20]; /* numbers may be many */
} WideNumbers;

static double weight_of(const Step *s, int out, int in) { return out + in + attributes_of(s, WideNumbers)->offset; }

static void wide_forward(const Step *s, Exec *x) {
    (void)x;
    for (int i = 0; i < s->outs; i++)
        for (int n = 0; n < COUNT; n++) {
            s->out[i]->data[n] = 0;
            for (int k = 0; k < s->ins; k++) s->out[i]->data[n] += (real)weight_of(s, i, k) * s->in[k]->data[n];
        }
}

static void wide_backward(const Step *s, Exec *x) {
    for (int k = 0; k < s->ins; k++)
        for (int n = 0; n < COUNT; n++) {
            real *grad = grad_of(s, k) + n;
            if (!grad_adds(s, x, k)) *grad = 0;
            for (int i = 0; i < s->outs; i++) *grad += (real)weight_of(s, i, k) * s->out[i]->grad->data[n];
        }
}

static const Op WIDE = {.name = "wide", .forward = wide_forward, .backward = wide_backward};

/* --- out[i] = in^(i + 2), each of them cheap ---------------------------------------------------------------------- */
static int powers_taken;

static void powers_forward(const Step *s, Exec *x) {
    (void)x;
    powers_taken++;
    for (int i = 0; i < s->outs; i++)
        for (int n = 0; n < COUNT; n++) s->out[i]->data[n] = (real)pow(s->in[X]->data[n], i + 2);
}

static void powers_backward(const Step *s, Exec *x) {
    for (int n = 0; n < COUNT; n++) {
        real *grad = grad_of(s, X) + n;
        if (!grad_adds(s, x, X)) *grad = 0;
        for (int i = 0; i < s->outs; i++)
            if (s->out[i]->grad) *grad += (real)((i + 2) * pow(s->in[X]->data[n], i + 1)) * s->out[i]->grad->data[n];
    }
}

static const Op POWERS = {.name = "powers", .forward = powers_forward, .backward = powers_backward,
                          .saved_inputs = 1 << X, .recomputable = FROM(0)};
static const Op FIRST_CHEAP = {.name = "powers", .forward = powers_forward, .backward = powers_backward,
                               .saved_inputs = 1 << X, .recomputable = 1 << 0};

/* --- out = in * in ------------------------------------------------------------------------------------------------ */
static void times_forward(const Step *s, Exec *x) {
    (void)x;
    for (int n = 0; n < COUNT; n++) s->out[0]->data[n] = s->in[X]->data[n] * s->in[Y]->data[n];
}

static void times_backward(const Step *s, Exec *x) {
    for (int k = X; k <= Y; k++)
        for (int n = 0; n < COUNT; n++) {
            real term = s->in[X + Y - k]->data[n] * s->out[0]->grad->data[n];
            grad_of(s, k)[n] = term + (grad_adds(s, x, k) ? grad_of(s, k)[n] : 0);
        }
}

static const Op TIMES = {.name = "times", .forward = times_forward, .backward = times_backward,
                         .saved_inputs = 1 << X | 1 << Y};

static Tensor *times(Plan *p, Tensor *a, Tensor *b) {
    Tensor *out = tensor_like(p, a);
    record(p, &TIMES, 2, TENSORS(a, b), 1, TENSORS(out), NULL, 0);
    return out;
}

/* --- a plan and its numbers --------------------------------------------------------------------------------------- */
typedef struct {
    Plan plan;
    real x[COUNT], dx[COUNT], dout[COUNT];
    Arena *arena;
} Fixture;

static void begin_plan(Fixture *f) {
    memset(f, 0, sizeof *f);
    f->plan.backward = true;
    plan_begin(&f->plan);
    fill(f->x, COUNT, 3);
    fill(f->dout, COUNT, 4);
}

static Tensor *bring(Fixture *f) {
    Tensor *x = tensor_outside(&f->plan, 1, (int[]){COUNT}, f->x);
    x->grad = tensor_outside(&f->plan, 1, (int[]){COUNT}, f->dx);
    x->needs_grad = true;
    return x;
}

/* Both passes, with dout as the gradient of `out`. */
static void replay(Fixture *f, Tensor *out) {
    Plan *p = &f->plan;
    out->kept = true;
    out->grad = tensor_outside(p, out->ndim, out->shape, f->dout);
    out->grad_written = true;
    CHECK(plan_finish(p, engine_kernels(PRECISION_FLOAT32)), "%s", p->error.message);
    f->arena = arena_new(p->size);
    memset(f->arena->data, 0xff, p->size * sizeof(real)); /* what is read before it is written is not a number */
    plan_bind(p, f->arena->data);
    Exec x = {.slots = 1};
    CHECK(plan_forward(p, &x, 0, p->count) && plan_backward(p, &x), "cancelled by nobody");
}

static void end_plan(Fixture *f) {
    arena_release(f->arena);
    plan_free(&f->plan);
}

/* --- any width ---------------------------------------------------------------------------------------------------- */
#define MANY 40 /* more than a mask has bits */

static void check_width(int middle) {
    Fixture f;
    begin_plan(&f);
    Plan *p = &f.plan;
    Tensor *x = bring(&f), *wide[MANY], *out = tensor_like(p, x);
    for (int i = 0; i < middle; i++) wide[i] = tensor_like(p, x);
    record(p, &WIDE, 1, TENSORS(x), middle, wide, &(WideNumbers){.offset = 3}, sizeof(WideNumbers));
    record(p, &WIDE, middle, wide, 1, TENSORS(out), &(WideNumbers){.offset = 2}, sizeof(WideNumbers));
    CHECK((size_t)p->steps[1].numbers % 16 == 0, "numbers lie at %p", p->steps[1].numbers);
    replay(&f, out);
    double slope = 0;
    for (int i = 0; i < middle; i++) slope += (i + 3.0) * (i + 2.0);
    for (int n = 0; n < COUNT; n++) {
        CHECK(fabs((double)out->data[n] - slope * (double)f.x[n]) <= 1e-6 * slope, "%d tensors: %g", middle,
              (double)out->data[n]);
        CHECK(fabs((double)f.dx[n] - slope * (double)f.dout[n]) <= 1e-6 * slope, "%d tensors: dx %g", middle,
              (double)f.dx[n]);
    }
    end_plan(&f);
}

static void check_masks(void) {
    const unsigned mask = 1u << 2 | 1u << 31;
    for (int i = 0; i < 70; i++) CHECK(bit(mask, i) == (i == 2 || i >= 31), "bit %d", i);
    for (int i = 0; i < 70; i++) CHECK(bit(FROM(3), i) == (i >= 3), "from bit 3 on: %d", i);
}

/* --- cheap outputs ------------------------------------------------------------------------------------------------ */
/* y = x^2 * x^3, and then times x a few times over, so that x^2 and x^3 are not needed for long; `shown` of them is
 * kept. */
static void check_cheap(int shown) {
    Fixture f;
    begin_plan(&f);
    Plan *p = &f.plan;
    Tensor *x = bring(&f), *power[2] = {tensor_like(p, x), tensor_like(p, x)};
    if (shown >= 0) power[shown]->kept = true;
    record(p, &POWERS, 1, TENSORS(x), 2, power, NULL, 0);
    Tensor *y = times(p, power[0], power[1]);
    for (int i = 0; i < 3; i++) y = times(p, y, x);
    powers_taken = 0;
    replay(&f, y);
    for (int i = 0; i < 2; i++)
        CHECK((power[i]->recomputed != NULL) == (i != shown), "x^%d, with x^%d shown", i + 2, shown + 2);
    CHECK(powers_taken == 2, "powers were taken %d times", powers_taken);
    for (int n = 0; n < COUNT; n++) {
        double wanted = 8 * pow((double)f.x[n], 7) * (double)f.dout[n];
        CHECK(fabs((double)f.dx[n] - wanted) <= 1e-6, "dx is %g, not %g", (double)f.dx[n], wanted);
        if (shown >= 0) CHECK(power[shown]->data[n] == (real)pow(f.x[n], shown + 2), "what is shown is lost");
    }
    end_plan(&f);
}

/* Of two outputs the first is written anew, and with it the second, which nobody reads: nothing may have taken its
 * place. */
static void check_bystander(void) {
    Fixture f;
    begin_plan(&f);
    Plan *p = &f.plan;
    Tensor *x = bring(&f), *power[2] = {tensor_like(p, x), tensor_like(p, x)};
    record(p, &FIRST_CHEAP, 1, TENSORS(x), 2, power, NULL, 0);
    Tensor *y = times(p, power[0], x);
    for (int i = 0; i < 3; i++) y = times(p, y, x);
    replay(&f, y);
    CHECK(power[0]->recomputed && !power[1]->recomputed, "the first alone is cheap");
    for (int n = 0; n < COUNT; n++) {
        double wanted = 6 * pow((double)f.x[n], 5) * (double)f.dout[n];
        CHECK(fabs((double)f.dx[n] - wanted) <= 1e-6, "dx is %g, not %g", (double)f.dx[n], wanted);
    }
    end_plan(&f);
}

/* --- linears of one x --------------------------------------------------------------------------------------------- */
#define LINEARS 5
#define INPUTS 7
#define OUTPUTS 4

typedef struct {
    Plan plan;
    real x[3 * INPUTS], weights[LINEARS][INPUTS * OUTPUTS], biases[LINEARS][OUTPUTS];
    real dweights[LINEARS][INPUTS * OUTPUTS], dbiases[LINEARS][OUTPUTS], dx[3 * INPUTS], dout[3 * OUTPUTS];
} Linears;

static Tensor *linear_parameter(Plan *p, const Declaration *d) {
    Linears *l = p->owner;
    int i = d->path[strlen("m.")] - 'a';
    real *grad = d->ndim == 2 ? l->dweights[i] : l->dbiases[i];
    return tensor_parameter(p, d->ndim, d->shape, d->ndim == 2 ? l->weights[i] : l->biases[i],
                            tensor_outside(p, d->ndim, d->shape, grad));
}

/* All in one step, or each in its own; what they give is multiplied into one sum. */
static void multiply_all(Linears *l, bool together) {
    Plan *p = &l->plan;
    *p = (Plan){.backward = true, .owner = l, .parameter = linear_parameter};
    plan_begin(p);
    Tensor *x = tensor_outside(p, 3, (int[]){1, 3, INPUTS}, l->x), *out[LINEARS];
    x->grad = tensor_outside(p, 3, (int[]){1, 3, INPUTS}, l->dx);
    x->needs_grad = true;
    const Linear to[LINEARS] = {{PART_Q, "a", OUTPUTS}, {PART_K, "b", OUTPUTS}, {PART_V, "c", OUTPUTS},
                                {PART_GATE, "d", OUTPUTS}, {PART_UP, "e", OUTPUTS}};
    enter(p, PART_BLOCK, "m");
    for (int i = 0; i < LINEARS && !together; i++) linears(p, x, 1, &to[i], true, false, &out[i]);
    if (together) linears(p, x, LINEARS, to, true, false, out);
    leave(p, x, out[0]);
    CHECK(p->count == (together ? 1 : LINEARS), "%d steps", p->count);
    Tensor *sum = out[0];
    for (int i = 1; i < LINEARS; i++) sum = add(p, sum, out[i]);
    sum->kept = true;
    sum->grad = tensor_outside(p, 3, sum->shape, l->dout);
    sum->grad_written = true;
    const Kernels *k = engine_kernels(PRECISION_FLOAT32);
    CHECK(plan_finish(p, k), "%s", p->error.message);
    Arena *arena = arena_new(p->size + p->scratch + p->workspace);
    plan_bind(p, arena->data);
    Exec exec = {.k = k, .slots = 1, .scratch = arena->data + p->size, .workspace = arena->data + p->size + p->scratch};
    CHECK(plan_forward(p, &exec, 0, p->count) && plan_backward(p, &exec), "cancelled by nobody");
    arena_release(arena);
    plan_free(p);
}

static void check_linears(void) {
    Linears *l = calloc(2, sizeof *l);
    fill(l->x, 3 * INPUTS, 1);
    fill(l->weights[0], sizeof l->weights / sizeof(real), 2);
    fill(l->biases[0], sizeof l->biases / sizeof(real), 3);
    fill(l->dout, 3 * OUTPUTS, 4);
    l[1] = l[0];
    multiply_all(&l[0], true);
    multiply_all(&l[1], false);
    CHECK(same(l[0].dx, l[1].dx, 3 * INPUTS), "five linears in one step give another dx");
    CHECK(same(l[0].dweights[0], l[1].dweights[0], LINEARS * INPUTS * OUTPUTS), "and other gradients of weights");
    CHECK(same(l[0].dbiases[0], l[1].dbiases[0], LINEARS * OUTPUTS) && l[0].dbiases[4][0] != 0, "and of biases");
    free(l);
}

void test_widths(void) {
    check_masks();
    for (int middle = 1; middle <= MANY; middle += 13) check_width(middle);
    for (int shown = -1; shown < 2; shown++) check_cheap(shown);
    check_bystander();
    check_linears();
}

/* --- what is refused ---------------------------------------------------------------------------------------------- */
static void expect(Plan *p, ErrorCode code, const char *words) {
    CHECK(p->error.code == code && strstr(p->error.message, words), "%d, not %d: %s", p->error.code, code,
          p->error.message);
    CHECK(!plan_finish(p, engine_kernels(PRECISION_FLOAT32)), "a failed recording was finished");
    plan_begin(p);
}

static void check_shapes(Plan *p) {
    const int shape[5] = {2, 3, 4, 5, 6};
    for (int ndim = 1; ndim <= TENSOR_DIMS; ndim++)
        CHECK(tensor_new(p, ndim, shape)->ndim == ndim, "%s", p->error.message);
    CHECK(tensor_new(p, 0, shape) == &p->nowhere, "no dimension");
    expect(p, ERROR_SHAPE, "0 dimensions");
    tensor_outside(p, 5, shape, NULL);
    expect(p, ERROR_SHAPE, "5 dimensions; 1 to 4");
    tensor_new(p, 2, (int[]){2, -1});
    expect(p, ERROR_SHAPE, "dimension 1 is -1");
    tensor_new(p, 3, (int[]){INT32_MAX, INT32_MAX, 2});
    expect(p, ERROR_MEMORY, "no memory for");
    tensor_view(p, tensor_new(p, 2, shape), 2, 2);
    expect(p, ERROR_SHAPE, "columns 2 to 4 cannot be a view into a tensor of 3");
}

static void check_steps(Plan *p) {
    Tensor *x = tensor_new(p, 1, (int[]){COUNT});
    record(p, &WIDE, 1, TENSORS(x), 0, NULL, NULL, 0);
    expect(p, ERROR_SHAPE, "a step 'wide' from 1 tensors to 0");
    x = tensor_new(p, 1, (int[]){COUNT});
    record(p, &WIDE, -1, NULL, 1, TENSORS(x), NULL, 0);
    expect(p, ERROR_SHAPE, "from -1 tensors");
    x = tensor_new(p, 1, (int[]){COUNT});
    record(p, &WIDE, 1 << 20, TENSORS(x), 1, TENSORS(x), NULL, 0);
    expect(p, ERROR_SHAPE, "from 1048576 tensors");
    x = tensor_new(p, 1, (int[]){COUNT});
    record(p, &WIDE, 1, TENSORS(x), 1, TENSORS(tensor_like(p, x)), p, sizeof *p + (1 << 20));
    expect(p, ERROR_SHAPE, "bytes of numbers");
}

void test_recordings(void) {
    Plan p = {0};
    plan_begin(&p);
    check_shapes(&p);
    check_steps(&p);
    CHECK(p.count == 0, "what was refused is recorded");
    plan_free(&p);
}
