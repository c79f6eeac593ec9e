/* py_model: _core.Model, a Spec and its parameters. */
#include "base/alloc.h"
#include "binding/binding.h"
#include "runs/recording.h"

#include <stddef.h>

/* What config.spec() calls a kind or a number, and where it goes. */
typedef enum {
    SIZE,
    INT,
    BOOL,
    REAL,
    WORD,
    ROW
} FieldType; /* SIZE: positive; ROW: -1 means none; WORD: one of a list */
typedef struct {
    const char *name;
    FieldType type;
    size_t offset;
    const char *const *words; /* of a WORD, in the order of its enum */
} Field;

static const char *const norms[] = {"layer", "rms", "bare", NULL};
static const char *const orders[] = {"sequential", "parallel", NULL};
static const char *const positions[] = {"none", "learned", "rope", NULL};
static const char *const feed_forwards[] = {"mlp", "gated", NULL};
static const char *const residuals[] = {"plain", "hyper", NULL};
static const char *const memories[] = {"own", "lime", "static", "dynamic", NULL};

static const Field fields[] = {
    {"norm", WORD, offsetof(Spec, norm), norms},
    {"branch_norm", WORD, offsetof(Spec, branch_norm), norms},
    {"order", WORD, offsetof(Spec, order), orders},
    {"position", WORD, offsetof(Spec, position), positions},
    {"memory", WORD, offsetof(Spec, memory), memories},
    {"residual", WORD, offsetof(Spec, residual), residuals},
    {"streams", SIZE, offsetof(Spec, streams), NULL},
    {"dynamic", BOOL, offsetof(Spec, dynamic), NULL},
    {"activation", WORD, offsetof(Spec, act), activation_words},
    {"in_out", BOOL, offsetof(Spec, in_out), NULL},
    {"vocab_size", SIZE, offsetof(Spec, V), NULL},
    {"hidden_size", SIZE, offsetof(Spec, C), NULL},
    {"num_hidden_layers", SIZE, offsetof(Spec, L), NULL},
    {"num_attention_heads", SIZE, offsetof(Spec, H), NULL},
    {"num_key_value_heads", SIZE, offsetof(Spec, G), NULL},
    {"head_dim", SIZE, offsetof(Spec, D), NULL},
    {"max_position_embeddings", SIZE, offsetof(Spec, max_positions), NULL},
    {"rotaries", INT, offsetof(Spec, rotaries), NULL},
    {"padding_idx", ROW, offsetof(Spec, padding), NULL},
    {"norm_eps", REAL, offsetof(Spec, eps), NULL},
    {"branch_norm_eps", REAL, offsetof(Spec, branch_eps), NULL},
    {"attention_scale", REAL, offsetof(Spec, attention_scale), NULL},
    {"scale_by_layer", BOOL, offsetof(Spec, scale_by_layer), NULL},
    {"router_top_p", REAL, offsetof(Spec, router_top_p), NULL},
    {"qkv_bias", BOOL, offsetof(Spec, qkv_bias), NULL},
    {"o_bias", BOOL, offsetof(Spec, o_bias), NULL},
    {"mlp_bias", BOOL, offsetof(Spec, feed_forward_bias), NULL},
    {"tie_word_embeddings", BOOL, offsetof(Spec, tied), NULL},
    {"embd_pdrop", REAL, offsetof(Spec, embed_dropout), NULL},
    {"resid_pdrop", REAL, offsetof(Spec, residual_dropout), NULL},
    {"attn_pdrop", REAL, offsetof(Spec, attention_dropout), NULL},
};
static const Field layer_fields[] = {
    {"window", INT, offsetof(Layer, window), NULL},
    {"rotary", INT, offsetof(Layer, rotary), NULL},
    {"feed_forward", WORD, offsetof(Layer, feed_forward), feed_forwards},
    {"intermediate_size", SIZE, offsetof(Layer, F), NULL},
};
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* An enum is an int to C. */
_Static_assert(sizeof(NormKind) == sizeof(int) && sizeof(Activation) == sizeof(int), "words are read into ints");

static bool read_word(const State *s, const Field *f, int *at, PyObject *value) {
    const char *word = PyUnicode_Check(value) ? PyUnicode_AsUTF8(value) : NULL;
    for (*at = 0; word && f->words[*at]; ++*at)
        if (strcmp(f->words[*at], word) == 0) return true;
    if (!PyErr_Occurred()) PyErr_Format(s->config, "%s is %R; the core has no such kind", f->name, value);
    return false;
}

