/* py_run: _core.Run, a budget of rows and tokens and the passes over it. */
#include "base/alloc.h"
#include "binding/binding.h"

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

bool gradients_enter(const State *s, const RunObject *r) {
    if (r->gradients && r->gradients->busy) {
        PyErr_SetString(s->busy, "another thread is writing the gradients that this run shares; try again after it");
        return false;
    }
    if (r->gradients) r->gradients->busy = true;
    return true;
}

void gradients_leave(const RunObject *r) {
    if (r->gradients) r->gradients->busy = false;
}

/* The lock of the gradients of `shared`, or a new one; NULL: no memory. */
static Lock *lock_of(RunObject *shared) {
    Lock *lock = shared ? shared->gradients : alloc_array(1, sizeof *lock);
    if (lock) lock->references++;
    return lock;
}

static void lock_release(Lock *lock) {
    if (lock && --lock->references == 0) alloc_free(lock);
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
    RunObject *shared = PyObject_TypeCheck(gradients, s->run) ? (RunObject *)gradients : NULL;
    if (gradients != Py_None && (!shared || (PyObject *)shared->owner != model || !shared->run.gradients)) {
        PyErr_SetString(s->config, "gradients= takes a run of the same model made with backward=True");
        return NULL;
    }
    Error e = {0};
    if (shared && !run_is_current(&shared->run, &e)) return raise_error(s, &e);
    RunObject *self = (RunObject *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    Py_INCREF(model);
    self->owner = (ModelObject *)model;
    const char **globs = borrow_strings(keep, &o.keep_count);
    if (globs) {
        o.keep = globs;
        o.backward = backward;
        o.dropout = dropout;
        o.keep_all = keep_all;
        o.observe = observe;
        o.float32 = float32;
        o.seed = seed;
        self->ready = run_init(&self->run, &self->owner->model, &o, shared ? shared->run.gradients : NULL, &e);
        alloc_free(globs);
    }
    if (self->ready && o.backward && !(self->gradients = lock_of(shared))) PyErr_NoMemory();
    else if (self->ready) return (PyObject *)self;
    Py_DECREF(self);
    return raise_error(s, &e);
}

static void run_end(PyObject *object) {
    RunObject *self = (RunObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->ready) run_free(&self->run);
    lock_release(self->gradients);
    Py_XDECREF(self->owner);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- passes ------------------------------------------------------------------------------------------------------- */
typedef struct {
    PyObject *ids, *targets, *positions, *mask, *inv_freq, *rope_factor;
} Arrays;

/* Into the call, whose B and T are known. */
static bool borrow_arrays(const State *s, const Run *r, const Arrays *a, Call *c) {
    const Spec *spec = &r->model->spec;
    const size_t N = (size_t)c->pass.B * (size_t)c->pass.T, half = (size_t)spec->D / 2;
    const size_t tables = (size_t)spec->rotaries;
    return (c->ids = borrow_int32(s, a->ids, N, "input_ids")) &&
           (c->positions = borrow_int32(s, a->positions, N, "position_ids")) &&
           (!c->pass.losses || (c->targets = borrow_int32(s, a->targets, N, "labels"))) &&
           (spec->position != POSITION_ROPE ||
            ((c->inv_freq = borrow_vector(s, a->inv_freq, tables * half, "inv_freq")) &&
             (c->rope_factor = borrow_vector(s, a->rope_factor, tables, "rope_factor")))) &&
           (a->mask == Py_None || (c->mask = borrow_uint8(s, a->mask, N, "attention_mask")));
}

static bool begin(const State *s, RunObject *self, const Arrays *a, Call *c) {
    Error e = {0};
    if (!borrow_arrays(s, &self->run, a, c)) return false;
    if (run_begin(&self->run, c, &e)) return true;
    raise_error(s, &e);
    return false;
}

/* Parses a call and begins it. */
static bool begin_with(const State *s, RunObject *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"ids", "targets", "positions", "mask", "inv_freq", "rope_factor", "items", "shape", "skip",
                            "until", "last", NULL};
    Arrays a;
    Call c = {0};
    Pass *p = &c.pass;
    PyObject *skip;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOOd(ii)Ozi:forward", names, &a.ids, &a.targets, &a.positions,
                                     &a.mask, &a.inv_freq, &a.rope_factor, &c.items, &p->B, &p->T, &skip, &p->until,
                                     &p->last))
        return false;
    const char **left_out = borrow_strings(skip, &p->skip_count);
    if (!left_out) return false;
    p->skip = left_out;
    p->losses = a.targets != Py_None;
    const bool fine = begin(s, self, &a, &c);
    alloc_free(left_out);
    return fine;
}

/* Replays without the GIL. False: an exception is set. */
static bool replayed(const State *s, Run *r, bool (*replay)(Run *r, Cancel *cancel)) {
    Unlocked u;
    unlock(&u);
    const bool going = replay(r, &u.cancel);
    return lock(s, &u) && going;
}

static PyObject *loss_or_none(const Run *r) {
    if (r->state == RUN_STOPPED || !r->result.losses) Py_RETURN_NONE;
    return PyFloat_FromDouble(r->loss);
}

static PyObject *forward(PyObject *object, PyObject *args, PyObject *kwargs) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (begin_with(s, self, args, kwargs) && replayed(s, &self->run, run_forward)) result = loss_or_none(&self->run);
    run_leave(self);
    return result;
}

