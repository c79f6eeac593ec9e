/* harness: tiny models of every family and calls on them, for the tests of the core without Python. */
#pragma once
#include "base/alloc.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "weights/optimizer.h"
#include "runs/functional.h"
#include "runs/estimate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                              \
    do {                                                                   \
        if (!(condition)) {                                                \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                  \
            fputc('\n', stderr);                                           \
            exit(1);                                                       \
        }                                                                  \
    } while (0)

/* A family with tiny sizes, all odd where the family allows it. */
Spec tiny_spec(const char *family, Layer layers[2]);
/* The same, parameters filled; exits when there is no memory. */
void tiny_model(Model *m, const char *family);
void fill_parameters(Model *m);
/* n numbers in (-1, 1) that depend on the seed alone. */
void fill(real *x, size_t n, uint64_t seed);

/* The arrays of a call on text of the seed: positions behind the run's past, padding on the left of the first row when
 * it is masked. Give them back with text_free. */
Call text(const Run *r, const Pass *p, bool masked, uint64_t seed);
void text_free(Call *c);
/* run_begin on such text, whose arrays are gone afterwards; false: see e. */
bool begin(Run *r, const Pass *p, bool masked, uint64_t seed, Error *e);
/* A pass on such text, which must succeed; the loss. */
double forward_masked(Run *r, const Pass *p, bool masked, uint64_t seed);
double forward(Run *r, const Pass *p, uint64_t seed);
/* A run that must be had. */
void make_run(Run *r, Model *m, RunOptions o);
/* One rate and one decay for all that trains. */
void set_rates(Optimizer *o, double rate, double decay);

bool same(const real *a, const real *b, size_t n); /* to the bit */
/* The largest |a - b|. */
double distance(const real *a, const real *b, size_t n);

#define FAMILY_COUNT 7
extern const char *const FAMILIES[FAMILY_COUNT];

void test_passes(void);
void test_slopes(void);
void test_training(void);
void test_inside(void);
void test_generation(void);
void test_refusals(void);
void test_adapters(void);
void test_pieces(void);
void test_widths(void);
void test_recordings(void);
void test_parameters(void);
void test_packing(void);
void test_pool(void);
void test_fork(void);
void test_allocations(void);
