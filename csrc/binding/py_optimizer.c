/* py_optimizer: _core.AdamW, the moments and the update. */
#include "binding/binding.h"

typedef struct {
    PyObject_HEAD
    ModelObject *owner;
    Optimizer optimizer;
    bool ready;
} OptimizerObject;

static PyObject *optimizer_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", NULL};
    const State *s = state_of_type(type);
    PyObject *model;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:AdamW", names, s->model, &model)) return NULL;
    if (!((ModelObject *)model)->model.weights.base.arena) return PyErr_Format(s->error, "this model has shapes alone");
    OptimizerObject *self = (OptimizerObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(model);
    self->owner = (ModelObject *)model;
    Error e = {0};
    self->ready = optimizer_init(&self->optimizer, &self->owner->model.weights, &e);
    if (self->ready) return (PyObject *)self;
    Py_DECREF(self);
    return raise_error(s, &e);
}

static void optimizer_end(PyObject *object) {
    OptimizerObject *self = (OptimizerObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->ready) optimizer_free(&self->optimizer);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

/* The floats of a list, one a trainable parameter, into its place among all of them. */
static bool read_floats(const Weights *w, PyObject *list, double *into, const char *what) {
    Py_ssize_t at = 0;
    for (int i = 0; i < w->total; i++) {
        if (!w->all[i]->trainable) continue;
        PyObject *number = PyList_Check(list) && at < PyList_GET_SIZE(list) ? PyList_GET_ITEM(list, at++) : NULL;
        if (!number || !PyFloat_Check(number)) {
            PyErr_Format(PyExc_TypeError, "%s: a list is needed, of a float for every trainable parameter", what);
            return false;
        }
        into[i] = PyFloat_AS_DOUBLE(number);
    }
    return true;
}

static bool may_step(const State *s, const OptimizerObject *self, const RunObject *run) {
    Error e = {0};
    if (!optimizer_is_current(&self->optimizer, &e)) raise_error(s, &e);
    else if (run->owner != self->owner)
        PyErr_SetString(s->config, "this run belongs to another model than the optimizer");
    else if (!run_is_current(&run->run, &e) || !optimizer_may_step(&self->optimizer, run->run.gradients, &e))
        raise_error(s, &e);
    return !PyErr_Occurred();
}

typedef struct {
    PyObject *rates, *decays;
    AdamwOptions options;
    int skip;
} StepArguments;

/* The update is the only thing that changes the model: once begun it is finished, Ctrl-C or not. */
static PyObject *update(const State *s, OptimizerObject *self, RunObject *run, const StepArguments *a) {
    Optimizer *o = &self->optimizer;
    if (!may_step(s, self, run)) return NULL;
    if (!read_floats(o->weights, a->rates, o->rate, "rates") || !read_floats(o->weights, a->decays, o->decay, "decays"))
        return NULL;
    if (!gradients_enter(s, run)) return NULL;
    run->busy = true;
    Error e = {0};
    double norm;
    UpdateResult result;
    Py_BEGIN_ALLOW_THREADS
    result = optimizer_step(o, run->run.gradients, &a->options, a->skip, &norm, &e);
    Py_END_ALLOW_THREADS
    run->busy = false;
    gradients_leave(run);
    if (result == UPDATE_REFUSED) return raise_error(s, &e);
    run->run.update++;
    run->run.micro = 0;
    const char *outcome = result == UPDATE_DONE ? "updated" : result == UPDATE_NOTHING ? "nothing" : "skipped";
    return Py_BuildValue("(dss)", norm, outcome, e.message);
}

static PyObject *step(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"run", "rates", "decays", "beta1", "beta2", "eps", "max_grad_norm", "skip_nonfinite", NULL};
    OptimizerObject *self = (OptimizerObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *argument;
    StepArguments a;
    AdamwOptions *o = &a.options;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OOddddp:step", names, s->run, &argument, &a.rates, &a.decays,
                                     &o->beta1, &o->beta2, &o->eps, &o->max_grad_norm, &a.skip))
        return NULL;
    RunObject *run = (RunObject *)argument;
    if (run->busy) {
        PyErr_SetString(s->busy, "this run is in use by another thread; step after it");
        return NULL;
    }
    if (!guard_write(s, &self->owner->guard, "step")) return NULL;
    PyObject *result = update(s, self, run, &a);
    self->owner->guard.writing = false;
    return result;
}

static PyObject *views(const Weights *w, Arena *arena) {
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < w->total; i++)
        if (w->all[i]->trainable && !add_view(all, w->all[i], arena, w->all[i]->grad_offset)) Py_CLEAR(all);
    return all;
}

static PyObject *moments(PyObject *object, PyObject *unused) {
    (void)unused;
    const Optimizer *o = &((OptimizerObject *)object)->optimizer;
    Error e = {0};
    if (!optimizer_is_current(o, &e)) return raise_error(state_of_type(Py_TYPE(object)), &e);
    PyObject *m = views(o->weights, o->m), *v = m ? views(o->weights, o->v) : NULL;
    if (!v) {
        Py_XDECREF(m);
        return NULL;
    }
    return Py_BuildValue("(NN)", m, v);
}

static PyObject *get_updates(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromLong(((OptimizerObject *)object)->optimizer.step);
}

static int set_updates(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    long n = value ? PyLong_AsLong(value) : -1;
    if (PyErr_Occurred()) return -1;
    if (n < 0) {
        PyErr_SetString(PyExc_ValueError, "updates counts from 0");
        return -1;
    }
    ((OptimizerObject *)object)->optimizer.step = n;
    return 0;
}

static PyMethodDef methods[] = {
    {"step", KEYWORDS(step), "(norm, 'updated' | 'nothing' | 'skipped', why)."},
    {"moments", moments, METH_NOARGS, "({name: exp_avg}, {name: exp_avg_sq}), writable views."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"updates", get_updates, set_updates, "Updates done.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, optimizer_make},
    {Py_tp_dealloc, optimizer_end},
    {Py_tp_methods, methods},
    {Py_tp_getset, properties},
    {Py_tp_doc, "AdamW(model)"},
    {0, NULL},
};

PyType_Spec optimizer_type_spec = {"llmc._core.AdamW", sizeof(OptimizerObject), 0, Py_TPFLAGS_DEFAULT, slots};
