/* py_adapter: adapters as methods of _core.Model. Each is a change of structure: nobody may be reading. */
#include "base/alloc.h"
#include "binding/binding.h"

PyObject *model_linears(PyObject *object, PyObject *unused) {
    (void)unused;
    const Model *m = &((ModelObject *)object)->model;
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < m->weights.base.count; i++) {
        const Parameter *q = &m->weights.base.items[i];
        if (!q->inputs) continue;
        PyObject *module = PyUnicode_FromStringAndSize(q->name, strrchr(q->name, '.') - q->name);
        PyObject *sizes = Py_BuildValue("(ii)", q->inputs, q->outputs);
        if (!module || !sizes || PyDict_SetItem(all, module, sizes) < 0) Py_CLEAR(all);
        Py_XDECREF(module);
        Py_XDECREF(sizes);
    }
    return all;
}

/* [(module, rank, scale, dropout)] as pairs whose names the sequence holds; NULL with an error set. */
static LowRank *borrow_pairs(PyObject *sequence, int *count) {
    if (!PyList_Check(sequence)) {
        PyErr_SetString(PyExc_TypeError, "branches: a list of (module, rank, scale, dropout) is needed");
        return NULL;
    }
    Py_ssize_t n = PyList_GET_SIZE(sequence);
    LowRank *pairs = alloc_array((size_t)n + 1, sizeof *pairs);
    if (!pairs) PyErr_NoMemory();
    for (Py_ssize_t i = 0; pairs && i < n; i++) {
        double scale, dropout;
        PyObject *item = PyList_GET_ITEM(sequence, i);
        bool fine =
            PyTuple_Check(item) && PyArg_ParseTuple(item, "sidd", &pairs[i].module, &pairs[i].rank, &scale, &dropout);
        if (fine) {
            pairs[i].scale = (real)scale;
            pairs[i].dropout = (real)dropout;
            continue;
        }
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "branches: a tuple (module, rank, scale, dropout) is needed");
        alloc_free(pairs);
        pairs = NULL;
    }
    *count = (int)n;
    return pairs;
}

PyObject *model_add(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name", "branches", "copies", NULL};
    ModelObject *self = (ModelObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    const char *name;
    PyObject *branches, *copied;
    int pair_count = 0, copy_count = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sOO:add_adapter", names, &name, &branches, &copied)) return NULL;
    if (!self->model.weights.base.arena) return PyErr_Format(s->error, "this model has shapes alone");
    LowRank *pairs = borrow_pairs(branches, &pair_count);
    const char **copies = pairs ? borrow_strings(copied, &copy_count) : NULL;
    Error e = {0};
    bool fine = copies && guard_write(s, &self->guard, "add_adapter");
    if (fine) {
        fine = weights_add_adapter(&self->model.weights, name, pairs, pair_count, copies, copy_count, &e);
        self->guard.writing = false;
        if (!fine) raise_error(s, &e);
    }
    alloc_free(pairs);
    alloc_free(copies);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

PyObject *model_delete(PyObject *object, PyObject *args) {
    ModelObject *self = (ModelObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    const char *name;
    if (!PyArg_ParseTuple(args, "s:delete_adapter", &name) || !guard_write(s, &self->guard, "delete_adapter"))
        return NULL;
    Error e = {0};
    bool fine = weights_delete_adapter(&self->model.weights, name, &e);
    self->guard.writing = false;
    if (!fine) return raise_error(s, &e);
    Py_RETURN_NONE;
}

PyObject *model_set(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"active", "trainable", NULL};
    ModelObject *self = (ModelObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *first, *second;
    int active_count = 0, trainable_count = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:set_adapters", names, &first, &second)) return NULL;
    const char **active = borrow_strings(first, &active_count);
    const char **trainable = active ? borrow_strings(second, &trainable_count) : NULL;
    Error e = {0};
    bool fine = trainable && guard_write(s, &self->guard, "set_adapters");
    if (fine) {
        fine = weights_set_adapters(&self->model.weights, active, active_count, trainable, trainable_count, &e);
        self->guard.writing = false;
        if (!fine) raise_error(s, &e);
    }
    alloc_free(active);
    alloc_free(trainable);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

PyObject *model_adapter_views(PyObject *object, PyObject *args) {
    const State *s = state_of_type(Py_TYPE(object));
    const char *name;
    if (!PyArg_ParseTuple(args, "s:adapter_parameters", &name)) return NULL;
    const Adapter *a = weights_adapter(&((ModelObject *)object)->model.weights, name);
    if (!a) return PyErr_Format(s->name, "there is no adapter '%.100s'", name);
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < a->parameters.count; i++)
        if (!add_view(all, &a->parameters.items[i], a->parameters.arena, a->parameters.items[i].offset)) Py_CLEAR(all);
    return all;
}
