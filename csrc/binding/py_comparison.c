/* py_comparison: _core.compare, two matrices met number by number. */
#include "binding/binding.h"
#include "runs/comparison.h"

/* compare(base, other, is_delta, least, sums, changed, columns=None, delta=None) -> (nonfinite, largest, its place)
 * base, other (R,C) reals, or bfloat16 as uint16; sums (R,6) double, changed (R,) int64, columns (3,C) double, delta
 * (R,C) reals are written. */
PyObject *comparison_apply(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"base", "other", "is_delta", "least", "sums", "changed", "columns", "delta", NULL};
    const State *s = state_of(module);
    PyObject *base, *other, *sums, *changed, *columns = Py_None, *delta = Py_None;
    int is_delta;
    double least;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOpdOO|OO:compare", names, &base, &other, &is_delta, &least, &sums,
                                     &changed, &columns, &delta))
        return NULL;
    Comparison c = {.is_delta = is_delta, .least = (real)least};
    size_t shape[2];
    if (!(c.base = borrow_stored(s, base, shape, &c.base_storage, "base"))) return NULL;
    c.rows = shape[0];
    c.columns = shape[1];
    if (!(c.other = borrow_stored(s, other, shape, &c.other_storage, "other"))) return NULL;
    if (shape[0] != c.rows || shape[1] != c.columns) {
        PyErr_Format(s->shape, "base is (%zu, %zu), other (%zu, %zu)", c.rows, c.columns, shape[0], shape[1]);
        return NULL;
    }
    if (!(c.sums = borrow_doubles(s, sums, c.rows * 6, "sums"))) return NULL;
    if (!(c.changed = borrow_int64(s, changed, c.rows, "changed"))) return NULL;
    if (columns != Py_None && !(c.column_sums = borrow_doubles(s, columns, c.columns * 3, "columns"))) return NULL;
    if (delta != Py_None && !(c.delta = borrow_written(s, delta, c.rows * c.columns, "delta"))) return NULL;
    Error e = {0};
    Unlocked u;
    unlock(&u);
    bool fine = comparison_run(&c, &e, &u.cancel);
    if (!lock(s, &u)) return NULL;
    if (!fine) return raise_error(s, &e);
    return Py_BuildValue("(ndn)", (Py_ssize_t)c.odd, (double)c.top, (Py_ssize_t)c.at);
}