static bool read_number(const State *s, const Field *f, void *at, PyObject *value) {
    const long n = PyLong_AsLong(value);
    if (n == -1 && PyErr_Occurred()) return false;
    const long most = f->type == BOOL ? 1 : INT32_MAX, least = f->type == ROW ? -1 : f->type == SIZE;
    if (n < least || n > most) {
        PyErr_Format(s->config, "%s is %ld; the core takes %ld to %ld", f->name, n, least, most);
        return false;
    }
    if (f->type == BOOL) *(bool *)at = n;
    else *(int *)at = (int)n;
    return true;
}

static bool read_fields(const State *s, const Field *list, size_t count, char *into, PyObject *given) {
    for (const Field *f = list; f < list + count; f++) {
        PyObject *value = PyDict_Check(given) ? PyDict_GetItemString(given, f->name) : NULL;
        if (!value) {
            PyErr_Format(s->config, "the core needs '%s'", f->name);
            return false;
        }
        void *at = into + f->offset;
        if (f->type == REAL) *(real *)at = (real)PyFloat_AsDouble(value);
        else if (f->type == WORD ? !read_word(s, f, at, value) : !read_number(s, f, at, value)) return false;
        if (PyErr_Occurred()) return false;
    }
    return true;
}

/* {"q": "q_proj", …}: names that the dict holds. */
static bool read_names(const State *s, Spec *spec, PyObject *given) {
    for (Part part = PART_NONE + 1; part < PARTS; part++) {
        PyObject *name = PyDict_GetItemString(given, part_word(part));
        if (name && name != Py_None && !(spec->names[part] = PyUnicode_AsUTF8(name))) return false;
        if (spec->names[part] && strlen(spec->names[part]) < 80 && spec->names[part][0]) continue;
        if (!spec->names[part]) continue;
        PyErr_Format(s->config, "names: %s is %R; a name has 1 to 79 bytes", part_word(part), name);
        return false;
    }
    PyObject *key;
    for (Py_ssize_t at = 0; PyDict_Next(given, &at, &key, &(PyObject *){NULL});) {
        Part part = PART_NONE + 1;
        while (part < PARTS && PyUnicode_CompareWithASCIIString(key, part_word(part)) != 0) part++;
        if (part < PARTS) continue;
        PyErr_Format(s->config, "names: the core has no part %R", key);
        return false;
    }
    return true;
}

/* The modules that every block has, and those that its kinds ask for. */
static bool names_suffice(const State *s, const Spec *p) {
    bool gated = false;
    for (int l = 0; l < p->L; l++) gated |= p->layers[l].feed_forward == FEED_FORWARD_GATED;
    const bool fused = p->names[PART_QKV] != NULL;
    const struct {
        Part part;
        bool needed;
    } needs[] = {{PART_ROOT, true},         {PART_EMBED, true},
                 {PART_BLOCK, true},        {PART_ATTENTION, true},
                 {PART_FEED_FORWARD, true}, {PART_O, true},
                 {PART_UP, true},           {PART_DOWN, true},
                 {PART_HEAD, true},         {PART_Q, !fused},
                 {PART_K, !fused},          {PART_V, !fused},
                 {PART_GATE, gated},        {PART_POSITIONS, p->position == POSITION_LEARNED},
                 {PART_ATTENTION_CONNECTION, p->residual == RESIDUAL_HYPER},
                 {PART_FEED_FORWARD_CONNECTION, p->residual == RESIDUAL_HYPER},
                 {PART_ROUTER, p->memory != MEMORY_OWN}, {PART_MEMORY_NORM, reads_mixtures(p, p->L)}};
    for (size_t i = 0; i < COUNT(needs); i++) {
        if (!needs[i].needed || p->names[needs[i].part]) continue;
        PyErr_Format(s->config, "names: '%s' is missing", part_word(needs[i].part));
        return false;
    }
    return true;
}

