/* py_model: _core.Model, a Spec and its parameters. */
#include "base/memory.h"
#include "binding/binding.h"
#include "models/families.h"

#include <stddef.h>

/* What config.spec() calls a number, and where it goes. */
typedef enum { INT, BOOL, REAL, ACT, ROW } FieldType; /* ROW: -1 means none */
static const struct {
    const char *name;
    FieldType type;
    size_t offset;
} fields[] = {
    {"vocab_size", INT, offsetof(Spec, V)},
    {"hidden_size", INT, offsetof(Spec, C)},
    {"num_hidden_layers", INT, offsetof(Spec, L)},
    {"num_attention_heads", INT, offsetof(Spec, H)},
    {"num_key_value_heads", INT, offsetof(Spec, G)},
    {"head_dim", INT, offsetof(Spec, D)},
    {"intermediate_size", INT, offsetof(Spec, F)},
    {"max_position_embeddings", INT, offsetof(Spec, max_positions)},
    {"padding_idx", ROW, offsetof(Spec, padding)},
    {"window", INT, offsetof(Spec, window)},
    {"norm_eps", REAL, offsetof(Spec, eps)},
    {"activation", ACT, offsetof(Spec, act)},
    {"attention_bias", BOOL, offsetof(Spec, attention_bias)},
    {"mlp_bias", BOOL, offsetof(Spec, ffn_bias)},
    {"tie_word_embeddings", BOOL, offsetof(Spec, tied)},
    {"attention_scale", REAL, offsetof(Spec, attention_scale)},
    {"scale_by_layer", BOOL, offsetof(Spec, scale_by_layer)},
    {"embd_pdrop", REAL, offsetof(Spec, embed_dropout)},
    {"resid_pdrop", REAL, offsetof(Spec, residual_dropout)},
    {"attn_pdrop", REAL, offsetof(Spec, attention_dropout)},
};

static bool read_field(const State *s, Spec *spec, size_t i, PyObject *numbers) {
    PyObject *value = PyDict_GetItemString(numbers, fields[i].name);
    if (!value) {
        PyErr_Format(s->config, "the core needs '%s'", fields[i].name);
        return false;
    }
    char *at = (char *)spec + fields[i].offset;
    if (fields[i].type == REAL) {
        *(real *)(void *)at = (real)PyFloat_AsDouble(value);
        return !PyErr_Occurred();
    }
    long n = PyLong_AsLong(value);
    if (n == -1 && PyErr_Occurred()) return false;
    long most = fields[i].type == BOOL ? 1 : fields[i].type == ACT ? ACT_COUNT - 1 : INT32_MAX;
    long least = fields[i].type == ROW ? -1 : 0;
    if (n < least || n > most) {
        PyErr_Format(s->config, "%s is %ld; the core takes %ld to %ld", fields[i].name, n, least, most);
        return false;
    }
    if (fields[i].type == BOOL) *(bool *)(void *)at = n;
    else if (fields[i].type == ACT) *(Activation *)(void *)at = (Activation)n;
    else *(int *)(void *)at = (int)n;
    return true;
}

#define LAYERS_MOST 2048 /* each is recorded, in 25 us and 25 KB; more of them are a mistake */

static bool sane(const State *s, const Spec *p) {
    const int positive[] = {p->V, p->C, p->L, p->H, p->G, p->D, p->F, p->max_positions};
    for (size_t i = 0; i < sizeof positive / sizeof *positive; i++) {
        if (positive[i] > 0) continue;
        PyErr_Format(s->config, "%s is 0", fields[i].name);
        return false;
    }
    if (p->L > LAYERS_MOST) {
        PyErr_Format(s->config, "num_hidden_layers is %d; the core takes up to %d", p->L, LAYERS_MOST);
        return false;
    }
    if (p->H % p->G || (long)p->H * p->D > INT32_MAX / 3 || (p->position == POSITION_ROPE && p->D % 2)) {
        PyErr_Format(s->config, "%d query heads, %d key/value heads of size %d cannot be attended", p->H, p->G, p->D);
        return false;
    }
    return true;
}

static bool read_spec(const State *s, PyObject *numbers, Spec *spec) {
    PyObject *type = PyDict_GetItemString(numbers, "model_type");
    const char *name = type ? PyUnicode_AsUTF8(type) : NULL;
    const Family *family = name ? family_find(name) : NULL;
    if (!family) {
        if (!PyErr_Occurred()) PyErr_Format(s->config, "the core has no family '%.100s'", name ? name : "");
        return false;
    }
    *spec = family->spec;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!read_field(s, spec, i, numbers)) return false;
    return sane(s, spec);
}

static bool read_storage(const State *s, const char *name, Storage *storage) {
    static const char *const names[] = {[STORED_REAL] = "float32", [STORED_BFLOAT16] = "bfloat16", [STORED_INT8] = "int8"};
    for (Storage i = STORED_REAL; i <= STORED_INT8; i++)
        if (strcmp(name, names[*storage = i]) == 0) return true;
    PyErr_Format(s->config, "weights are stored as 'float32', 'bfloat16' or 'int8', not as '%.100s'", name);
    return false;
}

static PyObject *model_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", "take", "bfloat16", "storage", NULL};
    PyObject *numbers;
    const char *stored = "float32";
    int take = 1, bfloat16 = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|pps:Model", names, &PyDict_Type, &numbers, &take, &bfloat16, &stored))
        return NULL;
    Precision precision = bfloat16 ? PRECISION_BFLOAT16 : PRECISION_FLOAT32;
    const State *s = state_of_type(type);
    Spec spec;
    Storage storage;
    if (!read_spec(s, numbers, &spec) || !read_storage(s, stored, &storage)) return NULL;
    ModelObject *self = (ModelObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Error e = {0};
    if (model_init(&self->model, &spec, precision, storage, take, &e)) return (PyObject *)self;
    Py_DECREF(self);
    return raise_error(s, &e);
}

