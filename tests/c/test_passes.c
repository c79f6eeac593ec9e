/* Forward, backward, both at once, AdamW; gradients against the slopes of the loss; what can be kept and left out. */
#include "harness.h"

#define ROWS 2
#define LENGTH 11

static const Call TRAIN = {.B = ROWS, .T = LENGTH, .losses = true};

/* All gradients of a run, copied. */
static real *photograph(const Run *r) {
    size_t n = r->gradients->arena->count;
    real *copy = malloc(n * sizeof *copy);
    memcpy(copy, r->gradients->arena->data, n * sizeof *copy);
    return copy;
}

static void check_family(const char *family, bool masked, bool dropout) {
    Model m;
    tiny_model(&m, family);
    Run plain, kept;
    RunOptions o = {.batch = ROWS, .length = LENGTH, .backward = true, .dropout = dropout};
    make_run(&plain, &m, o);
    o.keep_all = true;
    make_run(&kept, &m, o);
    Call c = TRAIN;
    c.masked = masked;

    double loss = forward(&plain, &c, 1);
    CHECK(isfinite(loss), "%s: the loss is %g", family, loss);
    CHECK(plain.differentiable && run_backward(&plain, NULL), "%s", family);
    real *first = photograph(&plain);

    gradients_clear(plain.gradients);
    plain.micro = 0; /* the same dropout again */
    Error e = {0};
    CHECK(prepare(&plain, &c, 1, &e) && run_forward_backward(&plain, NULL), "%s: %s", family, e.message);
    CHECK(plain.loss == loss, "%s: forward_backward loses %g, forward %g", family, plain.loss, loss);
    CHECK(same(first, plain.gradients->arena->data, m.weights.trained), "%s: forward_backward has other gradients", family);

    CHECK(forward(&kept, &c, 1) == loss, "%s: keeping changes the loss", family);
    CHECK(run_backward(&kept, NULL), "%s", family);
    CHECK(same(first, kept.gradients->arena->data, m.weights.trained), "%s: keeping changes gradients", family);

    kept.micro = 0;
    CHECK(forward(&kept, &c, 1) == loss && run_backward(&kept, NULL), "%s", family); /* a second one adds */
    for (size_t i = 0; i < m.weights.trained; i++) first[i] *= 2;
    CHECK(distance(first, kept.gradients->arena->data, m.weights.trained) < 1e-12, "%s: gradients do not add up", family);

    free(first);
    run_free(&plain);
    run_free(&kept);
    model_free(&m);
}

void test_passes(void) {
    for (int f = 0; f < 4; f++) {
        check_family(FAMILIES[f], false, false);
        check_family(FAMILIES[f], true, false);
        check_family(FAMILIES[f], false, true);
    }
}

/* --- slopes ------------------------------------------------------------------------------------------------------- */
static double slope(Run *r, const Call *c, real *x, const real *direction, size_t n, double h) {
    real *kept = malloc(n * sizeof *kept);
    memcpy(kept, x, n * sizeof *x);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) x[i] = kept[i] + (side ? h : -h) * direction[i];
        loss[side] = forward(r, c, 5);
    }
    memcpy(x, kept, n * sizeof *x);
    free(kept);
    return (loss[1] - loss[0]) / (2 * h);
}

static void check_slopes(const char *family) {
    Model m;
    tiny_model(&m, family);
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = LENGTH, .backward = true});
    forward(&r, &TRAIN, 5);
    CHECK(run_backward(&r, NULL), "%s", family);
    for (int i = 0; i < m.weights.base.count; i++) {
        const Parameter *q = &m.weights.base.items[i];
        const real *gradient = run_parameter_gradient(&r, &m.weights.base.items[i]);
        real *direction = malloc(q->count * sizeof *direction);
        fill(direction, q->count, 77 + (uint64_t)i);
        double inner = 0, scale = 0;
        for (size_t j = 0; j < q->count; j++) {
            inner += gradient[j] * direction[j];
            scale += fabs(gradient[j] * direction[j]);
        }
        double s = slope(&r, &TRAIN, parameter_data(q), direction, q->count, 1e-4);
        CHECK(fabs(s - inner) <= 1e-6 * scale + 1e-9, "%s, %s: slope %.12g, gradient %.12g", family, q->name, s, inner);
        free(direction);
    }
    run_free(&r);
    model_free(&m);
}

void test_slopes(void) {
    for (int f = 0; f < 4; f++) check_slopes(FAMILIES[f]);
}

