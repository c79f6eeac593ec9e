/* py_run: _core.Run, a budget of rows and tokens and the passes over it. */
#include "base/memory.h"
#include "binding/binding.h"

#include <string.h>

bool run_enter(const State *s, RunObject *r) {
    if (r->busy) {
        PyErr_SetString(s->busy, "this run is in use by another thread; give every thread its own model.run(...)");
        return false;
    }
    if (!guard_read(s, &r->owner->guard, "run")) return false;
    r->busy = true;
    return true;
}

void run_leave(RunObject *r) {
    r->busy = false;
    r->owner->guard.readers--;
}

bool run_current(const State *s, const RunObject *r) {
    if (r->run.structure == r->owner->model.weights.structure) return true;
    PyErr_SetString(s->error, "the model's adapters changed since this run was made: make it anew with model.run(...)");
    return false;
}

bool gradients_enter(const State *s, const RunObject *r) {
    Gradients *g = r->run.gradients;
    if (g && g->busy) {
        PyErr_SetString(s->busy, "another thread is writing the gradients that this run shares; try again after it");
        return false;
    }
    if (g) g->busy = true;
    return true;
}

void gradients_leave(const RunObject *r) {
    if (r->run.gradients) r->run.gradients->busy = false;
}

static PyObject *run_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", "batch", "length", "backward", "dropout", "keep", "keep_all", "past", "seed",
                            "gradients", "observe", "float32", NULL};
    const State *s = state_of_type(type);
    RunOptions o = {0};
    PyObject *model, *keep, *gradients;
    int backward, dropout, keep_all, observe = 0, float32 = 0;
    unsigned long long seed;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!iippOpiKO|pp:Run", names, s->model, &model, &o.batch, &o.length,
                                     &backward, &dropout, &keep, &keep_all, &o.past, &seed, &gradients, &observe,
                                     &float32))
        return NULL;
    if (!((ModelObject *)model)->model.weights.base.arena) return PyErr_Format(s->error, "this model has shapes alone");
    if (o.batch < 1 || o.length < 1 || o.past < 0) {
        PyErr_Format(s->config, "a run of batch %d, length %d is empty", o.batch, o.length);
        return NULL;
    }
    if (gradients != Py_None && (!PyObject_TypeCheck(gradients, s->run) || (PyObject *)((RunObject *)gradients)->owner != model ||
                                 !((RunObject *)gradients)->run.gradients)) {
        PyErr_SetString(s->config, "gradients= takes a run of the same model made with backward=True");
        return NULL;
    }
    if (gradients != Py_None && !run_current(s, (RunObject *)gradients)) return NULL;
    RunObject *self = (RunObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(model);
    self->owner = (ModelObject *)model;
    Error e = {0};
    const char **globs = borrow_strings(keep, &o.keep_count);
    if (globs) {
        o.keep = globs;
        o.backward = backward;
        o.dropout = dropout;
        o.keep_all = keep_all;
        o.observe = observe;
        o.float32 = float32;
        o.seed = seed;
        Gradients *shared = gradients == Py_None ? NULL : ((RunObject *)gradients)->run.gradients;
        self->ready = run_init(&self->run, &self->owner->model, &o, shared, &e);
        memory_free(globs);
    }
    if (self->ready) return (PyObject *)self;
    Py_DECREF(self);
    return raise_error(s, &e);
}

