/* py_error: the core's errors as llmc's exceptions; busy objects; the unlocked region. */
#include "base/alloc.h"
#include "binding/binding.h"

PyObject *raise_error(const State *s, const Error *e) {
    if (PyErr_Occurred()) return NULL; /* Ctrl-C came first */
    PyObject *type = s->error;
    switch (e->code) {
    case ERROR_CONFIG: type = s->config; break;
    case ERROR_SHAPE: type = s->shape; break;
    case ERROR_DATA: type = s->data; break;
    case ERROR_NAME: type = s->name; break;
    case ERROR_NONFINITE: type = s->nonfinite; break;
    case ERROR_MEMORY: type = PyExc_MemoryError; break;
    case ERROR_CANCELLED: type = PyExc_KeyboardInterrupt; break;
    case ERROR_STATE: case FINE: break;
    }
    PyErr_SetString(type, e->message);
    return NULL;
}

bool guard_read(const State *s, Guard *g, const char *what) {
    if (g->writing) {
        PyErr_Format(s->busy,
                     "%s: another thread is changing the model (a step, a load or a merge); try again after it", what);
        return false;
    }
    g->readers++;
    return true;
}

bool guard_write(const State *s, Guard *g, const char *what) {
    if (g->writing || g->readers) {
        PyErr_Format(s->busy, "%s: another thread is using the model; try again after it", what);
        return false;
    }
    g->writing = true;
    return true;
}

/* Called by the core between tasks: 50 times a second at most. */
static bool interrupted(void *context) {
    Unlocked *u = context;
    PyEval_RestoreThread(u->thread);
    bool raised = PyErr_CheckSignals() != 0;
    u->thread = PyEval_SaveThread();
    return raised;
}

void unlock(Unlocked *u) {
    *u = (Unlocked){.cancel = {.poll = interrupted, .context = u}};
    u->thread = PyEval_SaveThread();
}

bool lock(const State *s, Unlocked *u) {
    PyEval_RestoreThread(u->thread);
    if (atomic_load(&u->cancel.stop) && !PyErr_Occurred())
        PyErr_SetString(s->busy, "this process was forked in the middle of the call, which the child cannot finish");
    return !PyErr_Occurred();
}

const char **borrow_strings(PyObject *sequence, int *count) {
    if (!PyList_Check(sequence) && !PyTuple_Check(sequence))
        return (const char **)PyErr_Format(PyExc_TypeError, "a list of names is needed, not %s",
                                           Py_TYPE(sequence)->tp_name);
    Py_ssize_t n = PySequence_Fast_GET_SIZE(sequence);
    if (n > INT32_MAX) return (const char **)PyErr_NoMemory();
    const char **strings = alloc_array((size_t)n + 1, sizeof *strings);
    if (!strings) return (const char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++) {
        strings[i] = PyUnicode_AsUTF8(PySequence_Fast_GET_ITEM(sequence, i));
        if (strings[i]) continue;
        alloc_free(strings);
        return NULL;
    }
    *count = (int)n;
    return strings;
}
