/* binding: the only folder that sees Python. Parse -> enter -> convert -> gate -> unlock -> one core call -> wrap.
 *
 * It computes nothing and checks what memory safety needs; friendlier checks are llmc's Python. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/pool.h"
#include "models/model.h"
#include "weights/optimizer.h"
#include "ops/ops.h"
#include "runs/estimate.h"

typedef struct {
    PyObject *error, *config, *shape, *data, *name, *busy, *nonfinite; /* llmc.errors' classes */
    PyTypeObject *model, *run, *optimizer;
} State;

State *state_of(PyObject *module);
State *state_of_type(PyTypeObject *type); /* of a type defined by this module */

/* py_error.c   raises what `e` says; always returns NULL */
PyObject *raise_error(const State *s, const Error *e);

/* Many readers or one writer: changed with the GIL held, so plain numbers do. */
typedef struct {
    int readers;
    bool writing;
} Guard;
bool guard_read(const State *s, Guard *g, const char *what); /* false: BusyError is set */
bool guard_write(const State *s, Guard *g, const char *what);

/* The core call without the GIL, which is taken back now and then to see whether Ctrl-C was pressed. */
typedef struct {
    PyThreadState *thread;
    Cancel cancel;
} Unlocked;
void unlock(Unlocked *u);
/* False, with an exception set: a signal handler raised, or forked (the child has no threads to finish the call). */
bool lock(const State *s, Unlocked *u);

/* py_view.c   the only file that includes NumPy */
int view_begin(void);
/* Adds a view of parameter q, which lies at reals `at` of an arena, to a dict under its name. */
bool add_view(PyObject *dict, const Parameter *q, Arena *a, size_t at);
/* Writable views of reals in an arena, which they keep alive: of a parameter's shape, of a tensor. */
PyObject *view_like(const Parameter *q, Arena *a, const real *data);
PyObject *view_tensor(Arena *a, const Tensor *t);
/* A writable view of a parameter as it lies: reals, bfloat16's bits, or a pair of int8 numbers and their scales. */
PyObject *view_parameter(const Parameter *q);
/* All reals of an arena, as one row. */
PyObject *view_whole(Arena *a);
PyObject *shape_tuple(int ndim, const int *shape);
/* Copies a C-contiguous array of exactly `count` numbers into `out`; false: an error that names `what` is set. */
bool copy_int32(const State *s, PyObject *array, int32_t *out, size_t count, const char *what);
/* Borrow the data of a C-contiguous array, of exactly `count` numbers or of a shape that they tell; NULL: an error that
 * names `what` is set. */
const int32_t *borrow_int32(const State *s, PyObject *array, size_t count, const char *what);
const uint8_t *borrow_uint8(const State *s, PyObject *array, size_t count, const char *what);
const real *borrow_vector(const State *s, PyObject *array, size_t count, const char *what);
real *borrow_reals(const State *s, PyObject *array, int *ndim, int *shape, bool writable, const char *what);
/* Of exactly `count` numbers, to be written into. */
double *borrow_doubles(const State *s, PyObject *array, size_t count, const char *what);
int64_t *borrow_int64(const State *s, PyObject *array, size_t count, const char *what);
real *borrow_written(const State *s, PyObject *array, size_t count, const char *what);
/* A matrix of reals, or of bfloat16 as uint16; its shape, and which of the two. */
const void *borrow_stored(const State *s, PyObject *array, size_t shape[2], Storage *storage, const char *what);
const int32_t *borrow_rows(const State *s, PyObject *array, int *B, int *T, const char *what); /* (B,T) */

/* A tuple or list of str as C strings, which it holds; NULL with an error set. Release with alloc_free. */
const char **borrow_strings(PyObject *sequence, int *count);

typedef struct {
    PyObject_HEAD
    Model model;
    Guard guard;
} ModelObject;

/* Of gradients, which runs may share: is one of them writing? Counted, and changed with the GIL held. */
typedef struct {
    int references;
    bool busy;
} Lock;

typedef struct {
    PyObject_HEAD
    ModelObject *owner;
    Run run;
    Lock *gradients; /* NULL: the run keeps none */
    bool busy, ready;
} RunObject;

/* One method's use of a run: the run is its own, the model is read; and the run's gradients. False: BusyError is set */
bool run_enter(const State *s, RunObject *r);
void run_leave(RunObject *r);
bool gradients_enter(const State *s, const RunObject *r);
void gradients_leave(const RunObject *r);

extern PyType_Spec model_type_spec, run_type_spec, optimizer_type_spec;

#define KEYWORDS(f) (PyCFunction)(void (*)(void)) f, METH_VARARGS | METH_KEYWORDS

/* py_adapter.c   methods of Model */
PyObject *model_linears(PyObject *model, PyObject *unused);
PyObject *model_add(PyObject *model, PyObject *args, PyObject *kwargs);
PyObject *model_delete(PyObject *model, PyObject *args);
PyObject *model_set(PyObject *model, PyObject *args, PyObject *kwargs);
PyObject *model_adapter_views(PyObject *model, PyObject *args);

/* py_shown.c   methods and properties of Run */
PyObject *shown_modules(PyObject *run, PyObject *unused);
PyObject *shown_array(PyObject *run, PyObject *args);
PyObject *shown_parameter_gradient(PyObject *run, PyObject *args);
PyObject *shown_gradient_arena(PyObject *run, void *unused);
PyObject *shown_observed(PyObject *run, PyObject *unused);
PyObject *shown_shapes(PyObject *run, PyObject *unused);
PyObject *shown_steps(PyObject *run, PyObject *unused);
PyObject *shown_logits(PyObject *run, void *unused);
PyObject *shown_likeliest(PyObject *run, PyObject *unused);
PyObject *shown_losses(PyObject *run, void *unused);

/* py_comparison.c */
PyObject *comparison_apply(PyObject *module, PyObject *args, PyObject *kwargs);

/* py_functional.c */
PyObject *functional_apply(PyObject *module, PyObject *args, PyObject *kwargs);