/* Connections join one branch after the other to the streams, without norms on the way. */
static bool streams_sane(const State *s, const Spec *p) {
    static const Part outside[] = {PART_ATTENTION_NORM_OUT, PART_ATTENTION_NORM_SUM, PART_FEED_FORWARD_NORM_OUT,
                                   PART_FEED_FORWARD_NORM_SUM};
    if (p->residual == RESIDUAL_PLAIN && p->streams == 1) return true;
    if (p->residual == RESIDUAL_PLAIN || p->order == ORDER_PARALLEL) {
        PyErr_Format(s->config, "%d streams of residual '%s' in order '%s'; several are 'hyper' and 'sequential'",
                     p->streams, residuals[p->residual], orders[p->order]);
        return false;
    }
    for (size_t i = 0; i < COUNT(outside); i++) {
        if (!p->names[outside[i]]) continue;
        PyErr_Format(s->config, "names: '%s' with residual 'hyper', which has norms before branches alone",
                     part_word(outside[i]));
        return false;
    }
    const long widest = p->streams + 2L > p->C ? p->streams + 2L : p->C;
    if (p->streams <= INT32_MAX / widest) return true;
    PyErr_Format(s->config, "%d streams of %d numbers; the core counts up to %d", p->streams, p->C, INT32_MAX);
    return false;
}

static bool sane(const State *s, const Spec *p) {
    if (p->L > LAYERS_MOST) {
        PyErr_Format(s->config, "num_hidden_layers is %d; the core takes up to %d", p->L, LAYERS_MOST);
        return false;
    }
    if (p->H % p->G || (long)p->H * p->D > INT32_MAX / 3 || (p->position == POSITION_ROPE && p->D % 2)) {
        PyErr_Format(s->config, "%d query heads, %d key/value heads of size %d cannot be attended", p->H, p->G, p->D);
        return false;
    }
    if (p->rotaries > ROTARIES_MOST || (p->position == POSITION_ROPE && !p->rotaries)) {
        PyErr_Format(s->config, "%d rotary tables; the core takes 1 to %d", p->rotaries, ROTARIES_MOST);
        return false;
    }
    return streams_sane(s, p);
}

static bool read_layers(const State *s, Spec *spec, PyObject *given) {
    if (!PyList_Check(given) || PyList_GET_SIZE(given) != spec->L) {
        PyErr_Format(s->config, "layers: a list of %d is needed", spec->L);
        return false;
    }
    for (int l = 0; l < spec->L; l++) {
        Layer *layer = &spec->layers[l];
        if (!read_fields(s, layer_fields, COUNT(layer_fields), (char *)layer, PyList_GET_ITEM(given, l))) return false;
        if (spec->position != POSITION_ROPE || layer->rotary < spec->rotaries) continue;
        PyErr_Format(s->config, "layers: %d reads rotary table %d of %d", l, layer->rotary, spec->rotaries);
        return false;
    }
    return true;
}

/* On success spec->layers is the caller's to free; names are the dict's. */
static bool read_spec(const State *s, PyObject *given, Spec *spec) {
    PyObject *names = PyDict_GetItemString(given, "names"), *layers = PyDict_GetItemString(given, "layers");
    if (!names || !layers || !PyDict_Check(names)) {
        PyErr_SetString(s->config, "the core needs 'names' and 'layers'");
        return false;
    }
    if (!read_fields(s, fields, COUNT(fields), (char *)spec, given) || !read_names(s, spec, names) || !sane(s, spec))
        return false;
    spec->layers = alloc_array((size_t)spec->L, sizeof *spec->layers);
    if (!spec->layers) PyErr_NoMemory();
    else if (read_layers(s, spec, layers) && names_suffice(s, spec)) return true;
    alloc_free(spec->layers);
    return false;
}

static bool read_storage(const State *s, const char *name, Storage *storage) {
    static const char *const names[] = {
        [STORED_REAL] = "float32", [STORED_BFLOAT16] = "bfloat16", [STORED_INT8] = "int8"};
    for (Storage i = STORED_REAL; i <= STORED_INT8; i++)
        if (strcmp(name, names[*storage = i]) == 0) return true;
    PyErr_Format(s->config, "weights are stored as 'float32', 'bfloat16' or 'int8', not as '%.100s'", name);
    return false;
}

