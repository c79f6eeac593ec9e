/* A past, read token by token, in chunks and through a window, against the whole text at once; and what is refused. */
#include "harness.h"

#define ROWS 2
#define LENGTH 24
#define WORDS 37

/* The logits of the last position of a whole pass over the first `length` tokens. */
static void logits_without_past(Model *m, int length, bool masked, real *out) {
    Run r;
    make_run(&r, m, (RunOptions){.batch = ROWS, .length = LENGTH});
    Call c = {.B = ROWS, .T = LENGTH, .masked = masked};
    Error e = {0};
    CHECK(run_make_room(&r, &c, &e), "%s", e.message);
    feed(&r, &c, 4);
    for (int b = 0; b < ROWS; b++) { /* the first tokens of every row, closed up */
        memmove(r.ids + b * length, r.ids + b * LENGTH, (size_t)length * sizeof *r.ids);
        memmove(r.positions + b * length, r.positions + b * LENGTH, (size_t)length * sizeof *r.positions);
    }
    c.T = length;
    CHECK(run_prepare(&r, &c, &e) && run_forward(&r, NULL, NULL), "%s", e.message);
    for (int b = 0; b < ROWS; b++)
        memcpy(out + b * WORDS, r.given.logits->data + (size_t)((b + 1) * length - 1) * WORDS, WORDS * sizeof *out);
    run_free(&r);
}

/* Feeds tokens [start, end) of the text of seed 4. */
static void read_piece(Run *r, int start, int end, bool masked) {
    Call c = {.B = ROWS, .T = end - start, .masked = masked, .last = 1};
    Call whole = {.B = ROWS, .T = LENGTH, .masked = masked};
    Error e = {0};
    CHECK(run_make_room(r, &c, &e), "%s", e.message);
    Run text;
    make_run(&text, r->model, (RunOptions){.batch = ROWS, .length = LENGTH});
    feed(&text, &whole, 4);
    feed(r, &c, 4); /* the frequencies */
    for (int b = 0; b < ROWS; b++) {
        memcpy(r->ids + b * c.T, text.ids + b * LENGTH + start, (size_t)c.T * sizeof *r->ids);
        memcpy(r->positions + b * c.T, text.positions + b * LENGTH + start, (size_t)c.T * sizeof *r->positions);
        memcpy(r->mask + (size_t)b * r->mask_stride + r->past, text.mask + (size_t)b * text.mask_stride + start,
               (size_t)c.T);
    }
    run_free(&text);
    CHECK(run_prepare(r, &c, &e) && run_forward(r, NULL, NULL), "%s", e.message);
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
            double apart = distance(whole, r.given.logits->data, ROWS * WORDS);
            CHECK(apart < 1e-9, "%s, chunks of %d, to %d: logits are %g apart", family, chunk, end, apart);
        }
        run_rewind(&r);
    }
    run_free(&r);
    model_free(&m);
}

/* Far beyond the window the cache has been compacted several times. */
static void check_long_window(void) {
    Model m;
    tiny_model(&m, "mistral");
    Run r;
    make_run(&r, &m, (RunOptions){.batch = ROWS, .length = 40, .past = 100000});
    CHECK(r.cache.capacity < 1000, "a window of %d keeps %d positions", m.spec.window, r.cache.capacity);
    Call c = {.B = ROWS, .T = 40, .last = 1};
    for (int i = 0; i < 30; i++) {
        forward(&r, &c, (uint64_t)i);
        CHECK(r.past <= r.cache.capacity && isfinite((double)r.given.logits->data[0]), "piece %d", i);
    }
    run_free(&r);
    model_free(&m);
}

void test_generation(void) {
    for (int f = 0; f < 4; f++) {
        check_cache(FAMILIES[f], 1, false);
        check_cache(FAMILIES[f], 5, true);
        check_cache(FAMILIES[f], LENGTH, false);
    }
    check_long_window();
}

/* --- what is refused, in words ------------------------------------------------------------------------------------ */
static void refused(Run *r, Call c, ErrorCode code, const char *words) {
    Error e = {0};
    bool fine = prepare(r, &c, 1, &e);
    CHECK(!fine && e.code == code && strstr(e.message, words), "'%s' was expected, not %d '%s'", words, e.code,
          e.message);
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
    Model m;
    tiny_model(&m, "llama");
    Run r;
    make_run(&r, &m, (RunOptions){.batch = 2, .length = 6, .past = 8});
    refused(&r, (Call){.B = 3, .T = 4}, ERROR_SHAPE, "(3, 4)");
    refused(&r, (Call){.B = 1, .T = 7}, ERROR_SHAPE, "length 6");
    refused(&r, (Call){.B = 0, .T = 4}, ERROR_SHAPE, "(0, 4)");
    refused(&r, (Call){.B = 1, .T = -1}, ERROR_SHAPE, "(1, -1)");
    refused(&r, (Call){.B = 1, .T = 4, .last = -1}, ERROR_CONFIG, "-1");
    refused(&r, (Call){.B = 1, .T = 4, .last = 2, .losses = true}, ERROR_CONFIG, "2");
    refused(&r, (Call){.B = 1, .T = 4, .until = "model.layers.7"}, ERROR_NAME, "model.layers.7");
    const char *skip[] = {"lm_head"};
    refused(&r, (Call){.B = 1, .T = 4, .skip = skip, .skip_count = 1}, ERROR_NAME, "lm_head");
    Call c = {.B = 2, .T = 6};
    forward(&r, &c, 1);
    refused(&r, c, ERROR_SHAPE, "cache of 8 positions that holds 6"); /* no window: nothing may be forgotten */
    c.T = 2;
    forward(&r, &c, 1);
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
    s.V = s.C = s.F = INT32_MAX;
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
