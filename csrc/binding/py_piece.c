/* py_piece: _core.piece, one op on the caller's arrays. */
#include "binding/binding.h"
#include "models/pieces.h"

/* piece(op, arrays, gradients, out, dout, B, T, ids=, mask=, number=, kind=, heads=, groups=, size=, window=, causal=)
 * arrays and gradients: tuples of arrays or None; out, dout: arrays or None. Shapes are the caller's business
 * except where memory depends on them. */
static bool bring_array(const State *s, PyObject *object, PieceArray *a) {
    if (object == Py_None) return true;
    a->data = borrow_reals(s, object, &a->ndim, a->shape, false, "an operand");
    return a->data != NULL;
}

static bool bring_gradient(const State *s, PyObject *object, PieceArray *a) {
    if (object == Py_None) return true;
    int ndim, shape[TENSOR_DIMS];
    a->grad = borrow_reals(s, object, &ndim, shape, true, "a gradient");
    if (!a->grad) return false;
    bool same = ndim == a->ndim;
    for (int i = 0; same && i < ndim; i++) same = shape[i] == a->shape[i];
    if (!same) PyErr_SetString(s->shape, "a gradient has another shape than its operand");
    return same;
}

static size_t numbers_in(const PieceArray *a) {
    size_t n = 1;
    for (int i = 0; i < a->ndim; i++) n *= (size_t)a->shape[i];
    return n;
}

/* `out` and `dout` have as many numbers as the result. */
static bool bring_results(const State *s, PyObject *out, PyObject *dout, size_t count, Piece *p) {
    PieceArray a = {0}, d = {0};
    if (out != Py_None && !(p->out = borrow_reals(s, out, &a.ndim, a.shape, true, "out"))) return false;
    if (dout != Py_None && !(p->dout = borrow_reals(s, dout, &d.ndim, d.shape, false, "dout"))) return false;
    if ((p->out && numbers_in(&a) != count) || (p->dout && numbers_in(&d) != count)) {
        PyErr_Format(s->shape, "%s: the result has %zu numbers, out or dout another count", p->op, count);
        return false;
    }
    return true;
}

static bool ids_in_range(const State *s, const Piece *p, size_t count, int most) {
    for (size_t i = 0; i < count; i++) {
        if (p->ids[i] < most) continue;
        PyErr_Format(s->data, "%s: id %d at index %zu is outside [0, %d)", p->op, p->ids[i], i, most);
        return false;
    }
    return true;
}

PyObject *piece_apply(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"op", "arrays", "gradients", "out", "dout", "count", "shape", "ids", "mask", "number", "kind",
                            "heads", "groups", "size", "window", "causal", NULL};
    const State *s = state_of(module);
    Piece p = {0};
    PyObject *arrays, *gradients, *out, *dout, *ids = Py_None, *mask = Py_None;
    Py_ssize_t count;
    int causal = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO!O!OOn(ii)|OOdiiiiip:piece", names, &p.op, &PyTuple_Type, &arrays,
                                     &PyTuple_Type, &gradients, &out, &dout, &count, &p.B, &p.T, &ids, &mask, &p.number,
                                     &p.kind, &p.heads, &p.groups, &p.D, &p.window, &causal))
        return NULL;
    p.causal = causal;
    Py_ssize_t n = PyTuple_GET_SIZE(arrays);
    if (n > PIECE_ARRAYS || PyTuple_GET_SIZE(gradients) != n || p.kind < 0 || p.kind >= ACT_COUNT) {
        PyErr_SetString(PyExc_ValueError, "piece: operands, gradients or kind out of range");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (!bring_array(s, PyTuple_GET_ITEM(arrays, i), &p.in[i]) ||
            !bring_gradient(s, PyTuple_GET_ITEM(gradients, i), &p.in[i]))
            return NULL;
    size_t N = (size_t)p.B * (size_t)p.T;
    if (!bring_results(s, out, dout, (size_t)count, &p)) return NULL;
    if (ids != Py_None && !(p.ids = borrow_int32(s, ids, N, "ids"))) return NULL;
    size_t keys = p.in[1].ndim > 1 ? (size_t)p.B * (size_t)p.in[1].shape[1] : 0;
    if (mask != Py_None && !(p.mask = borrow_uint8(s, mask, keys, "attention_mask"))) return NULL;
    if (p.ids && p.D == 0 && !ids_in_range(s, &p, N, p.in[1].data ? p.in[1].shape[0] : p.in[0].shape[p.in[0].ndim - 1])) return NULL;
    Error e = {0};
    Unlocked u;
    unlock(&u);
    bool fine = piece_run(&p, &e, &u.cancel);
    if (!lock(&u)) return NULL;
    if (!fine) return raise_error(s, &e);
    Py_RETURN_NONE;
}
