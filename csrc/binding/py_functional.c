/* py_functional: _core.functional, one op on the caller's arrays. */
#include "base/alloc.h"
#include "binding/binding.h"
#include "runs/functional.h"

#include <string.h>

/* functional(op, arrays, gradients, out, dout, count, shape, ids=, mask=, number=, kind=, heads=, groups=, size=,
 * window=,
 *       causal=, repeats=, precision=) -> the seconds of every repeat
 * arrays and gradients: tuples of arrays or None; out, dout: arrays or None. Shapes are the caller's business
 * except where memory depends on them. */
static bool bring_array(const State *s, PyObject *object, FunctionalArray *a) {
    if (object == Py_None) return true;
    a->data = borrow_reals(s, object, &a->ndim, a->shape, false, "an operand");
    return a->data != NULL;
}

static bool bring_gradient(const State *s, PyObject *object, FunctionalArray *a) {
    if (object == Py_None) return true;
    int ndim, shape[TENSOR_DIMS];
    a->grad = borrow_reals(s, object, &ndim, shape, true, "a gradient");
    if (!a->grad) return false;
    bool same = ndim == a->ndim;
    for (int i = 0; same && i < ndim; i++) same = shape[i] == a->shape[i];
    if (!same) PyErr_SetString(s->shape, "a gradient has another shape than its operand");
    return same;
}

static size_t numbers_in(const FunctionalArray *a) {
    size_t n = 1;
    for (int i = 0; i < a->ndim; i++) n *= (size_t)a->shape[i];
    return n;
}

/* `out` and `dout` have `count` numbers; the core knows whether the result has as many. */
static bool bring_results(const State *s, PyObject *out, PyObject *dout, size_t count, Functional *p) {
    FunctionalArray a = {0}, d = {0};
    if (out != Py_None && !(p->out = borrow_reals(s, out, &a.ndim, a.shape, true, "out"))) return false;
    if (dout != Py_None && !(p->dout = borrow_reals(s, dout, &d.ndim, d.shape, false, "dout"))) return false;
    if ((p->out && numbers_in(&a) != count) || (p->dout && numbers_in(&d) != count)) {
        PyErr_Format(s->shape, "%s: out or dout has not %zu numbers", p->op, count);
        return false;
    }
    p->count = count;
    return true;
}

/* Copied first and checked afterwards: another thread may be writing into the array. Release with alloc_free. */
static int32_t *bring_ids(const State *s, PyObject *object, const Functional *p, size_t count) {
    int32_t *ids = alloc_array(count, sizeof *ids);
    if (!ids) return (int32_t *)PyErr_NoMemory();
    bool rows = strcmp(p->op, "embedding") == 0, targets = strcmp(p->op, "cross_entropy") == 0;
    const FunctionalArray *a = &p->in[rows ? 1 : 0];
    int most = rows ? a->shape[0] : targets && a->ndim ? a->shape[a->ndim - 1] : INT32_MAX;
    bool fine = copy_int32(s, object, ids, count, "ids");
    for (size_t i = 0; fine && i < count; i++) {
        if (ids[i] < most && (ids[i] >= 0 || targets)) continue;
        PyErr_Format(s->data, "%s: id %d at index %zu is outside [0, %d)", p->op, ids[i], i, most);
        fine = false;
    }
    if (fine) return ids;
    alloc_free(ids);
    return NULL;
}

static PyObject *list_of(const double *numbers, int count) {
    PyObject *list = PyList_New(count);
    for (int i = 0; list && i < count; i++) {
        PyObject *number = PyFloat_FromDouble(numbers[i]);
        if (number) PyList_SET_ITEM(list, i, number);
        else Py_CLEAR(list);
    }
    return list;
}

/* Its ids and the call itself. */
static PyObject *run_piece(const State *s, Functional *p, PyObject *ids, size_t N) {
    int32_t *own = NULL;
    if (ids != Py_None && !(p->ids = own = bring_ids(s, ids, p, N))) return NULL;
    Error e = {0};
    Unlocked u;
    unlock(&u);
    bool fine = functional_run(p, &e, &u.cancel);
    bool locked = lock(s, &u);
    alloc_free(own);
    if (!locked) return NULL;
    return fine ? list_of(p->seconds, p->repeats) : raise_error(s, &e);
}

PyObject *functional_apply(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"op",     "arrays", "gradients", "out",       "dout",  "count",  "shape",
                            "ids",    "mask",   "number",    "act",       "heads", "groups", "size",
                            "window", "causal", "repeats",   "precision", NULL};
    const State *s = state_of(module);
    Functional p = {0};
    PyObject *arrays, *gradients, *out, *dout, *ids = Py_None, *mask = Py_None;
    Py_ssize_t count;
    const char *precision = "float32", *act = "linear";
    int causal = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO!O!OOn(ii)|OOdsiiiipis:functional", names, &p.op, &PyTuple_Type,
                                     &arrays, &PyTuple_Type, &gradients, &out, &dout, &count, &p.B, &p.T, &ids, &mask,
                                     &p.number, &act, &p.heads, &p.groups, &p.D, &p.window, &causal, &p.repeats,
                                     &precision))
        return NULL;
    p.bfloat16 = strcmp(precision, "bfloat16") == 0;
    if (!p.bfloat16 && strcmp(precision, "float32") != 0) {
        PyErr_Format(s->config, "precision='%s': products are computed in 'float32' or in 'bfloat16'", precision);
        return NULL;
    }
    while (p.act < ACT_COUNT && strcmp(activation_words[p.act], act) != 0) p.act++;
    if (p.act == ACT_COUNT) return PyErr_Format(s->config, "the core has no activation '%.100s'", act);
    p.causal = causal;
    Py_ssize_t n = PyTuple_GET_SIZE(arrays);
    if (p.B < 0 || p.T < 0 || count < 0 || n > FUNCTIONAL_ARRAYS || PyTuple_GET_SIZE(gradients) != n || p.repeats < 0) {
        PyErr_SetString(PyExc_ValueError, "functional: count, shape, operands, gradients or repeats out of range");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (!bring_array(s, PyTuple_GET_ITEM(arrays, i), &p.in[i]) ||
            !bring_gradient(s, PyTuple_GET_ITEM(gradients, i), &p.in[i]))
            return NULL;
    size_t N = (size_t)p.B * (size_t)p.T;
    if (!bring_results(s, out, dout, (size_t)count, &p)) return NULL;
    size_t keys = p.in[1].ndim > 1 ? (size_t)p.B * (size_t)p.in[1].shape[1] : 0;
    if (mask != Py_None && !(p.mask = borrow_uint8(s, mask, keys, "attention_mask"))) return NULL;
    p.seconds = alloc_array((size_t)p.repeats, sizeof *p.seconds);
    if (!p.seconds) return PyErr_NoMemory();
    PyObject *seconds = run_piece(s, &p, ids, N);
    alloc_free(p.seconds);
    return seconds;
}
