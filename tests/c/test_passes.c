/* Forward, backward, both at once, AdamW; gradients against the slopes of the loss; what can be kept and left out. */
#include "harness.h"

#define ROWS 2
#define LENGTH 11

static const Pass TRAIN = {.B = ROWS, .T = LENGTH, .losses = true};

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

    double loss = forward_masked(&plain, &TRAIN, masked, 1);
    CHECK(isfinite(loss), "%s: the loss is %g", family, loss);
    CHECK(plain.state == RUN_DIFFERENTIABLE && run_backward(&plain, NULL), "%s", family);
    real *first = photograph(&plain);

    gradients_clear(plain.gradients);
    plain.micro = 0; /* the same dropout again */
    Error e = {0};
    CHECK(begin(&plain, &TRAIN, masked, 1, &e) && run_forward_backward(&plain, NULL), "%s: %s", family, e.message);
    CHECK(plain.loss == loss, "%s: forward_backward loses %g, forward %g", family, plain.loss, loss);
    CHECK(same(first, plain.gradients->arena->data, m.weights.trained), "%s: forward_backward differs", family);

    CHECK(forward_masked(&kept, &TRAIN, masked, 1) == loss, "%s: keeping changes the loss", family);
    CHECK(run_backward(&kept, NULL), "%s", family);
    CHECK(same(first, kept.gradients->arena->data, m.weights.trained), "%s: keeping changes gradients", family);

    kept.micro = 0;
    CHECK(forward_masked(&kept, &TRAIN, masked, 1) == loss && run_backward(&kept, NULL), "%s", family);
    for (size_t i = 0; i < m.weights.trained; i++) first[i] *= 2;
    const double apart = distance(first, kept.gradients->arena->data, m.weights.trained);
    CHECK(apart < 1e-12, "%s: gradients do not add up", family);

    free(first);
    run_free(&plain);
    run_free(&kept);
    model_free(&m);
}

void test_passes(void) {
    for (int f = 0; f < FAMILY_COUNT; f++) {
        check_family(FAMILIES[f], false, false);
        check_family(FAMILIES[f], true, false);
        check_family(FAMILIES[f], false, true);
    }
}

/* --- slopes ------------------------------------------------------------------------------------------------------- */
static double slope(Run *r, const Pass *p, real *x, const real *direction, size_t n, double h) {
    real *kept = malloc(n * sizeof *kept);
    memcpy(kept, x, n * sizeof *x);
    double loss[2];
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++) x[i] = kept[i] + (side ? h : -h) * direction[i];
        loss[side] = forward(r, p, 5);
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
    for (int f = 0; f < FAMILY_COUNT; f++) check_slopes(FAMILIES[f]);
}

/* --- training ----------------------------------------------------------------------------------------------------- */
/* An update in two ranges, each norm's squares too, has the bits of a whole one. */
static void check_ranges(Model *m, const Run *r, const AdamwOptions *options) {
    const size_t bytes = m->weights.base.arena->count * sizeof(real);
    real *before = malloc(bytes), *whole = malloc(bytes), *weights = m->weights.base.arena->data;
    memcpy(before, weights, bytes);
    double norm[2];
    for (int ranges = 1; ranges <= 2; ranges++) {
        Optimizer o;
        Error e = {0};
        CHECK(optimizer_init(&o, &m->weights, &e), "%s", e.message);
        set_rates(&o, 0.01, 0.1);
        const size_t cut[] = {0, ranges == 2 ? o.chunks / 2 : o.chunks, o.chunks};
        for (int i = 0; i < ranges; i++) optimizer_squares(&o, r->gradients, cut[i], cut[i + 1]);
        norm[ranges - 1] = optimizer_norm(&o);
        for (int i = 0; i < ranges; i++) optimizer_update(&o, r->gradients, options, norm[0], cut[i], cut[i + 1]);
        if (ranges == 1) {
            memcpy(whole, weights, bytes);
            memcpy(weights, before, bytes);
        }
        optimizer_free(&o);
    }
    CHECK(norm[0] == norm[1] && memcmp(whole, weights, bytes) == 0, "ranges: norms %g, %g", norm[0], norm[1]);
    CHECK(memcmp(whole, before, bytes) != 0, "nothing was updated");
    memcpy(weights, before, bytes);
    free(before);
    free(whole);
}

