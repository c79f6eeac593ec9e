/* py_shown: what a run shows: methods and properties of _core.Run. */
#include "binding/binding.h"

#include <string.h>

PyObject *shown_modules(PyObject *object, PyObject *unused) {
    (void)unused;
    const Plan *p = &((RunObject *)object)->run.plan;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < p->module_count; i++) {
        const Module *m = &p->modules[i];
        const Tensor *in = m->input, *out = m->output, *grad = out->grad;
        PyObject *row =
            Py_BuildValue("(sOOOsi)", m->name, in && in->kept ? Py_True : Py_False, out->kept ? Py_True : Py_False,
                          grad && grad->kept && grad->last >= 0 ? Py_True : Py_False,
                          part_is_norm(m->part) ? "norm" : part_word(m->part), m->layer);
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* A view of what `which` says of a module; NULL without an error: it is not kept. */
static PyObject *view_module(const State *s, const Run *r, const Module *m, const char *which) {
    Error e = {0};
    const bool gradient = !strcmp(which, "grad");
    const Tensor *t = !strcmp(which, "input") ? m->input : m->output;
    if (!t || !t->kept || t->kind != TENSOR_STEP || (gradient && !r->options.backward)) return NULL;
    if (gradient ? !run_shows_gradient(r, m, &e) : !run_shows(r, t, m->name, &e)) return raise_error(s, &e);
    return view_tensor(r->arena, gradient ? t->grad : t);
}

PyObject *shown_array(PyObject *object, PyObject *args) {
    const Run *r = &((RunObject *)object)->run;
    const char *name, *which;
    if (!PyArg_ParseTuple(args, "ss:array", &name, &which)) return NULL;
    const Module *m = plan_module(&r->plan, name);
    PyObject *view = m ? view_module(state_of_type(Py_TYPE(object)), r, m, which) : NULL;
    if (!view && !PyErr_Occurred()) Py_RETURN_NONE;
    return view;
}

PyObject *shown_parameter_gradient(PyObject *object, PyObject *args) {
    RunObject *self = (RunObject *)object;
    const State *s = state_of_type(Py_TYPE(object));
    const char *name;
    if (!PyArg_ParseTuple(args, "s:parameter_gradient", &name)) return NULL;
    const Run *r = &self->run;
    const Parameter *q = weights_find(&r->model->weights, name);
    if (!q || !r->gradients) Py_RETURN_NONE;
    Error e = {0};
    if (!run_is_current(r, &e)) return raise_error(s, &e); /* the slots are no longer those of this run */
    if (!gradients_enter(s, self)) return NULL; /* showing them may clear them */
    const real *grad = run_parameter_gradient(&self->run, q);
    gradients_leave(self);
    if (!grad) Py_RETURN_NONE;
    return view_like(q, r->gradients->arena, grad);
}

PyObject *shown_gradient_arena(PyObject *object, void *unused) {
    (void)unused;
    RunObject *self = (RunObject *)object;
    if (!gradients_enter(state_of_type(Py_TYPE(object)), self)) return NULL;
    Arena *all = run_gradient_arena(&self->run);
    gradients_leave(self);
    if (!all) Py_RETURN_NONE;
    return view_whole(all);
}

static bool add_sums(PyObject *all, const Run *r, const char *name, const char *suffix, const Tensor *sums) {
    if (!sums) return true;
    PyObject *key = PyUnicode_FromFormat("%s%s", name, suffix), *view = key ? view_tensor(r->arena, sums) : NULL;
    bool added = view && PyDict_SetItem(all, key, view) == 0;
    Py_XDECREF(key);
    Py_XDECREF(view);
    return added;
}

PyObject *shown_observed(PyObject *object, PyObject *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    Error e = {0};
    if (!run_shows_all(r, &e)) return raise_error(state_of_type(Py_TYPE(object)), &e);
    PyObject *all = PyDict_New();
    for (int i = 0; all && i < r->plan.module_count; i++) {
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

PyObject *shown_shapes(PyObject *object, PyObject *unused) {
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

PyObject *shown_logits(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    const Tensor *t = r->result.logits;
    Error e = {0};
    if (!(t ? run_shows(r, t, r->model->spec.names[PART_HEAD], &e) : run_shows_something(r, &e)))
        return raise_error(state_of_type(Py_TYPE(object)), &e);
    if (!t) Py_RETURN_NONE;
    return view_tensor(r->arena, t);
}

PyObject *shown_likeliest(PyObject *object, PyObject *unused) {
    (void)unused;
    const RunObject *self = (RunObject *)object;
    const Run *r = &self->run;
    Error e = {0};
    if (!r->result.logits || !run_shows_all(r, &e))
        return PyErr_Format(state_of_type(Py_TYPE(object))->error, "there are no logits: a forward pass forms them");
    PyObject *list = PyList_New((Py_ssize_t)r->result.logits->rows);
    for (Py_ssize_t row = 0; list && row < PyList_GET_SIZE(list); row++) {
        const size_t token = run_likeliest(r, (size_t)row);
        PyObject *number = PyLong_FromLong(token == NOT_FINITE ? -1 : (long)token);
        if (number) PyList_SET_ITEM(list, row, number);
        else Py_CLEAR(list);
    }
    return list;
}

PyObject *shown_losses(PyObject *object, void *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    Error e = {0};
    if (!run_shows_all(r, &e)) return raise_error(state_of_type(Py_TYPE(object)), &e);
    if (!r->result.losses) Py_RETURN_NONE;
    return view_tensor(r->arena, r->result.losses);
}

PyObject *shown_steps(PyObject *object, PyObject *unused) {
    (void)unused;
    const Run *r = &((RunObject *)object)->run;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < r->plan.count; i++) {
        const Step *s = &r->plan.steps[i];
        for (int k = 0; list && k < s->outs; k++) {
            const Tensor *out = s->out[k];
            const double flops = s->op->flops ? s->op->flops(s, k) : 0;
            if (k > 0 && flops == 0) continue; /* what the step keeps for itself */
            const Py_ssize_t bytes = (Py_ssize_t)(tensor_count(out) * sizeof(real));
            PyObject *shape = shape_of(out), *kept = out->kept ? Py_True : Py_False;
            PyObject *row = !shape ? NULL
                                   : Py_BuildValue("(ssNdnOO)", s->op->name, out->name ? out->name : s->path, shape,
                                                   flops, bytes, kept, s->differentiated ? Py_True : Py_False);
            if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
            Py_XDECREF(row);
        }
    }
    return list;
}