/* --- training ----------------------------------------------------------------------------------------------------- */
static void check_training(const char *family) {
    Model m;
    tiny_model(&m, family);
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = LENGTH, .backward = true});
    Optimizer o;
    Error e = {0};
    CHECK(optimizer_init(&o, &m.weights, false, &e), "%s", e.message);
    AdamwOptions options = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1,
                            .max_grad_norm = 1};
    double first = 0, last = 0, norm;
    for (int step = 0; step < 12; step++) {
        CHECK(prepare(&r, &TRAIN, 3, &e) && run_forward_backward(&r, NULL), "%s", e.message);
        CHECK(optimizer_step(&o, r.gradients, &options, false, &norm, &e) == UPDATE_DONE, "%s", e.message);
        last = r.loss;
        if (step == 0) first = last;
    }
    CHECK(last < 0.8 * first, "%s: the loss went from %g to %g", family, first, last);

    CHECK(prepare(&r, &TRAIN, 3, &e) && run_forward_backward(&r, NULL), "%s", e.message);
    r.gradients->arena->data[m.weights.base.items[1].slot] = (real)NAN;
    real before = m.weights.base.arena->data[0];
    CHECK(optimizer_step(&o, r.gradients, &options, false, &norm, &e) == UPDATE_REFUSED, "a NaN was taken");
    CHECK(e.code == ERROR_NONFINITE && strstr(e.message, m.weights.base.items[1].name), "%s", e.message);
    CHECK(m.weights.base.arena->data[0] == before && o.step == 12, "a refused step changed something");
    CHECK(optimizer_step(&o, r.gradients, &options, true, &norm, &e) == UPDATE_SKIPPED && !r.gradients->held, "skip");
    optimizer_free(&o);
    run_free(&r);
    model_free(&m);
}

void test_training(void) {
    for (int f = 0; f < 4; f++) check_training(FAMILIES[f]);
}

/* --- until, resume, skip, patterns -------------------------------------------------------------------------------- */
static void check_inside(const char *family) {
    Model m;
    tiny_model(&m, family);
    Run r;
    const char *patterns[] = {"*.pattern", "*"};
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = LENGTH, .backward = true, .keep = patterns,
                                  .keep_count = 2});
    double loss = forward(&r, &TRAIN, 9);
    CHECK(run_backward(&r, NULL), "%s", family);
    int names = r.plan.module_count;
    char **name = malloc((size_t)names * sizeof *name);
    for (int i = 0; i < names; i++) name[i] = strdup(r.plan.modules[i].name);
    for (int i = 0; i < names; i++) {
        Call c = TRAIN;
        c.until = name[i];
        forward(&r, &c, 9);
        const Module *until = plan_module(&r.plan, name[i]);
        CHECK(until && until->output, "%s: %s was not recorded", family, name[i]);
        if (r.reached < r.plan.count) CHECK(run_forward(&r, NULL, NULL), "%s", name[i]);
        CHECK(r.loss == loss, "%s: stopping after %s changes the loss", family, name[i]);
        if (r.differentiable) CHECK(run_backward(&r, NULL), "%s", name[i]);
    }
    for (int i = 0; i < names; i++) free(name[i]);
    free(name);

    const Names *n = &m.spec.names;
    char block[64], branch[96];
    snprintf(block, sizeof block, "%s.%s.1", n->root, n->layers);
    snprintf(branch, sizeof branch, "%s.%s.0.%s", n->root, n->layers, n->attention);
    const char *skip[] = {block, branch};
    Call c = TRAIN;
    c.skip = skip;
    for (c.skip_count = 1; c.skip_count <= 2; c.skip_count++) {
        CHECK(forward(&r, &c, 9) != loss, "%s: leaving something out changes nothing", family);
        gradients_clear(r.gradients);
        CHECK(run_backward(&r, NULL), "%s", family);
        int i = m.weights.base.count - 1; /* the last parameter of the skipped block */
        while (!strstr(m.weights.base.items[i].name, block)) i--;
        const real *left_out = run_parameter_gradient(&r, &m.weights.base.items[i]);
        for (size_t j = 0; j < m.weights.base.items[i].count; j++) CHECK(left_out[j] == 0, "%s", m.weights.base.items[i].name);
    }
    run_free(&r);
    model_free(&m);
}

void test_inside(void) {
    for (int f = 0; f < 4; f++) check_inside(FAMILIES[f]);
}