static void run_end(PyObject *object) {
    RunObject *self = (RunObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->ready) run_free(&self->run);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- a call's numbers -------------------------------------------------------------------------------------------- */
static bool in_range(const State *s, const int32_t *x, size_t n, long from, long to, const char *what) {
    for (size_t i = 0; i < n; i++) {
        if (x[i] >= from && x[i] < to) continue;
        PyErr_Format(s->data, "%s: %d at index %zu is outside [%ld, %ld)", what, x[i], i, from, to);
        return false;
    }
    return true;
}

typedef struct {
    PyObject *ids, *targets, *positions, *mask, *inv_freq, *skip;
    double rope_factor, items;
    const char *until;
    int B, T, last;
} Arguments;

static bool copy_mask(const State *s, Run *r, const Arguments *a) {
    for (int b = 0; b < a->B; b++) memset(r->mask + (size_t)b * r->mask_stride + r->past, 1, (size_t)a->T);
    if (a->mask == Py_None) return true;
    const uint8_t *mask = borrow_uint8(s, a->mask, (size_t)a->B * (size_t)a->T, "attention_mask");
    if (!mask) return false;
    for (int b = 0; b < a->B; b++)
        memcpy(r->mask + (size_t)b * r->mask_stride + r->past, mask + (size_t)b * (size_t)a->T, (size_t)a->T);
    return true;
}

/* Copied first and checked afterwards: another thread may be writing into the arrays. */
static bool copy_inputs(const State *s, Run *r, const Arguments *a) {
    const Spec *spec = &r->model->spec;
    size_t N = (size_t)a->B * (size_t)a->T;
    if (!copy_int32(s, a->ids, r->ids, N, "input_ids") || !in_range(s, r->ids, N, 0, spec->V, "input_ids")) return false;
    if (!copy_int32(s, a->positions, r->positions, N, "position_ids")) return false;
    long most = spec->position == POSITION_LEARNED ? spec->max_positions : INT32_MAX;
    if (!in_range(s, r->positions, N, 0, most, "position_ids")) return false;
    if (a->targets != Py_None && (!copy_int32(s, a->targets, r->targets, N, "labels") ||
                                  !in_range(s, r->targets, N, -1, spec->V, "labels")))
        return false;
    if (spec->position == POSITION_ROPE && !copy_reals(s, a->inv_freq, r->inv_freq, (size_t)spec->D / 2, "inv_freq"))
        return false;
    r->rope_factor = (real)a->rope_factor;
    r->items = a->items;
    return copy_mask(s, r, a);
}

/* Parses, checks, copies and prepares a call. */
static bool prepare(const State *s, RunObject *self, PyObject *args, PyObject *kwargs, Arguments *a) {
    static char *names[] = {"ids", "targets", "positions", "mask", "inv_freq", "rope_factor", "items", "shape", "skip",
                            "until", "last", NULL};
    *a = (Arguments){0};
    Call c = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOdd(ii)Ozi:forward", names, &a->ids, &a->targets, &a->positions,
                                     &a->mask, &a->inv_freq, &a->rope_factor, &a->items, &a->B, &a->T, &a->skip,
                                     &a->until, &a->last))
        return false;
    Run *r = &self->run;
    const char **skip = borrow_strings(a->skip, &c.skip_count);
    if (!skip) return false;
    c.B = a->B;
    c.T = a->T;
    c.losses = a->targets != Py_None;
    c.masked = a->mask != Py_None;
    c.last = a->last;
    c.skip = skip;
    c.until = a->until;
    Error e = {0};
    /* The gate knows the sizes; inputs are copied after it has made room, and before the call begins. */
    bool fine = run_make_room(r, &c, &e);
    if (!fine) raise_error(s, &e);
    fine = fine && copy_inputs(s, r, a);
    if (fine && !(fine = run_prepare(r, &c, &e))) raise_error(s, &e);
    memory_free(skip);
    return fine;
}

static PyObject *loss_or_none(const Run *r) {
    if (r->reached < r->plan.count || !r->given.losses) Py_RETURN_NONE;
    return PyFloat_FromDouble(r->loss);
}

static PyObject *forward(PyObject *object, PyObject *args, PyObject *kwargs) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    Arguments a;
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (prepare(s, self, args, kwargs, &a)) {
        Unlocked u;
        unlock(&u);
        bool going = run_forward(&self->run, a.until, &u.cancel);
        if (lock(s, &u) && going) result = loss_or_none(&self->run);
    }
    run_leave(self);
    return result;
}

static PyObject *resume(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (self->run.reached <= 0 || self->run.reached >= self->run.plan.count) {
        PyErr_SetString(s->error, "nothing to resume: call forward(ids, until=...) first");
    } else if (run_current(s, self)) {
        Unlocked u;
        unlock(&u);
        bool going = run_forward(&self->run, NULL, &u.cancel);
        if (lock(s, &u) && going) result = loss_or_none(&self->run);
    }
    run_leave(self);
    return result;
}

/* On success the gradients are this run's own until gradients_leave. */
static bool may_go_back(const State *s, const RunObject *self) {
    if (!self->run.options.backward) {
        PyErr_SetString(s->error, "this run keeps no gradients: make it with model.run(..., backward=True)");
        return false;
    }
    if (!run_current(s, self) || !gradients_enter(s, self)) return false;
    if (!self->run.gradients->interrupted) return true;
    PyErr_SetString(s->error, "an interrupted backward pass left the gradients void: call run.zero_grad() first");
    gradients_leave(self);
    return false;
}

static PyObject *backward(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (may_go_back(s, self)) {
        if (!self->run.differentiable) {
            PyErr_SetString(s->error, "backward needs a forward pass with labels before it, one for each backward");
        } else {
            Unlocked u;
            unlock(&u);
            bool going = run_backward(&self->run, &u.cancel);
            if (lock(s, &u) && going) result = Py_NewRef(Py_None);
        }
        gradients_leave(self);
    }
    run_leave(self);
    return result;
}