/* What generation asks for, with as little work as can be: no losses, and the logits of the last position alone. */
static PyObject *read_on(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    Arrays a = {.targets = Py_None};
    Call c = {.pass.last = 1};
    if (!PyArg_ParseTuple(args, "OOOOO:read", &a.ids, &a.positions, &a.mask, &a.inv_freq, &a.rope_factor)) return NULL;
    if (!borrow_rows(s, a.ids, &c.pass.B, &c.pass.T, "input_ids")) return NULL;
    if (!run_enter(s, self)) return NULL;
    const bool fine = begin(s, self, &a, &c) && replayed(s, &self->run, run_forward);
    run_leave(self);
    return fine ? Py_NewRef(Py_None) : NULL;
}

static PyObject *resume(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    Error e = {0};
    if (!run_enter(s, self)) return NULL;
    if (self->run.state != RUN_STOPPED)
        PyErr_SetString(s->error, "nothing to resume: call forward(ids, until=...) first");
    else if (!run_is_current(&self->run, &e)) raise_error(s, &e);
    else if (replayed(s, &self->run, run_resume)) result = loss_or_none(&self->run);
    run_leave(self);
    return result;
}

/* On success the gradients are this run's own until gradients_leave. */
static bool may_go_back(const State *s, const RunObject *self) {
    Error e = {0};
    if (!run_is_current(&self->run, &e) || !gradients_take_more(self->run.gradients, &e)) {
        raise_error(s, &e);
        return false;
    }
    return gradients_enter(s, self);
}

static PyObject *backward(PyObject *object, PyObject *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (may_go_back(s, self)) {
        if (self->run.state != RUN_DIFFERENTIABLE)
            PyErr_SetString(s->error, "backward needs a forward pass with labels before it, one for each backward");
        else if (replayed(s, &self->run, run_backward)) result = Py_NewRef(Py_None);
        gradients_leave(self);
    }
    run_leave(self);
    return result;
}

static PyObject *forward_backward(PyObject *object, PyObject *args, PyObject *kwargs) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    PyObject *result = NULL;
    if (!run_enter(s, self)) return NULL;
    if (may_go_back(s, self)) {
        if (begin_with(s, self, args, kwargs)) {
            if (!self->run.result.losses) PyErr_SetString(s->data, "forward_backward needs labels");
            else if (replayed(s, &self->run, run_forward_backward)) result = loss_or_none(&self->run);
        }
        gradients_leave(self);
    }
    run_leave(self);
    return result;
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

static PyObject *trim(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    int n;
    if (!PyArg_ParseTuple(args, "i:trim", &n) || !run_enter(s, self)) return NULL;
    Error e = {0};
    const bool fine = run_trim(&self->run, n, &e);
    run_leave(self);
    if (!fine) return raise_error(s, &e);
    Py_RETURN_NONE;
}

/* Which dropout comes next: that of an optimizer step and a micro-batch. */
static PyObject *set_dropout_key(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    unsigned long long update, micro;
    if (!PyArg_ParseTuple(args, "KK:set_dropout_key", &update, &micro)) return NULL;
    self->run.update = update;
    self->run.micro = micro;
    Py_RETURN_NONE;
}

static PyObject *past(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromLong(((RunObject *)object)->run.cache.held);
}

static PyObject *bytes_taken(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    size_t reals = (r->arena ? r->arena->count : 0) + (r->scratch ? r->scratch->count : 0) +
                   (r->cache.arena ? r->cache.arena->count : 0) + (r->gradients ? r->gradients->arena->count : 0);
    return PyLong_FromSize_t(reals * sizeof(real));
}

static PyMethodDef methods[] = {
    {"forward", KEYWORDS(forward), "One pass; the loss, or None."},
    {"read", read_on, METH_VARARGS, "read(ids, positions, mask, inv_freq, rope_factor): forms the last logits alone."},
    {"forward_backward", KEYWORDS(forward_backward), "Both passes, the logits formed once; the loss."},
    {"resume", resume, METH_NOARGS, "Goes on after forward(until=...)."},
    {"backward", backward, METH_NOARGS, "Adds to the gradients."},
    {"modules", shown_modules, METH_NOARGS,
     "[(path, input kept, output kept, gradient kept, part, layer or -1)] of the last recording."},
    {"array", shown_array, METH_VARARGS, "array(path, 'input' | 'output' | 'grad'): a view, or None."},
    {"parameter_gradient", shown_parameter_gradient, METH_VARARGS, "A view of a parameter's gradient, or None."},
    {"observed", shown_observed, METH_NOARGS, "{path, or path@stream: (B,T,6) view} of a run made with observe=True."},
    {"shapes", shown_shapes, METH_NOARGS, "{path: (input shape or None, output shape)} of the last recording."},
    {"steps", shown_steps, METH_NOARGS, "[(op, path, shape, flops, bytes, kept, differentiated)]."},
    {"likeliest", shown_likeliest, METH_NOARGS, "[the likeliest token of a row of logits; -1: one is not finite]."},
    {"zero_grad", zero_grad, METH_NOARGS, "Forgets the gradients."},
    {"trim", trim, METH_VARARGS, "trim(n): back to the first n positions of the past."},
    {"set_dropout_key", set_dropout_key, METH_VARARGS, "set_dropout_key(update, micro): of the next pass."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"logits", shown_logits, NULL, "A view of the logits, or None.", NULL},
    {"losses", shown_losses, NULL, "A view of the losses (B,T), or None.", NULL},
    {"gradient_arena", shown_gradient_arena, NULL, "All gradients as one row, by slot, or None.", NULL},
    {"past", past, NULL, "Positions that were read.", NULL},
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
