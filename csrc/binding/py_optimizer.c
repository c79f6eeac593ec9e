/* py_optimizer: _core.AdamW, the moments and the update. */
#include "binding/binding.h"

typedef struct {
    PyObject_HEAD
    ModelObject *owner;
    Optimizer optimizer;
    bool ready;
} OptimizerObject;

static PyObject *optimizer_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", "decay_all", NULL};
    const State *s = state_of_type(type);
    PyObject *model;
    int decay_all;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!p:AdamW", names, s->model, &model, &decay_all)) return NULL;
    if (!((ModelObject *)model)->model.weights.base.arena) return PyErr_Format(s->error, "this model has shapes alone");
    OptimizerObject *self = (OptimizerObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(model);
    self->owner = (ModelObject *)model;
    Error e = {0};
    self->ready = optimizer_init(&self->optimizer, &self->owner->model.weights, decay_all, &e);
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

#define OUTDATED                                                                     \
    "the model's adapters or its vocabulary changed since this optimizer was made: " \
    "make it anew with llmc.AdamW(model)"

static bool may_step(const State *s, const OptimizerObject *self, const RunObject *run) {
    const Optimizer *o = &self->optimizer;
    if (o->structure != o->weights->structure)
        PyErr_SetString(s->error, OUTDATED);
    else if (run->owner != self->owner)
        PyErr_SetString(s->config, "this run belongs to another model than the optimizer");
    else if (!run_current(s, run)) return false;
    else if (!run->run.gradients) PyErr_SetString(s->error, "this run keeps no gradients: make it with model.run(..., backward=True)");
    else if (run->run.gradients->interrupted)
        PyErr_SetString(s->error, "an interrupted backward pass left the gradients void: call run.zero_grad() first");
    else if (!run->run.gradients->held) PyErr_SetString(s->error, "there are no gradients: call run.backward() before optimizer.step(run)");
    else return true;
    return false;
}

/* The update is the only thing that changes the model: once begun it is finished, Ctrl-C or not. */
static PyObject *step(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"run", "lr", "beta1", "beta2", "eps", "weight_decay", "max_grad_norm", "skip_nonfinite", NULL};
    OptimizerObject *self = (OptimizerObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *argument;
    AdamwOptions o;
    int skip;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!ddddddp:step", names, s->run, &argument, &o.lr, &o.beta1, &o.beta2,
                                     &o.eps, &o.weight_decay, &o.max_grad_norm, &skip))
        return NULL;
    RunObject *run = (RunObject *)argument;
    if (run->busy) {
        PyErr_SetString(s->busy, "this run is in use by another thread; step after it");
        return NULL;
    }
    if (!guard_write(s, &self->owner->guard, "step")) return NULL;
    if (!may_step(s, self, run)) {
        self->owner->guard.writing = false;
        return NULL;
    }
    if (!gradients_enter(s, run)) {
        self->owner->guard.writing = false;
        return NULL;
    }
    run->busy = true;
    Error e = {0};
    double norm;
    UpdateResult result;
    Py_BEGIN_ALLOW_THREADS
    result = optimizer_step(&self->optimizer, run->run.gradients, &o, skip, &norm, &e);
    Py_END_ALLOW_THREADS
    run->busy = false;
    gradients_leave(run);
    self->owner->guard.writing = false;
    if (result == UPDATE_REFUSED) return raise_error(s, &e);
    run->run.update++;
    run->run.micro = 0;
    return Py_BuildValue("(dOs)", norm, result == UPDATE_DONE ? Py_True : Py_False, e.message);
}

static PyObject *views(const Weights *w, Arena *arena) {
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < w->total; i++)
        if (w->all[i]->trainable && !add_view(all, w->all[i], arena, w->all[i]->slot)) Py_CLEAR(all);
    return all;
}

static PyObject *moments(PyObject *object, PyObject *unused) {
    (void)unused;
    const Optimizer *o = &((OptimizerObject *)object)->optimizer;
    if (o->structure != o->weights->structure)
        return PyErr_Format(state_of_type(Py_TYPE(object))->error, OUTDATED);
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
    {"step", (PyCFunction)(void (*)(void))step, METH_VARARGS | METH_KEYWORDS, "(norm, updated, why not)."},
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
    {Py_tp_doc, "AdamW(model, decay_all)"},
    {0, NULL},
};

PyType_Spec optimizer_type_spec = {"llmc._core.AdamW", sizeof(OptimizerObject), 0, Py_TPFLAGS_DEFAULT, slots};