static void check_training(const char *family) {
    Model m;
    tiny_model(&m, family);
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = LENGTH, .backward = true});
    Optimizer o;
    Error e = {0};
    CHECK(optimizer_init(&o, &m.weights, &e), "%s", e.message);
    AdamwOptions options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .max_grad_norm = 1};
    set_rates(&o, 0.01, 0.1);
    double first = 0, last = 0, norm;
    for (int step = 0; step < 12; step++) {
        CHECK(begin(&r, &TRAIN, false, 3, &e) && run_forward_backward(&r, NULL), "%s", e.message);
        CHECK(optimizer_step(&o, r.gradients, &options, false, &norm, &e) == UPDATE_DONE, "%s", e.message);
        last = r.loss;
        if (step == 0) first = last;
    }
    CHECK(last < 0.8 * first, "%s: the loss went from %g to %g", family, first, last);

    CHECK(begin(&r, &TRAIN, false, 3, &e) && run_forward_backward(&r, NULL), "%s", e.message);
    check_ranges(&m, &r, &options);
    r.gradients->arena->data[m.weights.base.items[1].grad_offset] = (real)NAN;
    real before = m.weights.base.arena->data[0];
    CHECK(optimizer_step(&o, r.gradients, &options, false, &norm, &e) == UPDATE_REFUSED, "a NaN was taken");
    CHECK(e.code == ERROR_NONFINITE && strstr(e.message, m.weights.base.items[1].name), "%s", e.message);
    CHECK(m.weights.base.arena->data[0] == before && o.step == 12, "a refused step changed something");
    CHECK(optimizer_step(&o, r.gradients, &options, true, &norm, &e) == UPDATE_SKIPPED, "skip");
    CHECK(r.gradients->state == GRADIENTS_NONE && r.gradients->targets == 0, "skipped gradients are held");
    optimizer_free(&o);
    run_free(&r);
    model_free(&m);
}

void test_training(void) {
    for (int f = 0; f < FAMILY_COUNT; f++) check_training(FAMILIES[f]);
}

/* --- until, resume, skip, patterns -------------------------------------------------------------------------------- */
/* What the pass wrote is shown, the rest is refused in words. */
static void check_shown(const Run *r) {
    const bool stopped = r->state == RUN_STOPPED;
    for (int i = 0; i < r->plan.module_count; i++) {
        const Module *m = &r->plan.modules[i];
        Error e = {0}, back = {0};
        const bool reached = !stopped || m->output->producer < r->until->last;
        CHECK(run_shows(r, m->output, m->name, &e) == reached, "%s: '%s'", m->name, e.message);
        CHECK(reached || (strstr(e.message, r->until->name) && strstr(e.message, m->name)), "'%s'", e.message);
        CHECK(run_shows_gradient(r, m, &back) <= (r->state == RUN_BACKWARD), "%s: '%s'", m->name, back.message);
    }
    Error e = {0};
    CHECK(run_shows_all(r, &e) == !stopped, "'%s'", e.message);
}

static void check_inside(const char *family, bool dropout) {
    Model m;
    tiny_model(&m, family);
    Run r;
    const char *patterns[] = {"*.pattern", "*"};
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = LENGTH, .backward = true, .dropout = dropout,
                                  .keep = patterns, .keep_count = 2});
    double loss = forward(&r, &TRAIN, 9);
    CHECK(run_backward(&r, NULL), "%s", family);
    int names = r.plan.module_count;
    char **name = malloc((size_t)names * sizeof *name);
    for (int i = 0; i < names; i++) name[i] = strdup(r.plan.modules[i].name);
    for (int i = 0; i < names; i++) {
        Pass p = TRAIN;
        p.until = name[i];
        r.micro = 0; /* the same dropout again */
        forward(&r, &p, 9);
        const Module *until = plan_module(&r.plan, name[i]);
        CHECK(until && until == r.until && until->output, "%s: %s was not recorded", family, name[i]);
        check_shown(&r);
        if (r.state == RUN_STOPPED) CHECK(run_resume(&r, NULL), "%s", name[i]);
        const bool in_two_steps = strstr(name[i], ".pattern"); /* which sum in another order */
        const double rounding = in_two_steps ? (sizeof(real) == 8 ? 1e-12 : 1e-5) : 0;
        CHECK(fabs(r.loss - loss) <= rounding, "%s: stopping after %s: %g, not %g", family, name[i], r.loss, loss);
        CHECK(r.state == RUN_DIFFERENTIABLE && run_backward(&r, NULL), "%s", name[i]);
        check_shown(&r);
    }
    for (int i = 0; i < names; i++) free(name[i]);
    free(name);

    const char *const *n = m.spec.names;
    char block[64], branch[96];
    snprintf(block, sizeof block, "%s.%s.1", n[PART_ROOT], n[PART_BLOCK]);
    snprintf(branch, sizeof branch, "%s.%s.0.%s", n[PART_ROOT], n[PART_BLOCK], n[PART_ATTENTION]);
    const char *skip[] = {block, branch};
    Pass p = TRAIN;
    p.skip = skip;
    for (p.skip_count = 1; p.skip_count <= 2; p.skip_count++) {
        r.micro = 0;
        CHECK(forward(&r, &p, 9) != loss, "%s: leaving something out changes nothing", family);
        gradients_clear(r.gradients);
        CHECK(run_backward(&r, NULL), "%s", family);
        int i = m.weights.base.count - 1; /* the last parameter of the skipped block */
        while (!strstr(m.weights.base.items[i].name, block)) i--;
        const Parameter *q = &m.weights.base.items[i];
        const real *left_out = run_parameter_gradient(&r, q);
        for (size_t j = 0; j < q->count; j++) CHECK(left_out[j] == 0, "%s", q->name);
    }
    run_free(&r);
    model_free(&m);
}

void test_inside(void) {
    for (int f = 0; f < 2 * FAMILY_COUNT; f++) check_inside(FAMILIES[f / 2], f % 2);
}
