/* py_view: tensors as NumPy arrays, and arrays as numbers. The only file that includes NumPy. */
#include "binding/binding.h"

#define NPY_NO_DEPRECATED_API NPY_1_19_API_VERSION
#include <numpy/arrayobject.h>

#ifdef LLMC_DOUBLE
#define NPY_REAL NPY_DOUBLE
#else
#define NPY_REAL NPY_FLOAT
#endif

int view_begin(void) {
    import_array1(-1);
    return 0;
}

static void let_go(PyObject *capsule) { arena_release(PyCapsule_GetPointer(capsule, "llmc.arena")); }

/* A writable array of numbers of a NumPy type that lie in an arena, which it keeps alive. */
static PyObject *array_of(Arena *a, void *data, int type, int ndim, npy_intp *dims, npy_intp *steps) {
    PyObject *keeper = PyCapsule_New(arena_retain(a), "llmc.arena", let_go);
    if (!keeper) {
        arena_release(a);
        return NULL;
    }
    PyObject *array = PyArray_New(&PyArray_Type, ndim, dims, type, steps, data, 0, NPY_ARRAY_WRITEABLE, NULL);
    if (!array || PyArray_SetBaseObject((PyArrayObject *)array, keeper) < 0) { /* steals keeper, also when it fails */
        if (!array) Py_DECREF(keeper);
        Py_XDECREF(array);
        return NULL;
    }
    PyArray_UpdateFlags((PyArrayObject *)array, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS | NPY_ARRAY_ALIGNED);
    return array;
}

/* The same, `each` bytes a number. */
static PyObject *view(Arena *a, void *data, int type, size_t each, int ndim, const int *shape, const size_t *strides) {
    npy_intp dims[TENSOR_DIMS], steps[TENSOR_DIMS];
    for (int i = 0; i < ndim; i++) {
        dims[i] = shape[i];
        steps[i] = (npy_intp)(strides[i] * each);
    }
    return array_of(a, data, type, ndim, dims, steps);
}

PyObject *view_whole(Arena *a) {
    return array_of(a, a->data, NPY_REAL, 1, (npy_intp[]){(npy_intp)a->count}, (npy_intp[]){sizeof(real)});
}

/* Reals whose rows are `row` numbers apart. */
static PyObject *view_rows(Arena *a, const real *data, int ndim, const int *shape, size_t row) {
    size_t strides[TENSOR_DIMS];
    strides[ndim - 1] = 1;
    for (int i = ndim - 2; i >= 0; i--) {
        strides[i] = row;
        row *= (size_t)shape[i];
    }
    return view(a, (void *)data, NPY_REAL, sizeof(real), ndim, shape, strides);
}

PyObject *view_like(const Parameter *q, Arena *a, const real *data) {
    return view_rows(a, data, q->ndim, q->shape, (size_t)q->shape[q->ndim - 1]);
}

bool add_view(PyObject *dict, const Parameter *q, Arena *a, size_t at) {
    PyObject *array = view_like(q, a, a->data + at);
    bool added = array && PyDict_SetItemString(dict, q->name, array) == 0;
    Py_XDECREF(array);
    return added;
}

PyObject *view_parameter(const Parameter *q) {
    const Stored *s = &q->stored;
    if (s->storage == STORED_REAL) return view_like(q, q->arena, s->data);
    const size_t strides[2] = {s->transposed ? 1 : s->stride, s->transposed ? s->stride : 1};
    if (s->storage == STORED_BFLOAT16) return view(q->arena, s->data, NPY_UINT16, 2, q->ndim, q->shape, strides);
    int lying[2], scaled[2];
    parameter_stored_shape(q, lying);
    parameter_scales(q, scaled);
    PyObject *numbers = view(q->arena, s->data, NPY_INT8, 1, 2, lying, (size_t[]){s->stride, 1});
    PyObject *scales = view(q->arena, s->scales, NPY_FLOAT, sizeof(float), 2, scaled, (size_t[]){s->scale_stride, 1});
    PyObject *all = numbers && scales ? PyTuple_Pack(3, numbers, scales, s->transposed ? Py_True : Py_False) : NULL;
    Py_XDECREF(numbers);
    Py_XDECREF(scales);
    return all;
}

PyObject *view_tensor(Arena *a, const Tensor *t) { return view_rows(a, t->data, t->ndim, t->shape, t->stride); }

PyObject *shape_tuple(int ndim, const int *shape) {
    PyObject *tuple = PyTuple_New(ndim);
    for (int i = 0; tuple && i < ndim; i++) {
        PyObject *size = PyLong_FromLong(shape[i]);
        if (size) PyTuple_SET_ITEM(tuple, i, size);
        else Py_CLEAR(tuple);
    }
    return tuple;
}