static PyObject *forward_backward(PyObject *object, PyObject *args, PyObject *kwargs) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    Arguments a;
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (may_go_back(s, self)) {
        if (prepare(s, self, args, kwargs, &a)) {
            if (!self->run.given.losses) {
                PyErr_SetString(s->data, "forward_backward needs labels");
            } else {
                Unlocked u;
                unlock(&u);
                bool going = run_forward_backward(&self->run, &u.cancel);
                if (lock(s, &u) && going) result = loss_or_none(&self->run);
            }
        }
        gradients_leave(self);
    }
    run_leave(self);
    return result;
}

/* --- looking inside ---------------------------------------------------------------------------------------------- */
static PyObject *modules(PyObject *object, PyObject *unused) {
    (void)unused;
    const Plan *p = &((RunObject *)object)->run.plan;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < p->module_count; i++) {
        const Module *m = &p->modules[i];
        PyObject *row = Py_BuildValue("(sOOO)", m->name, m->input && m->input->kept ? Py_True : Py_False,
                                      m->output->kept ? Py_True : Py_False,
                                      m->output->grad && m->output->grad->kept && m->output->grad->last >= 0 ? Py_True : Py_False);
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *array(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    const char *name, *which;
    if (!PyArg_ParseTuple(args, "ss:array", &name, &which)) return NULL;
    const Run *r = &self->run;
    const Module *m = plan_module(&r->plan, name);
    const Tensor *t = NULL;
    if (m) t = !strcmp(which, "input") ? m->input : !strcmp(which, "output") ? m->output : m->output->grad;
    if (!t || !t->kept || !t->data || t->kind != TENSOR_STEP) Py_RETURN_NONE;
    return view_tensor(r->arena, t);
}

static PyObject *parameter_gradient(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    const char *name;
    if (!PyArg_ParseTuple(args, "s:parameter_gradient", &name)) return NULL;
    const Run *r = &self->run;
    if (r->structure != r->model->weights.structure) Py_RETURN_NONE; /* the slots are no longer those of this run */
    const Parameter *q = weights_find(&r->model->weights, name);
    if (!q) Py_RETURN_NONE;
    if (!gradients_enter(state_of_type(Py_TYPE(object)), self)) return NULL; /* showing them may clear them */
    const real *grad = run_parameter_gradient(&self->run, q);
    gradients_leave(self);
    if (!grad) Py_RETURN_NONE;
    return view_like(q, r->gradients->arena, grad);
}

static bool add_sums(PyObject *all, const Run *r, const char *name, const char *suffix, const Tensor *sums) {
    if (!sums) return true;
    PyObject *key = PyUnicode_FromFormat("%s%s", name, suffix), *view = key ? view_tensor(r->arena, sums) : NULL;
    bool added = view && PyDict_SetItem(all, key, view) == 0;
    Py_XDECREF(key);
    Py_XDECREF(view);
    return added;
}

static PyObject *observed(PyObject *object, PyObject *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    PyObject *all = PyDict_New();
    for (int i = 0; all && r->plan.finished && i < r->plan.module_count; i++) {
        const Module *m = &r->plan.modules[i];
        if (!add_sums(all, r, m->name, "", m->observed) || !add_sums(all, r, m->name, "@stream", m->against_stream))
            Py_CLEAR(all);
    }
    return all;
}

static PyObject *shape_of(const Tensor *t) {
    if (!t) Py_RETURN_NONE;
    return shape_tuple(t->ndim, t->shape);
}

static PyObject *shapes(PyObject *object, PyObject *unused) {
    (void)unused;
    const Plan *p = &((RunObject *)object)->run.plan;
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < p->module_count; i++) {
        PyObject *pair = Py_BuildValue("(NN)", shape_of(p->modules[i].input), shape_of(p->modules[i].output));
        if (!pair || PyDict_SetItemString(all, p->modules[i].name, pair) < 0) Py_CLEAR(all);
        Py_XDECREF(pair);
    }
    return all;
}

static PyObject *logits(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    if (!r->given.logits || !r->plan.finished) Py_RETURN_NONE;
    return view_tensor(r->arena, r->given.logits);
}

static PyObject *likeliest(PyObject *object, PyObject *unused) {
    (void)unused;
    const RunObject *self = (RunObject *)object;
    const Run *r = &self->run;
    if (!r->given.logits || r->reached < r->plan.count)
        return PyErr_Format(state_of_type(Py_TYPE(object))->error, "there are no logits: a forward pass forms them");
    PyObject *list = PyList_New((Py_ssize_t)r->given.logits->rows);
    for (Py_ssize_t row = 0; list && row < PyList_GET_SIZE(list); row++) {
        const size_t token = run_likeliest(r, (size_t)row);
        PyObject *number = PyLong_FromLong(token == NOT_FINITE ? -1 : (long)token);
        if (number) PyList_SET_ITEM(list, row, number);
        else Py_CLEAR(list);
    }
    return list;
}

