/* Adapters: a zero branch changes nothing, gradients are slopes, a changed model refuses what was made before. */
#include "harness.h"

static const Pass CALL = {.B = 2, .T = 9, .losses = true};

static void adapt(Model *m, const char *name, const char *module, int rank, const char *copy) {
    Error e = {0};
    LowRank pair = {.module = module, .rank = rank, .scale = (real)0.5};
    CHECK(weights_add_adapter(&m->weights, name, &pair, 1, &copy, 1, &e), "%s", e.message);
    CHECK(weights_set_adapters(&m->weights, &name, 1, &name, 1, &e), "%s", e.message);
}

static void check_adapter(const char *family, const char *module, const char *copy) {
    Model m;
    tiny_model(&m, family);
    Run before, r;
    make_run(&before, &m, (RunOptions){.batch = 2, .length = 9, .backward = true});
    double loss = forward(&before, &CALL, 6);
    adapt(&m, "a", module, 3, copy);
    Error e = {0};
    CHECK(!begin(&before, &CALL, false, 6, &e) && e.code == ERROR_STATE, "%d '%s'", e.code, e.message);
    run_free(&before);

    make_run(&r, &m, (RunOptions){.batch = 2, .length = 9, .backward = true, .keep_all = true, .observe = true});
    CHECK(r.gradients->arena->count == m.weights.trained, "%zu gradients for %zu", r.gradients->arena->count,
          m.weights.trained);
    CHECK(forward(&r, &CALL, 6) == loss, "%s: a zero branch changes the loss", module);
    const Adapter *a = weights_adapter(&m.weights, "a");
    fill(parameter_data(adapter_A(a, 0)), adapter_A(a, 0)->count, 1);
    fill(parameter_data(adapter_B(a, 0)), adapter_B(a, 0)->count, 2);
    forward(&r, &CALL, 6);
    CHECK(run_backward(&r, NULL), "%s", module);
    for (int i = m.weights.base.count; i < m.weights.total; i++) {
        const Parameter *q = m.weights.all[i];
        const real *gradient = run_parameter_gradient(&r, q);
        real *x = parameter_data(q), kept = x[q->count / 2], h = (real)1e-5;
        x[q->count / 2] = kept + h;
        double up = forward(&r, &CALL, 6);
        x[q->count / 2] = kept - h;
        double slope = (up - forward(&r, &CALL, 6)) / (2 * h);
        x[q->count / 2] = kept;
        CHECK(fabs(slope - gradient[q->count / 2]) < 1e-7, "%s: slope %g, gradient %g", q->name, slope,
              (double)gradient[q->count / 2]);
    }
    CHECK(weights_delete_adapter(&m.weights, "a", &e), "%s", e.message);
    CHECK(!begin(&r, &CALL, false, 6, &e) && e.code == ERROR_STATE, "%d '%s'", e.code, e.message);
    run_free(&r);
    model_free(&m);
}

static void refused(Model *m, const LowRank *pair, const char *copy, ErrorCode code) {
    Error e = {0};
    CHECK(!weights_add_adapter(&m->weights, "bad", pair, 1, &copy, 1, &e) && e.code == code, "%d '%s'", e.code,
          e.message);
    CHECK(m->weights.adapter_count == 0 && m->weights.total == m->weights.base.count && m->weights.version == 0,
          "it changed the model");
}

void test_adapters(void) {
    check_adapter("llama", "model.layers.1.mlp.up_proj", "model.norm.weight");
    check_adapter("gpt2", "transformer.h.0.attn.c_attn", "transformer.ln_f.weight");
    check_adapter("gpt2", "transformer.h.0.attn.c_attn", "lm_head.weight");
    check_adapter("gpt2", "transformer.h.0.attn.c_attn", "transformer.wte.weight");
    check_adapter("mistral", "lm_head", "model.norm.weight");
    Model m;
    tiny_model(&m, "llama");
    const char *head = "lm_head.weight";
    refused(&m, &(LowRank){.module = "model.norm", .rank = 2}, head, ERROR_NAME);
    refused(&m, &(LowRank){.module = "model.embed_tokens", .rank = 2}, head, ERROR_NAME);
    refused(&m, &(LowRank){.module = "lm_head", .rank = 0}, head, ERROR_CONFIG);
    refused(&m, &(LowRank){.module = "lm_head", .rank = 2}, "lm_head", ERROR_NAME);
    model_free(&m);
}
