/* module: what Python imports. Threads, instruction set and products are process-wide; all else belongs to objects. */
#include "base/cpu.h"
#include "base/alloc.h"
#include "binding/binding.h"
#include "blocks/spec.h"
#include "engine/engine.h"
#include "engine/machine.h"

State *state_of(PyObject *module) { return PyModule_GetState(module); }
State *state_of_type(PyTypeObject *type) { return PyType_GetModuleState(type); }

static PyObject *set_num_threads(PyObject *module, PyObject *argument) {
    long n = PyLong_AsLong(argument);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (n < 1 || n > POOL_MOST) {
        PyErr_Format(state_of(module)->config, "set_num_threads(%ld): 1 to %d threads", n, POOL_MOST);
        return NULL;
    }
    bool all;
    Py_BEGIN_ALLOW_THREADS
    all = pool_set_threads((int)n);
    Py_END_ALLOW_THREADS
    if (!all) {
        PyErr_Format(PyExc_MemoryError, "the system starts no more than %d threads", pool_threads());
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *get_num_threads(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(pool_threads());
}

static PyObject *choose(PyObject *module, PyObject *args) {
    const char *isa, *gemm, *blas;
    if (!PyArg_ParseTuple(args, "zzz:choose", &isa, &gemm, &blas)) return NULL;
    const char *problem = engine_choose(isa, gemm, blas);
    if (problem) {
        PyErr_SetString(state_of(module)->config, problem);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *offers(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *list = PyList_New(0);
    const char *name;
    for (int i = 0; list && (name = engine_offers(i)); i++) {
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(list, text) < 0) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

static PyObject *info(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s,s:i,s:s,s:s}", "processor", cpu_brand(), "instruction_set",
                         engine_isa(), "gemm", engine_gemm(), "bfloat16",
                         engine_has_bfloat16() ? "own" : "", "openblas", engine_openblas(), "processors",
                         pool_processors(), "openblas_kernels", engine_openblas_kernels(), "real", REAL_NAME);
}

static PyObject *measure(PyObject *module, PyObject *args) {
    const char *what;
    double seconds, rate;
    if (!PyArg_ParseTuple(args, "sd:measure", &what, &seconds)) return NULL;
    Error e = {0};
    Unlocked u;
    unlock(&u);
    bool fine = machine_measure(what, seconds, &rate, &e, &u.cancel);
    if (!lock(state_of(module), &u)) return NULL;
    return fine ? PyFloat_FromDouble(rate) : raise_error(state_of(module), &e);
}

/* Words and numbers that Python must know as the core does. */
static int add_constants(PyObject *module) {
    PyObject *words = PyTuple_New(ACT_COUNT);
    for (Py_ssize_t i = 0; words && i < ACT_COUNT; i++)
        PyTuple_SET_ITEM(words, i, PyUnicode_FromString(activation_words[i]));
    if (!words || PyErr_Occurred() || PyModule_AddObjectRef(module, "ACTIVATIONS", words) < 0) {
        Py_XDECREF(words);
        return -1;
    }
    Py_DECREF(words);
    return PyModule_AddIntConstant(module, "GROUP", GROUP) |
           PyModule_AddIntConstant(module, "LAYERS_MOST", LAYERS_MOST) |
           PyModule_AddIntConstant(module, "ROTARIES_MOST", ROTARIES_MOST);
}

#ifdef LLMC_TESTING
static PyObject *fail_allocation(PyObject *module, PyObject *args) {
    (void)module;
    long k, count = 1;
    if (!PyArg_ParseTuple(args, "l|l:fail_allocation", &k, &count)) return NULL;
    alloc_fail(k, count);
    Py_RETURN_NONE;
}

static PyObject *live_allocations(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(alloc_live());
}
#endif

static PyMethodDef functions[] = {
    {"set_num_threads", set_num_threads, METH_O, "Threads of the pool, from now on."},
    {"get_num_threads", get_num_threads, METH_NOARGS, "Threads of the pool."},
    {"choose", choose, METH_VARARGS, "choose(isa, gemm, blas_path): the kernels to use; None lets the core decide."},
    {"offers", offers, METH_NOARGS, "Instruction sets that this build and this processor have, best first."},
    {"info", info, METH_NOARGS, "What runs here."},
    {"measure", measure, METH_VARARGS, "measure(what, seconds): the best rate this machine reaches."},
    {"functional", (PyCFunction)(void (*)(void))functional_apply, METH_VARARGS | METH_KEYWORDS, "One op on arrays."},
    {"compare", KEYWORDS(comparison_apply), "What two matrices differ in, row by row."},
#ifdef LLMC_TESTING
    {"fail_allocation", fail_allocation, METH_VARARGS, "fail_allocation(k, count=1): the k-th allocation fails."},
    {"live_allocations", live_allocations, METH_NOARGS, "Blocks taken and not given back."},
#endif
    {NULL, NULL, 0, NULL},
};

static bool find_errors(State *s) {
    PyObject *errors = PyImport_ImportModule("llmc.errors");
    if (!errors) return false;
    struct {
        const char *name;
        PyObject **into;
    } classes[] = {{"Error", &s->error},
                   {"ConfigError", &s->config},
                   {"ShapeError", &s->shape},
                   {"DataError", &s->data},
                   {"UnknownNameError", &s->name},
                   {"BusyError", &s->busy},
                   {"NonFiniteError", &s->nonfinite}};
    bool all = true;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        all = (*classes[i].into = PyObject_GetAttrString(errors, classes[i].name)) && all;
    Py_DECREF(errors);
    return all;
}

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && PyModule_AddType(module, (PyTypeObject *)type) < 0) Py_CLEAR(type);
    return (PyTypeObject *)type;
}

static int execute(PyObject *module) {
    State *s = state_of(module);
    if (view_begin() < 0 || !find_errors(s) || add_constants(module) < 0) return -1;
    if (!(s->model = add_type(module, &model_type_spec))) return -1;
    if (!(s->run = add_type(module, &run_type_spec))) return -1;
    if (!(s->optimizer = add_type(module, &optimizer_type_spec))) return -1;
    pool_begin();
    const char *problem = engine_choose(NULL, "own", NULL);
    if (!problem) return 0;
    PyErr_SetString(PyExc_ImportError, problem);
    return -1;
}

static int visit_state(PyObject *module, visitproc visit, void *arg) {
    State *s = state_of(module);
    Py_VISIT(s->error);
    Py_VISIT(s->config);
    Py_VISIT(s->shape);
    Py_VISIT(s->data);
    Py_VISIT(s->name);
    Py_VISIT(s->busy);
    Py_VISIT(s->nonfinite);
    Py_VISIT(s->model);
    Py_VISIT(s->run);
    Py_VISIT(s->optimizer);
    return 0;
}

static int clear_state(PyObject *module) {
    State *s = state_of(module);
    Py_CLEAR(s->error);
    Py_CLEAR(s->config);
    Py_CLEAR(s->shape);
    Py_CLEAR(s->data);
    Py_CLEAR(s->name);
    Py_CLEAR(s->busy);
    Py_CLEAR(s->nonfinite);
    Py_CLEAR(s->model);
    Py_CLEAR(s->run);
    Py_CLEAR(s->optimizer);
    return 0;
}

static void free_state(void *module) { clear_state(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "llmc." TEXT(LLMC_MODULE),
    .m_doc = "The C core, " REAL_NAME ".",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = visit_state,
    .m_clear = clear_state,
    .m_free = free_state,
};

PyMODINIT_FUNC JOIN(PyInit_, LLMC_MODULE)(void);
PyMODINIT_FUNC JOIN(PyInit_, LLMC_MODULE)(void) { return PyModuleDef_Init(&definition); }
