/* A past, read token by token, in chunks and through a window, against the whole text at once; and what is refused. */
#include "harness.h"

#define ROWS 2
#define LENGTH 24
#define WORDS 37

/* Tokens [start, end) of every row of the text of seed 4. */
static void read_piece(Run *r, int start, int end, bool masked) {
    Pass whole = {.B = ROWS, .T = LENGTH}, piece = {.B = ROWS, .T = end - start, .last = 1};
    Run beginning = {.model = r->model};
    Call all = text(&beginning, &whole, masked, 4), c = all;
    int32_t ids[ROWS * LENGTH], positions[ROWS * LENGTH];
    uint8_t mask[ROWS * LENGTH];
    for (int b = 0; b < ROWS; b++)
        for (int t = start; t < end; t++) {
            const int to = b * piece.T + t - start, from = b * LENGTH + t;
            ids[to] = all.ids[from];
            positions[to] = all.positions[from];
            if (masked) mask[to] = all.mask[from];
        }
    c.pass = piece;
    c.ids = ids;
    c.positions = positions;
    c.mask = masked ? mask : NULL;
    Error e = {0};
    CHECK(run_begin(r, &c, &e) && run_forward(r, NULL), "%s", e.message);
    text_free(&all);
}

/* The logits of the last position of a whole pass over the first `length` tokens. */
static void logits_without_past(Model *m, int length, bool masked, real *out) {
    Run r;
    make_run(&r, m, (RunOptions){.batch = ROWS, .length = LENGTH});
    read_piece(&r, 0, length, masked);
    memcpy(out, r.result.logits->data, ROWS * WORDS * sizeof *out);
    run_free(&r);
}

static void check_cache(const char *family, int chunk, bool masked) {
    Model m;
    tiny_model(&m, family);
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = chunk, .past = LENGTH});
    real whole[ROWS * WORDS];
    for (int again = 0; again < 2; again++) {
        for (int start = 0; start < LENGTH; start += chunk) {
            int end = start + chunk < LENGTH ? start + chunk : LENGTH;
            read_piece(&r, start, end, masked);
            logits_without_past(&m, end, masked, whole);
            double apart = distance(whole, r.result.logits->data, ROWS * WORDS);
            CHECK(apart < 1e-9, "%s, chunks of %d, to %d: logits are %g apart", family, chunk, end, apart);
        }
        Error e = {0};
        CHECK(run_trim(&r, 0, &e), "%s", e.message);
    }
    run_free(&r);
    model_free(&m);
}

/* Cut back and read on, a past gives what it gave before; a window that has forgotten says so. */
static void check_trim(void) {
    Model m;
    tiny_model(&m, "mistral");
    Run r;
    Error e = {0};
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = 40, .past = 100000});
    const Pass p = {.B = ROWS, .T = 12, .last = 1};
    forward(&r, &p, 1);
    forward(&r, &p, 2);
    real first[ROWS * WORDS];
    memcpy(first, r.result.logits->data, sizeof first);
    CHECK(run_trim(&r, 12, &e) && r.cache.held == 12, "%s", e.message);
    forward(&r, &p, 2);
    CHECK(same(first, r.result.logits->data, ROWS * WORDS), "a past that was cut back gives other logits");
    CHECK(!run_trim(&r, 25, &e) && e.code == ERROR_CONFIG && r.cache.held == 24, "more was left than there was");
    for (int i = 0; i < 60; i++) forward(&r, &p, 3);
    e = (Error){0};
    CHECK(!run_trim(&r, 30, &e) && e.code == ERROR_STATE && r.cache.held == 744, "%d: %s", r.cache.held, e.message);
    run_free(&r);
    model_free(&m);
}