static PyObject *losses(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    if (!r->given.losses || !r->plan.finished) Py_RETURN_NONE;
    return view_tensor(r->arena, r->given.losses);
}

static PyObject *steps(PyObject *object, PyObject *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < r->plan.count; i++) {
        const Step *s = &r->plan.steps[i];
        for (int k = 0; list && k < s->outs; k++) {
            const Tensor *out = s->out[k];
            const double flops = s->op->flops ? s->op->flops(s, k) : 0;
            if (k > 0 && flops == 0) continue; /* what the step keeps for itself */
            PyObject *shape = shape_of(out);
            PyObject *row = !shape ? NULL : Py_BuildValue("(ssNdnOO)", s->op->name, out->name ? out->name : s->path, shape,
                                          flops, (Py_ssize_t)(tensor_count(out) * sizeof(real)),
                                          out->kept ? Py_True : Py_False, s->differentiated ? Py_True : Py_False);
            if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
            Py_XDECREF(row);
        }
    }
    return list;
}

static PyObject *zero_grad(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    if (!run_enter(s, self)) return NULL;
    PyObject *result = NULL;
    if (gradients_enter(s, self)) {
        if (self->run.gradients) gradients_clear(self->run.gradients);
        gradients_leave(self);
        result = Py_NewRef(Py_None);
    }
    run_leave(self);
    return result;
}

static PyObject *rewind_past(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    if (!run_enter(s, self)) return NULL;
    run_rewind(&self->run);
    run_leave(self);
    Py_RETURN_NONE;
}

/* Which dropout comes next: the optimizer step and the micro-batch. */
static PyObject *set_moment(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    unsigned long long update, micro;
    if (!PyArg_ParseTuple(args, "KK:set_moment", &update, &micro)) return NULL;
    self->run.update = update;
    self->run.micro = micro;
    Py_RETURN_NONE;
}

static PyObject *past(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromLong(((RunObject *)object)->run.past);
}

static PyObject *bytes_taken(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    size_t reals = (r->arena ? r->arena->count : 0) + (r->scratch ? r->scratch->count : 0) + (r->cache.arena ? r->cache.arena->count : 0) +
                   (r->gradients ? r->gradients->arena->count : 0);
    return PyLong_FromSize_t(reals * sizeof(real));
}

static PyMethodDef methods[] = {
    {"forward", KEYWORDS(forward), "One pass; the loss, or None."},
    {"forward_backward", KEYWORDS(forward_backward), "Both passes, the logits formed once; the loss."},
    {"resume", resume, METH_NOARGS, "Goes on after forward(until=...)."},
    {"backward", backward, METH_NOARGS, "Adds to the gradients."},
    {"modules", modules, METH_NOARGS, "[(path, input kept, output kept, gradient kept)] of the last recording."},
    {"array", array, METH_VARARGS, "array(path, 'input' | 'output' | 'grad'): a view, or None."},
    {"parameter_gradient", parameter_gradient, METH_VARARGS, "A view of a parameter's gradient, or None."},
    {"observed", observed, METH_NOARGS, "{path, or path@stream: (B,T,6) view} of a run made with observe=True."},
    {"shapes", shapes, METH_NOARGS, "{path: (input shape or None, output shape)} of the last recording."},
    {"steps", steps, METH_NOARGS, "[(op, path, shape, flops, bytes, kept, differentiated)]."},
    {"likeliest", likeliest, METH_NOARGS, "[the likeliest token of a row of the logits; -1: one of them is not finite]."},
    {"zero_grad", zero_grad, METH_NOARGS, "Forgets the gradients."},
    {"rewind", rewind_past, METH_NOARGS, "Forgets the past."},
    {"set_moment", set_moment, METH_VARARGS, "set_moment(update, micro): keys of the next dropout."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"logits", logits, NULL, "A view of the logits, or None.", NULL},
    {"losses", losses, NULL, "A view of the losses (B,T), or None.", NULL},
    {"past", past, NULL, "Positions in the cache.", NULL},
    {"nbytes", bytes_taken, NULL, "Bytes of activations, scratch, cache and gradients.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, run_make},
    {Py_tp_dealloc, run_end},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "Run(model, batch, length, backward, dropout, keep, keep_all, past, seed, gradients)"},
    {0, NULL},
};

PyType_Spec run_type_spec = {"llmc._core.Run", sizeof(RunObject), 0, Py_TPFLAGS_DEFAULT, slots};