static PyObject *model_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"spec", "take", "bfloat16", "storage", NULL};
    PyObject *given;
    const char *stored = "float32";
    int take = 1, bfloat16 = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|pps:Model", names, &PyDict_Type, &given, &take, &bfloat16,
                                     &stored))
        return NULL;
    Precision precision = bfloat16 ? PRECISION_BFLOAT16 : PRECISION_FLOAT32;
    const State *s = state_of_type(type);
    Spec spec = {0};
    Storage storage;
    if (!read_storage(s, stored, &storage) || !read_spec(s, given, &spec)) return NULL;
    ModelObject *self = (ModelObject *)type->tp_alloc(type, 0);
    Error e = {0};
    const bool made = self && model_init(&self->model, &spec, precision, storage, take, &e);
    alloc_free(spec.layers);
    if (made) return (PyObject *)self;
    Py_XDECREF(self);
    return self ? raise_error(s, &e) : NULL;
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
    if (!m->weights.base.arena)
        return PyErr_Format(state_of_type(Py_TYPE(object))->error, "this model has shapes alone");
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

/* What the part of every norm is called in a layout: it is one, wherever it stands. */
static const char *layout_word(Part part) { return part_is_norm(part) ? "norm" : part_word(part); }

static PyObject *layout(PyObject *object, PyObject *unused) {
    (void)unused;
    const Model *m = &((ModelObject *)object)->model;
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < m->weights.base.count; i++) {
        const Parameter *q = &m->weights.base.items[i];
        PyObject *layer = q->layer < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(q->layer);
        PyObject *row = layer ? Py_BuildValue("(sNii)", layout_word(q->part), layer, q->inputs, q->outputs) : NULL;
        if (!row || PyDict_SetItemString(all, q->name, row) < 0) Py_CLEAR(all);
        Py_XDECREF(row);
    }
    return all;
}

static PyObject *parameter_count(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(weights_count(&((ModelObject *)object)->model.weights));
}

static PyObject *parameter_arena(PyObject *object, void *unused) {
    (void)unused;
    const Weights *w = &((ModelObject *)object)->model.weights;
    if (!w->base.arena || w->storage != STORED_REAL) Py_RETURN_NONE;
    return view_whole(w->base.arena);
}

static PyObject *head_name(PyObject *object, void *unused) {
    (void)unused;
    return PyUnicode_FromString(((ModelObject *)object)->model.spec.names[PART_HEAD]);
}

static PyObject *in_out(PyObject *object, void *unused) {
    (void)unused;
    return PyBool_FromLong(((ModelObject *)object)->model.spec.in_out);
}

static PyObject *embedding_name(PyObject *object, void *unused) {
    (void)unused;
    const char *const *n = ((ModelObject *)object)->model.spec.names;
    return PyUnicode_FromFormat("%s.%s", n[PART_ROOT], n[PART_EMBED]);
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
    alloc_free(globs);
    if (!fine) return raise_error(s, &e);
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:d,s:d}", "parameters", (Py_ssize_t)x.parameters, "gradients",
                         (Py_ssize_t)x.gradients, "optimizer", (Py_ssize_t)x.moments, "activations",
                         (Py_ssize_t)x.activations, "cache", (Py_ssize_t)x.cache, "forward_flops", x.forward_flops,
                         "backward_flops", x.backward_flops);
}

/* --- the recorded plan ------------------------------------------------------------------------------------------- */
/* The place of a tensor among those of the plan; -1: none. */
static int place_in(const Plan *p, const Tensor *t) {
    for (int i = p->tensor_count - 1; i >= 0 && t; i--)
        if (p->tensors[i] == t) return i;
    return -1;
}

/* (op, module, inputs, outputs): inputs are places of tensors, outputs (place, module, width). */
static PyObject *row_of(const Plan *p, const Step *s) {
    PyObject *in = PyList_New(0), *out = PyList_New(0);
    for (int k = 0; in && out && k < s->ins; k++) {
        PyObject *place = PyLong_FromLong(place_in(p, s->in[k]));
        if (!place || PyList_Append(in, place) < 0) Py_CLEAR(in);
        Py_XDECREF(place);
    }
    for (int k = 0; in && out && k < s->outs; k++) {
        const Tensor *t = s->out[k];
        PyObject *row = Py_BuildValue("(isn)", place_in(p, t), t->name ? t->name : s->path, (Py_ssize_t)t->cols);
        if (!row || PyList_Append(out, row) < 0) Py_CLEAR(out);
        Py_XDECREF(row);
    }
    if (in && out) return Py_BuildValue("(ssNN)", s->op->name, s->path, in, out);
    Py_XDECREF(in);
    Py_XDECREF(out);
    return NULL;
}

