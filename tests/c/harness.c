/* harness: tiny models and calls. */
#include "harness.h"

const char *const FAMILIES[FAMILY_COUNT] = {"openai-gpt", "gpt2", "llama", "mistral", "lime1-static", "lime1-dynamic",
                                            "hc"};

static const char *const GPT_NAMES[PARTS] = {
    [PART_ROOT] = "transformer", [PART_EMBED] = "wte",   [PART_POSITIONS] = "wpe", [PART_BLOCK] = "h",
    [PART_ATTENTION] = "attn",   [PART_QKV] = "c_attn",  [PART_O] = "c_proj",      [PART_FEED_FORWARD] = "mlp",
    [PART_UP] = "c_fc",          [PART_DOWN] = "c_proj", [PART_HEAD] = "lm_head",
};
static const char *const LLAMA_NAMES[PARTS] = {
    [PART_ROOT] = "model",
    [PART_EMBED] = "embed_tokens",
    [PART_BLOCK] = "layers",
    [PART_FINAL_NORM] = "norm",
    [PART_ATTENTION_NORM_IN] = "input_layernorm",
    [PART_ATTENTION] = "self_attn",
    [PART_Q] = "q_proj",
    [PART_K] = "k_proj",
    [PART_V] = "v_proj",
    [PART_O] = "o_proj",
    [PART_FEED_FORWARD_NORM_IN] = "post_attention_layernorm",
    [PART_FEED_FORWARD] = "mlp",
    [PART_GATE] = "gate_proj",
    [PART_UP] = "up_proj",
    [PART_DOWN] = "down_proj",
    [PART_HEAD] = "lm_head",
};

/* The first norms its branches' sums, the second what they read, the last two gate. */
static void name_modules(Spec *s, const char *family, bool gpt) {
    memcpy(s->names, gpt ? GPT_NAMES : LLAMA_NAMES, sizeof s->names);
    if (!gpt) return;
    const bool sums = strcmp(family, "openai-gpt") == 0;
    s->names[sums ? PART_ATTENTION_NORM_SUM : PART_ATTENTION_NORM_IN] = "ln_1";
    s->names[sums ? PART_FEED_FORWARD_NORM_SUM : PART_FEED_FORWARD_NORM_IN] = "ln_2";
    if (!sums) s->names[PART_FINAL_NORM] = "ln_f";
}

/* Several streams, and norms without weights in the blocks. */
static void connect_streams(Spec *s) {
    s->residual = RESIDUAL_HYPER;
    s->streams = 3;
    s->dynamic = true;
    s->branch_norm = NORM_BARE;
    s->names[PART_ATTENTION_CONNECTION] = "hc_attn";
    s->names[PART_FEED_FORWARD_CONNECTION] = "hc_mlp";
}

/* Heads that read mixtures of streams, of which static ones keep the likeliest alone. */
static void mix_streams(Spec *s, bool dynamic) {
    s->memory = dynamic ? MEMORY_DYNAMIC : MEMORY_STATIC;
    s->router_top_p = dynamic ? 1 : (real)0.55;
    s->names[PART_ROUTER] = "attention_router";
    s->names[PART_MEMORY_NORM] = "input_layernorm_lime";
}

Spec tiny_spec(const char *family, Layer layers[2]) {
    const bool gpt = strcmp(family, "openai-gpt") == 0 || strcmp(family, "gpt2") == 0;
    const NormKind norm = gpt ? NORM_LAYER : NORM_RMS;
    Spec s = {.norm = norm, .branch_norm = norm, .streams = 1, .position = gpt ? POSITION_LEARNED : POSITION_ROPE,
              .in_out = gpt, .V = 37, .padding = -1, .L = 2, .layers = layers, .rotaries = !gpt, .max_positions = 64};
    name_modules(&s, family, gpt);
    if (strcmp(family, "hc") == 0) connect_streams(&s);
    const bool dynamic = strcmp(family, "lime1-dynamic") == 0, mixed = dynamic || strcmp(family, "lime1-static") == 0;
    if (mixed) mix_streams(&s, dynamic);
    s.H = gpt ? 3 : 4;
    s.G = gpt ? 3 : mixed ? 4 : 2;
    s.D = gpt ? 5 : 6;
    s.C = gpt ? 15 : 13;
    for (int l = 0; l < 2; l++)
        layers[l] = (Layer){.window = strcmp(family, "mistral") == 0 ? 5 : 0, .F = 19,
                            .feed_forward = gpt ? FEED_FORWARD_MLP : FEED_FORWARD_GATED};
    s.eps = s.branch_eps = (real)1e-5;
    s.act = gpt ? ACT_GELU_TANH : ACT_SILU;
    s.qkv_bias = s.o_bias = s.feed_forward_bias = gpt;
    s.tied = gpt;
    s.attention_scale = (real)(1 / sqrt(s.D));
    s.scale_by_layer = strcmp(family, "gpt2") == 0;
    s.embed_dropout = s.residual_dropout = s.attention_dropout = (real)0.1;
    return s;
}