static PyArrayObject *checked(const State *s, PyObject *object, int type, const char *type_name, bool writable,
                              const char *what) {
    if (!PyArray_Check(object) || PyArray_TYPE((PyArrayObject *)object) != type) {
        PyErr_Format(PyExc_TypeError, "%s: an array of %s is needed", what, type_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (!PyArray_ISCARRAY_RO(array) || (writable && !PyArray_ISWRITEABLE(array))) {
        PyErr_Format(s->shape, "%s: a C-contiguous%s array is needed", what, writable ? ", writable" : "");
        return NULL;
    }
    return array;
}

static const void *counted(const State *s, PyObject *object, int type, const char *type_name, size_t count,
                           const char *what) {
    PyArrayObject *array = checked(s, object, type, type_name, false, what);
    if (!array) return NULL;
    if ((size_t)PyArray_SIZE(array) != count) {
        PyErr_Format(s->shape, "%s: %zd numbers were given, %zu are needed", what, (Py_ssize_t)PyArray_SIZE(array),
                     count);
        return NULL;
    }
    return PyArray_DATA(array);
}

const int32_t *borrow_int32(const State *s, PyObject *array, size_t count, const char *what) {
    return counted(s, array, NPY_INT32, "int32", count, what);
}
const uint8_t *borrow_uint8(const State *s, PyObject *array, size_t count, const char *what) {
    return counted(s, array, NPY_UINT8, "uint8", count, what);
}
const real *borrow_vector(const State *s, PyObject *array, size_t count, const char *what) {
    return counted(s, array, NPY_REAL, REAL_NAME, count, what);
}

const int32_t *borrow_rows(const State *s, PyObject *object, int *B, int *T, const char *what) {
    PyArrayObject *array = checked(s, object, NPY_INT32, "int32", false, what);
    if (!array) return NULL;
    if (PyArray_NDIM(array) != 2 || PyArray_DIM(array, 0) > INT32_MAX || PyArray_DIM(array, 1) > INT32_MAX) {
        PyErr_Format(s->shape, "%s: two dimensions below 2^31 are needed", what);
        return NULL;
    }
    *B = (int)PyArray_DIM(array, 0);
    *T = (int)PyArray_DIM(array, 1);
    return PyArray_DATA(array);
}

bool copy_int32(const State *s, PyObject *array, int32_t *out, size_t count, const char *what) {
    const int32_t *data = borrow_int32(s, array, count, what);
    if (data) memcpy(out, data, count * sizeof *out);
    return data != NULL;
}

real *borrow_reals(const State *s, PyObject *object, int *ndim, int *shape, bool writable, const char *what) {
    PyArrayObject *array = checked(s, object, NPY_REAL, REAL_NAME, writable, what);
    if (!array) return NULL;
    *ndim = PyArray_NDIM(array);
    for (int i = 0; i < *ndim && *ndim <= TENSOR_DIMS; i++) {
        if (PyArray_DIM(array, i) > INT32_MAX) *ndim = TENSOR_DIMS + 1;
        else shape[i] = (int)PyArray_DIM(array, i);
    }
    if (*ndim < 1 || *ndim > TENSOR_DIMS) {
        PyErr_Format(s->shape, "%s: 1 to %d dimensions below 2^31 are needed", what, TENSOR_DIMS);
        return NULL;
    }
    return PyArray_DATA(array);
}

static void *written(const State *s, PyObject *object, int type, const char *type_name, size_t count,
                     const char *what) {
    PyArrayObject *array = checked(s, object, type, type_name, true, what);
    if (!array) return NULL;
    if ((size_t)PyArray_SIZE(array) == count) return PyArray_DATA(array);
    PyErr_Format(s->shape, "%s: %zd numbers were given, %zu are needed", what, (Py_ssize_t)PyArray_SIZE(array), count);
    return NULL;
}

double *borrow_doubles(const State *s, PyObject *array, size_t count, const char *what) {
    return written(s, array, NPY_DOUBLE, "float64", count, what);
}
int64_t *borrow_int64(const State *s, PyObject *array, size_t count, const char *what) {
    return written(s, array, NPY_INT64, "int64", count, what);
}
real *borrow_written(const State *s, PyObject *array, size_t count, const char *what) {
    return written(s, array, NPY_REAL, REAL_NAME, count, what);
}

const void *borrow_stored(const State *s, PyObject *object, size_t shape[2], Storage *storage, const char *what) {
    bool narrow = PyArray_Check(object) && PyArray_TYPE((PyArrayObject *)object) == NPY_UINT16;
    PyArrayObject *array = checked(s, object, narrow ? NPY_UINT16 : NPY_REAL, REAL_NAME " or uint16", false, what);
    if (!array) return NULL;
    if (PyArray_NDIM(array) != 2) {
        PyErr_Format(s->shape, "%s: two dimensions are needed", what);
        return NULL;
    }
    shape[0] = (size_t)PyArray_DIM(array, 0);
    shape[1] = (size_t)PyArray_DIM(array, 1);
    *storage = narrow ? STORED_BFLOAT16 : STORED_REAL;
    return PyArray_DATA(array);
}
