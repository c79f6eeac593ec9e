/* Parameters of one to four dimensions, found by their names. */
#include "harness.h"
#include "ops/ops.h"

static Tensor *declare(Plan *p, const Declaration *d) {
    if (!parameters_add(p->owner, d, STORED_REAL, &p->error)) return &p->nowhere;
    return tensor_parameter(p, d->ndim, d->shape, NULL, NULL);
}

static const int SHAPE[TENSOR_DIMS + 1] = {2, 3, 5, 7, 1};

static void check_declared(const Parameters *list) {
    size_t count = 1, end = 0;
    for (int ndim = 1; ndim <= TENSOR_DIMS; ndim++) {
        char name[32];
        snprintf(name, sizeof name, "m.of_%d", ndim);
        const Parameter *q = parameters_find(list, name);
        CHECK(q && q == &list->items[ndim - 1] && q->ndim == ndim, "%s", name);
        CHECK(memcmp(q->shape, SHAPE, (size_t)ndim * sizeof *SHAPE) == 0, "%s has another shape", name);
        count *= (size_t)SHAPE[ndim - 1];
        CHECK(q->count == count && q->offset >= end, "%s: %zu numbers from %zu on", name, q->count, q->offset);
        CHECK(q->stored.stride == (size_t)SHAPE[ndim - 1], "%s: rows are %zu apart", name, q->stored.stride);
        CHECK(parameter_data(q) == list->arena->data + q->offset, "%s lies elsewhere", name);
        end = q->offset + q->count;
    }
    CHECK(end <= list->size && !parameters_find(list, "m.of_5") && !parameters_find(list, "m.of_"), "%zu", list->size);
}

static void check_dimensions(void) {
    Parameters list = {0};
    Plan p = {.owner = &list, .parameter = declare};
    plan_begin(&p);
    enter(&p, PART_BLOCK, "m");
    for (int ndim = 1; ndim <= TENSOR_DIMS; ndim++) {
        char leaf[32];
        snprintf(leaf, sizeof leaf, "of_%d", ndim);
        const Tensor *t = parameter(&p, leaf, ndim, SHAPE);
        CHECK(t->ndim == ndim && t->cols == (size_t)SHAPE[ndim - 1], "%s: %s", leaf, p.error.message);
    }
    Error e = {0};
    CHECK(parameters_take(&list, &e), "%s", e.message);
    check_declared(&list);
    parameter(&p, "of_5", TENSOR_DIMS + 1, SHAPE);
    CHECK(p.error.code == ERROR_CONFIG && strstr(p.error.message, "m.of_5: a parameter of 5 dimensions"), "%s",
          p.error.message);
    const Declaration none = {.path = "none", .shape = SHAPE};
    CHECK(!parameters_add(&list, &none, STORED_REAL, &e) && e.code == ERROR_CONFIG, "a parameter without dimensions");
    CHECK(list.count == TENSOR_DIMS, "what was refused is in the list");
    plan_free(&p);
    parameters_free(&list);
}

void test_parameters(void) { check_dimensions(); }