static PyObject *plan_rows(const Plan *p) {
    PyObject *steps = PyList_New(0), *modules = PyDict_New();
    for (int i = 0; steps && i < p->count; i++) {
        PyObject *row = row_of(p, &p->steps[i]);
        if (!row || PyList_Append(steps, row) < 0) Py_CLEAR(steps);
        Py_XDECREF(row);
    }
    for (int i = 0; modules && i < p->module_count; i++) {
        const Module *m = &p->modules[i];
        PyObject *row =
            Py_BuildValue("(siii)", part_word(m->part), m->layer, place_in(p, m->input), place_in(p, m->output));
        if (!row || PyDict_SetItemString(modules, m->name, row) < 0) Py_CLEAR(modules);
        Py_XDECREF(row);
    }
    if (steps && modules) return Py_BuildValue("(NN)", steps, modules);
    Py_XDECREF(steps);
    Py_XDECREF(modules);
    return NULL;
}

/* A forward pass over one token, recorded and read; no memory is taken for it. */
static PyObject *plan(PyObject *object, PyObject *unused) {
    (void)unused;
    Error e = {0};
    Run r;
    RunOptions o = {.batch = 1, .length = 1};
    if (!run_open(&r, &((ModelObject *)object)->model, &o, &e)) return raise_error(state_of_type(Py_TYPE(object)), &e);
    const Pass pass = run_largest(&o);
    recording_write(&r, &pass);
    PyObject *rows = r.plan.finished ? plan_rows(&r.plan) : raise_error(state_of_type(Py_TYPE(object)), &r.plan.error);
    run_free(&r);
    return rows;
}

static PyObject *take(PyObject *object, PyObject *unused) {
    (void)unused;
    ModelObject *self = (ModelObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    Error e = {0};
    if (self->model.weights.base.arena) return PyErr_Format(s->error, "this model has its memory already");
    if (!parameters_take(&self->model.weights.base, &e)) return raise_error(s, &e);
    Py_RETURN_NONE;
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
    {"parameters", parameters, METH_NOARGS,
     "{name: writable view}, in the order of a forward pass; of int8 (numbers, scales, transposed)."},
    {"shapes", shapes, METH_NOARGS, "{name: shape}, in the order of a forward pass."},
    {"layout", layout, METH_NOARGS,
     "{name: (part, layer or None, inputs, outputs)}; of a linear's weight, else 0 and 0."},
    {"linears", model_linears, METH_NOARGS, "{module path: (in, out)} of every linear; the head, unless it is tied."},
    {"add_adapter", KEYWORDS(model_add), "add_adapter(name, branches, copies): zero low-rank branches; filled copies."},
    {"delete_adapter", model_delete, METH_VARARGS, "delete_adapter(name)"},
    {"set_adapters", KEYWORDS(model_set), "set_adapters(active, trainable): lists of names."},
    {"adapter_parameters", model_adapter_views, METH_VARARGS, "{name: writable view} of one adapter."},
    {"estimate", KEYWORDS(estimate), "Bytes and FLOPs of a run."},
    {"plan", plan, METH_NOARGS,
     "([(op, module, [tensor], [(tensor, module, width)])], {module: (part, layer, input, output)}) of one token's "
     "pass."},
    {"take", take, METH_NOARGS, "Takes the memory of the parameters of a model made with take=False, zeroed."},
    {"begin_write", begin_write, METH_NOARGS, "Excludes readers until end_write."},
    {"end_write", end_write, METH_NOARGS, "Lets readers in again."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"parameter_count", parameter_count, NULL, "Attributes in all parameters.", NULL},
    {"parameter_arena", parameter_arena, NULL, "All parameters as one row, or None: they lie narrower.", NULL},
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
    {Py_tp_doc, "Model(spec, take=True, bfloat16=False, storage='float32'): parameters in one arena, zero; or their "
                "shapes alone."},
    {0, NULL},
};

PyType_Spec model_type_spec = {"llmc._core.Model", sizeof(ModelObject), 0, Py_TPFLAGS_DEFAULT, slots};