static void model_end(PyObject *object) {
    ModelObject *self = (ModelObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    model_free(&self->model);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *parameters(PyObject *object, PyObject *unused) {
    (void)unused;
    const Model *m = &((ModelObject *)object)->model;
    if (!m->weights.base.arena) return PyErr_Format(state_of_type(Py_TYPE(object))->error, "this model has shapes alone");
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < m->weights.base.count; i++) {
        PyObject *stored = view_parameter(&m->weights.base.items[i]);
        if (!stored || PyDict_SetItemString(all, m->weights.base.items[i].name, stored) < 0) Py_CLEAR(all);
        Py_XDECREF(stored);
    }
    return all;
}

static PyObject *shapes(PyObject *object, PyObject *unused) {
    (void)unused;
    const Model *m = &((ModelObject *)object)->model;
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < m->weights.base.count; i++) {
        const Parameter *q = &m->weights.base.items[i];
        PyObject *shape = shape_tuple(q->ndim, q->shape);
        if (!shape || PyDict_SetItemString(all, q->name, shape) < 0) Py_CLEAR(all);
        Py_XDECREF(shape);
    }
    return all;
}

static PyObject *parameter_count(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(weights_count(&((ModelObject *)object)->model.weights));
}

static PyObject *head_name(PyObject *object, void *unused) {
    (void)unused;
    return PyUnicode_FromString(((ModelObject *)object)->model.spec.names.head);
}

static PyObject *in_out(PyObject *object, void *unused) {
    (void)unused;
    return PyBool_FromLong(((ModelObject *)object)->model.spec.in_out);
}

static PyObject *embedding_name(PyObject *object, void *unused) {
    (void)unused;
    const Names *n = &((ModelObject *)object)->model.spec.names;
    return PyUnicode_FromFormat("%s.%s", n->root, n->embed);
}

static PyObject *estimate(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"batch", "length", "backward", "dropout", "keep", "keep_all", "past", NULL};
    RunOptions o = {0};
    int backward = 0, dropout = 0, keep_all = 0;
    PyObject *keep;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iippOpi:estimate", names, &o.batch, &o.length, &backward, &dropout,
                                     &keep, &keep_all, &o.past))
        return NULL;
    const State *s = state_of_type(Py_TYPE(object));
    const char **globs = borrow_strings(keep, &o.keep_count);
    if (!globs) return NULL;
    o.keep = globs;
    o.backward = backward;
    o.dropout = dropout;
    o.keep_all = keep_all;
    Error e = {0};
    Estimate x;
    bool fine = run_estimate(&((ModelObject *)object)->model, &o, &x, &e);
    memory_free(globs);
    if (!fine) return raise_error(s, &e);
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:d,s:d}", "parameters", (Py_ssize_t)x.parameters, "gradients",
                         (Py_ssize_t)x.gradients, "optimizer", (Py_ssize_t)x.moments, "activations", (Py_ssize_t)x.activations, "cache",
                         (Py_ssize_t)x.cache, "forward_flops", x.forward_flops, "backward_flops", x.backward_flops);
}

/* For whoever writes parameters from Python (a load): nobody may read meanwhile. */
static PyObject *begin_write(PyObject *object, PyObject *unused) {
    (void)unused;
    if (!guard_write(state_of_type(Py_TYPE(object)), &((ModelObject *)object)->guard, "write")) return NULL;
    Py_RETURN_NONE;
}

static PyObject *end_write(PyObject *object, PyObject *unused) {
    (void)unused;
    ((ModelObject *)object)->guard.writing = false;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"parameters", parameters, METH_NOARGS, "{name: writable view}, in the order of a forward pass; of int8 (numbers, scales, turned)."},
    {"shapes", shapes, METH_NOARGS, "{name: shape}, in the order of a forward pass."},
    {"linears", model_linears, METH_NOARGS, "{module path: (in, out)} of every linear; the head, unless it is tied."},
    {"add_adapter", KEYWORDS(model_add), "add_adapter(name, branches, copies): zero low-rank branches; filled copies."},
    {"delete_adapter", model_delete, METH_VARARGS, "delete_adapter(name)"},
    {"set_adapters", KEYWORDS(model_set), "set_adapters(active, trainable): lists of names."},
    {"adapter_parameters", model_adapter_views, METH_VARARGS, "{name: writable view} of one adapter."},
    {"estimate", KEYWORDS(estimate), "Bytes and FLOPs of a run."},
    {"begin_write", begin_write, METH_NOARGS, "Excludes readers until end_write."},
    {"end_write", end_write, METH_NOARGS, "Lets readers in again."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"parameter_count", parameter_count, NULL, "Numbers in all parameters.", NULL},
    {"head_name", head_name, NULL, "Module path of the head.", NULL},
    {"in_out", in_out, NULL, "Are the blocks' linears stored (in, out), as Conv1D does?", NULL},
    {"embedding_name", embedding_name, NULL, "Module path of the token embedding.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, model_make},
    {Py_tp_dealloc, model_end},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "Model(spec, take=True, bfloat16=False, storage='float32'): parameters in one arena, zero; or their shapes alone."},
    {0, NULL},
};

PyType_Spec model_type_spec = {"llmc._core.Model", sizeof(ModelObject), 0, Py_TPFLAGS_DEFAULT, slots};
