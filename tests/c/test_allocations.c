/* Every allocation of every call fails in turn, alone and with all that follow it: the call says ERROR_MEMORY, gives
 * back what it took, and what it worked on works afterwards. */
#include "harness.h"

#define MOST 100000

typedef struct {
    Model *model;
    Run *run;
    double loss; /* of CALL */
} Fixture;

static const Pass CALL = {.B = 2, .T = 7, .losses = true};
static const Pass OTHER = {.B = 1, .T = 9, .losses = true};

/* Does it once; true when it succeeded. It gives everything back itself. */
typedef bool (*Attempt)(Fixture *f, Error *e);

static bool attempt_model(Fixture *f, Error *e) {
    Model m;
    if (!model_init(&m, &f->model->spec, PRECISION_FLOAT32, STORED_REAL, true, e)) return false;
    model_free(&m);
    return true;
}

static bool attempt_run(Fixture *f, Error *e) {
    const char *keep[] = {"*.mlp", "lm_head"};
    Run r;
    RunOptions o = {.batch = 2, .length = 9, .backward = true, .keep = keep, .keep_count = 2};
    if (!run_init(&r, f->model, &o, NULL, e)) return false;
    run_free(&r);
    return true;
}

static bool attempt_run_with_past(Fixture *f, Error *e) {
    Run r;
    RunOptions o = {.batch = 2, .length = 9, .past = 50};
    if (!run_init(&r, f->model, &o, NULL, e)) return false;
    run_free(&r);
    return true;
}

/* Recorded anew for another shape, with more threads than before, hence more scratch. */
static bool attempt_begin(Fixture *f, Error *e) {
    Pass p = OTHER;
    const char *skip[] = {"model.layers.0"};
    p.skip = skip;
    p.skip_count = 1;
    p.until = "model.layers.1.mlp";
    return begin(f->run, &p, true, 1, e) && begin(f->run, &OTHER, true, 1, e);
}

static bool attempt_estimate(Fixture *f, Error *e) {
    const char *keep[] = {"*"};
    Estimate x;
    RunOptions o = {.batch = 8, .length = 500, .backward = true, .keep = keep, .keep_count = 1};
    return run_estimate(f->model, &o, &x, e);
}

static bool attempt_optimizer(Fixture *f, Error *e) {
    Optimizer o;
    if (!optimizer_init(&o, &f->model->weights, e)) return false;
    optimizer_free(&o);
    return true;
}

static bool attempt_adapters(Fixture *f, Error *e) {
    const char *copy = "lm_head.weight";
    LowRank pairs[] = {{.module = "model.layers.0.mlp.up_proj", .rank = 2},
                       {.module = "model.layers.1.self_attn.q_proj", .rank = 3}};
    Model m;
    if (!model_init(&m, &f->model->spec, PRECISION_FLOAT32, STORED_REAL, true, e)) return false;
    bool fine = true;
    for (int i = 0; fine && i < 3; i++) {
        const char *name = (const char *[]){"a", "b", "c"}[i];
        fine = weights_add_adapter(&m.weights, name, pairs, 2, &copy, 1, e) &&
               weights_set_adapters(&m.weights, &name, 1, &name, 1, e);
        CHECK(m.weights.adapter_count == i + fine &&
                  m.weights.total == m.weights.base.count + 5 * m.weights.adapter_count,
              "%d", m.weights.adapter_count);
    }
    fine = fine && weights_delete_adapter(&m.weights, "b", e);
    model_free(&m);
    return fine;
}

static bool attempt_piece(Fixture *f, Error *e) {
    (void)f;
    real x[12] = {1, 2, 3}, weight[8] = {1}, dx[12], dweight[8], dout[6] = {1};
    Functional p = {.op = "linear", .in = {{.ndim = 2, .shape = {3, 4}, .data = x, .grad = dx},
                                      {.ndim = 2, .shape = {2, 4}, .data = weight, .grad = dweight}},
               .dout = dout, .count = 6};
    return functional_run(&p, e, NULL);
}

static void check_attempts(const char *name, Fixture *f, Attempt attempt, long count, bool flat) {
    Error none = {0};
    CHECK(attempt(f, &none), "%s: %s", name, none.message);
    long k = 1;
    for (; k < MOST; k++) {
        if (!flat) forward(f->run, &CALL, 1); /* what a failed beginning left is recorded again */
        long before = alloc_live();
        Error e = {0};
        alloc_fail(k, count);
        bool fine = attempt(f, &e);
        alloc_fail(0, 0);
        long lost = alloc_live() - before;
        CHECK(!flat || lost == 0, "%s, allocation %ld: %ld blocks lost", name, k, lost);
        CHECK(fine || e.code == ERROR_MEMORY, "%s, allocation %ld: %d '%s'", name, k, e.code, e.message);
        double loss = forward(f->run, &CALL, 1);
        CHECK(loss == f->loss, "%s, allocation %ld: the loss is %g, it was %g", name, k, loss, f->loss);
        if (fine) break;
    }
    CHECK(k > 1 && k < MOST, "%s: %ld", name, k);
}

void test_allocations(void) {
    static const struct {
        const char *name;
        Attempt attempt;
        bool flat; /* gives back all it took, also when it succeeds */
    } calls[] = {{"model_init", attempt_model, true},       {"run_init", attempt_run, true},
                 {"run_init with a past", attempt_run_with_past, true}, {"run_begin", attempt_begin, false},
                 {"run_estimate", attempt_estimate, true},  {"optimizer_init", attempt_optimizer, true},
                 {"adapters", attempt_adapters, true},
                 {"functional_run", attempt_piece, true}};
    int threads = pool_threads();
    CHECK(pool_set_threads(2), "two threads");
    Model m;
    tiny_model(&m, "llama");
    Run r;
    make_run(&r, &m, (RunOptions){.batch = 2, .length = 9, .backward = true});
    Fixture f = {.model = &m, .run = &r};
    f.loss = forward(&r, &CALL, 1);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        check_attempts(calls[i].name, &f, calls[i].attempt, 1, calls[i].flat);
        check_attempts(calls[i].name, &f, calls[i].attempt, MOST, calls[i].flat);
    }
    run_free(&r);
    model_free(&m);
    CHECK(pool_set_threads(threads), "%d", threads);
}