/* A layer that sees all keeps all, one with a window what its window sees. */
static void check_layers_that_differ(void) {
    Layer layers[2];
    Spec s = tiny_spec("mistral", layers);
    layers[1].window = 0;
    Model m;
    Error e = {0};
    CHECK(model_init(&m, &s, PRECISION_FLOAT32, STORED_REAL, true, &e), "%s", e.message);
    fill_parameters(&m);
    Run cached, whole;
    make_run(&cached, &m, (RunOptions){.batch = 1, .length = 1, .past = 600});
    CHECK(cached.cache.layers[0].capacity < 300 && cached.cache.layers[1].capacity == 600, "capacities");
    make_run(&whole, &m, (RunOptions){.batch = 1, .length = 600});
    const Pass all = {.B = 1, .T = 600, .last = 1}, one = {.B = 1, .T = 1, .last = 1};
    int32_t ids[600], positions[600];
    real inv_freq[3], factor = 1;
    for (int i = 0; i < 600; i++) ids[i] = (int32_t)(rng_bits(7, (uint64_t)i) % (unsigned)s.V), positions[i] = i;
    for (int i = 0; i < s.D / 2; i++) inv_freq[i] = (real)pow(100, -2.0 * i / s.D);
    Call c = {.pass = all, .ids = ids, .positions = positions, .inv_freq = inv_freq, .rope_factor = &factor};
    CHECK(run_begin(&whole, &c, &e) && run_forward(&whole, NULL), "%s", e.message);
    for (int i = 0; i < 600; i++) {
        c = (Call){
            .pass = one, .ids = ids + i, .positions = positions + i, .inv_freq = inv_freq, .rope_factor = &factor};
        CHECK(run_begin(&cached, &c, &e) && run_forward(&cached, NULL), "%s", e.message);
    }
    CHECK(cached.cache.first[0] > 0 && cached.cache.first[1] == 0, "what was forgotten");
    const double apart = distance(cached.result.logits->data, whole.result.logits->data, (size_t)s.V);
    CHECK(apart < 1e-9, "token by token the logits are %g apart", apart);
    run_free(&cached);
    run_free(&whole);
    model_free(&m);
}

/* Far beyond the window the cache has been compacted several times. */
static void check_long_window(void) {
    Model m;
    tiny_model(&m, "mistral");
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = 40, .past = 100000});
    const LayerCache *layer = &r.cache.layers[0];
    CHECK(layer->capacity < 1000, "a window of %d keeps %d positions", layer->window, layer->capacity);
    Pass p = {.B = ROWS, .T = 40, .last = 1};
    for (int i = 0; i < 30; i++) {
        forward(&r, &p, (uint64_t)i);
        const int held = r.cache.held - r.cache.first[0];
        CHECK(held <= layer->capacity && held >= layer->window && isfinite((double)r.result.logits->data[0]),
              "piece %d", i);
    }
    run_free(&r);
    model_free(&m);
}

void test_generation(void) {
    for (int f = 0; f < FAMILY_COUNT; f++) {
        check_cache(FAMILIES[f], 1, false);
        check_cache(FAMILIES[f], 5, true);
        check_cache(FAMILIES[f], LENGTH, false);
    }
    check_long_window();
    check_trim();
    check_layers_that_differ();
}

/* --- what is refused, in words ------------------------------------------------------------------------------------ */
static void refused(Run *r, Pass p, ErrorCode code, const char *words) {
    Error e = {0};
    bool fine = begin(r, &p, false, 1, &e);
    CHECK(!fine && e.code == code && strstr(e.message, words), "'%s' was expected, not %d '%s'", words, e.code,
          e.message);
}

/* One number of a call is what the model has not. */
static void refused_number(Run *r, int32_t *number, const Call *c, int32_t value, const char *words) {
    Error e = {0};
    const int32_t kept = *number;
    *number = value;
    CHECK(!run_begin(r, c, &e) && e.code == ERROR_DATA && strstr(e.message, words), "'%s' was expected, not %d '%s'",
          words, e.code, e.message);
    CHECK(r->state == RUN_BROKEN, "%d", r->state);
    *number = kept;
}

static void check_numbers(const char *family, int positions) {
    Model m;
    tiny_model(&m, family);
    Run r;
    make_run(&r, &m, (RunOptions){.batch = 2, .length = 6});
    CHECK(r.state == RUN_EMPTY, "%d", r.state);
    Call c = text(&r, &(Pass){.B = 2, .T = 6, .losses = true}, true, 1);
    refused_number(&r, (int32_t *)&c.ids[11], &c, WORDS, "input_ids: 37 at index 11 is outside [0, 37)");
    refused_number(&r, (int32_t *)&c.ids[0], &c, -1, "input_ids: -1 at index 0");
    refused_number(&r, (int32_t *)&c.targets[3], &c, WORDS, "labels: 37 at index 3 is outside [-1, 37)");
    refused_number(&r, (int32_t *)&c.targets[3], &c, -2, "labels: -2 at index 3");
    refused_number(&r, (int32_t *)&c.positions[7], &c, -1, "position_ids: -1 at index 7");
    refused_number(&r, (int32_t *)&c.positions[7], &c, positions, "position_ids:");
    Error e = {0};
    CHECK(run_begin(&r, &c, &e) && run_forward(&r, NULL) && r.state == RUN_FORWARD, "%s", e.message);
    text_free(&c);
    run_free(&r);
    model_free(&m);
}