void fill(real *x, size_t n, uint64_t seed) {
    uint64_t key = rng_key(seed, 0, 0, 0);
    for (size_t i = 0; i < n; i++) x[i] = 2 * rng_uniform(key, i) - 1;
}

void fill_parameters(Model *m) {
    for (int i = 0; i < m->weights.base.count; i++) {
        const Parameter *q = &m->weights.base.items[i];
        real *x = parameter_data(q);
        fill(x, q->count, (uint64_t)i + 1);
        bool near_one = (q->ndim == 1 && strstr(q->name, "weight")) || strstr(q->name, "static_");
        for (size_t j = 0; j < q->count; j++) x[j] = (near_one ? 1 : 0) + (real)0.4 * x[j];
    }
}

void tiny_model(Model *m, const char *family) {
    Layer layers[2];
    Spec s = tiny_spec(family, layers);
    Error e = {0};
    CHECK(model_init(m, &s, PRECISION_FLOAT32, STORED_REAL, true, &e), "%s", e.message);
    fill_parameters(m);
}

Call text(const Run *r, const Pass *p, bool masked, uint64_t seed) {
    const Spec *s = &r->model->spec;
    const size_t N = p->B > 0 && p->T > 0 ? (size_t)p->B * (size_t)p->T : 0;
    static const real one = 1;
    uint64_t key = rng_key(seed, 1, 2, 3);
    int32_t *ids = malloc(N * sizeof *ids), *targets = malloc(N * sizeof *ids), *positions = malloc(N * sizeof *ids);
    uint8_t *mask = malloc(N);
    real *inv_freq = malloc((size_t)s->D / 2 * sizeof *inv_freq);
    Call c = {.pass = *p, .ids = ids, .positions = positions, .targets = targets, .mask = masked ? mask : NULL,
              .inv_freq = inv_freq, .rope_factor = &one};
    for (size_t i = 0; i < N; i++) {
        const int b = (int)i / p->T, t = (int)i % p->T, padding = masked && b == 0 ? (p->T > 2 ? 2 : 1) : 0;
        const int position = r->cache.held + t - padding;
        ids[i] = (int32_t)(rng_bits(key, i) % (unsigned)s->V);
        targets[i] = t + 1 == p->T ? -1 : (int32_t)(rng_bits(key, i + 1) % (unsigned)s->V);
        positions[i] = position < 0 ? 0 : position;
        mask[i] = t >= padding;
        c.items += targets[i] >= 0;
    }
    for (int i = 0; i < s->D / 2; i++) inv_freq[i] = (real)pow(100, -2.0 * i / s->D);
    if (!masked) free(mask);
    return c;
}

void text_free(Call *c) {
    free((void *)c->ids);
    free((void *)c->positions);
    free((void *)c->targets);
    free((void *)c->mask);
    free((void *)c->inv_freq);
}

bool begin(Run *r, const Pass *p, bool masked, uint64_t seed, Error *e) {
    Call c = text(r, p, masked, seed);
    const bool fine = run_begin(r, &c, e);
    text_free(&c);
    return fine;
}

double forward_masked(Run *r, const Pass *p, bool masked, uint64_t seed) {
    Error e = {0};
    CHECK(begin(r, p, masked, seed, &e), "%s", e.message);
    CHECK(run_forward(r, NULL), "cancelled by nobody");
    return r->loss;
}

double forward(Run *r, const Pass *p, uint64_t seed) { return forward_masked(r, p, false, seed); }

void set_rates(Optimizer *o, double rate, double decay) {
    for (int i = 0; i < o->weights->total; i++) {
        o->rate[i] = rate;
        o->decay[i] = o->weights->all[i]->ndim > 1 ? decay : 0;
    }
}

void make_run(Run *r, Model *m, RunOptions o) {
    Error e = {0};
    CHECK(run_init(r, m, &o, NULL, &e), "%s", e.message);
}

bool same(const real *a, const real *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

double distance(const real *a, const real *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}