static void refused_run(Model *m, RunOptions o, ErrorCode code) {
    Run r;
    Error e = {0};
    Estimate x;
    CHECK(!run_init(&r, m, &o, NULL, &e) && e.code == code, "batch %d, length %d, past %d: %d '%s'", o.batch, o.length,
          o.past, e.code, e.message);
    e = (Error){0};
    bool forecast = run_estimate(m, &o, &x, &e);
    CHECK(forecast ? code == ERROR_MEMORY : e.code == code, "estimate: %d '%s'", e.code, e.message);
}

void test_refusals(void) {
    check_numbers("gpt2", 64);
    check_numbers("llama", INT32_MAX);
    Model m;
    tiny_model(&m, "llama");
    Run r;
    make_run(&r, &m, (RunOptions){.batch = 2, .length = 6, .past = 8});
    refused(&r, (Pass){.B = 3, .T = 4}, ERROR_SHAPE, "(3, 4)");
    refused(&r, (Pass){.B = 1, .T = 7}, ERROR_SHAPE, "length 6");
    refused(&r, (Pass){.B = 0, .T = 4}, ERROR_SHAPE, "(0, 4)");
    refused(&r, (Pass){.B = 1, .T = -1}, ERROR_SHAPE, "(1, -1)");
    refused(&r, (Pass){.B = 1, .T = 4, .last = -1}, ERROR_CONFIG, "-1");
    refused(&r, (Pass){.B = 1, .T = 4, .last = 2, .losses = true}, ERROR_CONFIG, "2");
    refused(&r, (Pass){.B = 1, .T = 4, .until = "model.layers.7"}, ERROR_NAME, "model.layers.7");
    const char *skip[] = {"lm_head"};
    refused(&r, (Pass){.B = 1, .T = 4, .skip = skip, .skip_count = 1}, ERROR_NAME, "lm_head");
    Pass p = {.B = 2, .T = 6};
    forward(&r, &p, 1);
    refused(&r, p, ERROR_SHAPE, "cache of 8 positions that holds 6"); /* no window: nothing may be forgotten */
    p.T = 2;
    forward(&r, &p, 1);
    run_free(&r);

    refused_run(&m, (RunOptions){.batch = 0, .length = 4}, ERROR_CONFIG);
    refused_run(&m, (RunOptions){.batch = 1, .length = -4}, ERROR_CONFIG);
    refused_run(&m, (RunOptions){.batch = 1, .length = 4, .past = -1}, ERROR_CONFIG);
    refused_run(&m, (RunOptions){.batch = 1, .length = 4, .past = 9, .backward = true}, ERROR_CONFIG);
    refused_run(&m, (RunOptions){.batch = 1 << 16, .length = 1 << 16}, ERROR_CONFIG);
    refused_run(&m, (RunOptions){.batch = 1 << 15, .length = 1 << 15, .keep_all = true}, ERROR_MEMORY);
    model_free(&m);

    Layer layers[2];
    Spec s = tiny_spec("gpt2", layers); /* sizes whose products do not fit */
    s.V = s.C = layers[0].F = layers[1].F = INT32_MAX;
    Error e = {0};
    CHECK(!model_init(&m, &s, PRECISION_FLOAT32, STORED_REAL, true, &e) && e.code != FINE, "2^62 numbers were had");
    s = tiny_spec("llama", layers);
    s.H = s.G = 1;
    s.D = INT32_MAX / 4 * 2;
    e = (Error){0};
    CHECK(model_init(&m, &s, PRECISION_FLOAT32, STORED_REAL, false, &e), "%s", e.message);
    refused_run(&m, (RunOptions){.batch = 1 << 10, .length = 1 << 10, .past = 1 << 20}, ERROR_MEMORY);
    model_free(&m);
}
