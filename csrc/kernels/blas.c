/* blas: opens OpenBLAS and calls it so that none of its traps is met.
 *
 * The kernels: it knows a processor by its model, so a new one may get kernels of half its speed; OPENBLAS_CORETYPE
 * decides, and is read when the library is opened.
 * The threads: a build without threads corrupts products made at the same time, and one with OpenMP hangs in forked
 * children; only the build with pthreads is taken, and it starts no threads of its own here.
 * The memory: where address space is limited, it hangs or ends the process when it finds none for a caller's buffer. So
 * that room is held back when the library is opened, one share for each processor, and given up as callers come. A
 * forked child has none of the callers that were inside, and their buffers are lost to it: it holds other shares. */
#define _GNU_SOURCE
#include "kernels/blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cpu.h"

#define OPENING ((size_t)256 << 20) /* address space that opening and a first call may take */
#define BUFFER ((size_t)32 << 20)   /* the least that a caller's buffer takes */
#define CALLERS 64
#define PROBE 256 /* a product of this size is not one of the small ones, which need no buffer */

#ifdef LLMC_DOUBLE
#define GEMM_SYMBOL "cblas_dgemm"
#else
#define GEMM_SYMBOL "cblas_sgemm"
#endif
typedef void CblasGemm(int order, int ta, int tb, int M, int N, int K, real alpha, const real *A, int lda,
                       const real *B, int ldb, real beta, real *out, int ldo);
enum { ROW_MAJOR = 101, AS_STORED = 111, TRANSPOSED = 112 };

static struct {
    CblasGemm *gemm;
    char path[512], config[256], corename[64];
    bool limited; /* address space is: callers come in by the gate */
    sem_t gate;
    atomic_int inside, buffers;
    int shares;
    size_t share;
    void *held[CALLERS];
} blas;

static const char *problem(const char *format, const char *path, const char *detail) {
    static _Thread_local char text[1024];
    snprintf(text, sizeof text, format, path, detail);
    return text;
}

/* --- opening ----------------------------------------------------------------------------------------------------- */
static void *symbol(void *library, const char *prefix, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return dlsym(library, full);
}

/* Sets an environment variable until restore(); returns a copy of what it was, NULL if it was not set. */
static char *replace(const char *name, const char *value) {
    const char *old = getenv(name);
    char *copy = old ? strdup(old) : NULL;
    setenv(name, value, 1);
    return copy;
}

static void restore(const char *name, char *old) {
    if (old) setenv(name, old, 1);
    else unsetenv(name);
    free(old);
}

static void *open_library(const char *path, const char *coretype) {
    if (!coretype && cpu_has("avx512") && !getenv("OPENBLAS_CORETYPE")) coretype = "SkylakeX";
    char *old_threads = replace("OPENBLAS_NUM_THREADS", "1");
    char *old_coretype = coretype ? replace("OPENBLAS_CORETYPE", coretype) : NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (coretype) restore("OPENBLAS_CORETYPE", old_coretype);
    restore("OPENBLAS_NUM_THREADS", old_threads);
    return library;
}

static const char *find_symbols(void *library, const char *path) {
    const char *prefix = symbol(library, "scipy_", GEMM_SYMBOL) ? "scipy_" : "";
    CblasGemm *gemm = (CblasGemm *)symbol(library, prefix, GEMM_SYMBOL);
    char *(*config)(void) = (char *(*)(void))symbol(library, prefix, "openblas_get_config");
    char *(*corename)(void) = (char *(*)(void))symbol(library, prefix, "openblas_get_corename");
    int (*parallel)(void) = (int (*)(void))symbol(library, prefix, "openblas_get_parallel");
    void (*set_num_threads)(int) = (void (*)(int))symbol(library, prefix, "openblas_set_num_threads");
    if (!gemm || !config || !corename || !parallel || !set_num_threads)
        return problem("%s is not an OpenBLAS: it has no %s, or cannot say how it was built", path, GEMM_SYMBOL);
    if (strstr(config(), "USE64BITINT"))
        return problem("%s is an OpenBLAS with 64-bit integers (%s); take the ordinary one", path, config());
    if (parallel() != 1)
        return problem("%s is an OpenBLAS built %s; under several threads it gives wrong results or hangs. Take "
                       "one built with pthreads (apt-get install libopenblas0-pthread, pip install scipy-openblas32)",
                       path, parallel() == 0 ? "without threads" : "with OpenMP");
    set_num_threads(1);
    blas.gemm = gemm;
    snprintf(blas.config, sizeof blas.config, "%s", config());
    snprintf(blas.corename, sizeof blas.corename, "%s", corename());
    return NULL;
}

/* --- address space ----------------------------------------------------------------------------------------------- */
static bool address_space_is_limited(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

static void *hold(size_t bytes) {
    void *room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room == MAP_FAILED ? NULL : room;
}

static size_t address_space_in_use(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (f && fscanf(f, "%lu", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Makes the first call, which shows what a caller's buffer takes, and holds the room of the other processors'. */
static bool hold_shares(void) {
    real *x = calloc(3 * PROBE * PROBE, sizeof(real));
    if (!x) return false;
    size_t before = address_space_in_use();
    blas.gemm(ROW_MAJOR, AS_STORED, AS_STORED, PROBE, PROBE, PROBE, 1, x, PROBE, x + PROBE * PROBE, PROBE, 0,
              x + 2 * PROBE * PROBE, PROBE);
    size_t grown = address_space_in_use() - before;
    free(x);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    blas.shares = processors < 1 ? 1 : processors > CALLERS ? CALLERS : (int)processors;
    blas.share = (grown > BUFFER ? grown : BUFFER) + ((size_t)1 << 20);
    atomic_store(&blas.buffers, 1);
    for (int i = 1; i < blas.shares; i++)
        if (!(blas.held[i] = hold(blas.share))) {
            while (--i >= 1) munmap(blas.held[i], blas.share);
            return false;
        }
    return sem_init(&blas.gate, 0, (unsigned)blas.shares) == 0;
}

static void replace_lost_shares(void) {
    if (!blas.gemm) return;
    int inside = atomic_exchange(&blas.inside, 0), before = atomic_load(&blas.buffers);
    int buffers = inside < before ? before - inside : 0, shares = buffers;
    void *held[CALLERS] = {NULL};
    for (int i = before; i < blas.shares; i++) held[shares++] = blas.held[i];
    while (shares < blas.shares && (held[shares] = hold(blas.share))) shares++;
    if (shares == 0) shares = buffers = 1; /* one caller takes his chance */
    memcpy(blas.held, held, sizeof held);
    blas.shares = shares;
    atomic_store(&blas.buffers, buffers);
    sem_init(&blas.gate, 0, (unsigned)shares);
}

const char *blas_load(const char *path, const char *coretype) {
    if (blas.gemm && strcmp(path, blas.path) == 0) return NULL;
    if (blas.gemm) return problem("%s: this process already multiplies with %s", path, blas.path);
    if (strlen(path) >= sizeof blas.path) return problem("%s%s: the path is too long", path, "");
    blas.limited = address_space_is_limited();
    if (blas.limited) {
        void *room = hold(OPENING);
        if (!room)
            return problem("%s: the limit on address space (ulimit -v) leaves too little for OpenBLAS%s", path, "");
        munmap(room, OPENING);
    }
    void *library = open_library(path, coretype);
    if (!library) return problem("%s cannot be opened: %s", path, dlerror());
    const char *wrong = find_symbols(library, path);
    if (!wrong && blas.limited && !hold_shares())
        wrong = problem("%s: the limit on address space (ulimit -v) leaves too little for OpenBLAS to work on every "
                        "processor%s", path, "");
    if (wrong) {
        blas.gemm = NULL;
        blas.config[0] = blas.corename[0] = 0;
        dlclose(library);
        return wrong;
    }
    if (blas.limited) pthread_atfork(NULL, NULL, replace_lost_shares);
    strcpy(blas.path, path);
    return NULL;
}

const char *blas_config(void) { return blas.config; }

const char *blas_corename(void) { return blas.corename; }

/* --- calling ----------------------------------------------------------------------------------------------------- */
/* No more callers at once than shares; one more than ever before turns a share into a buffer. */
static void enter(void) {
    while (sem_wait(&blas.gate) != 0) continue; /* a signal came in between */
    int inside = atomic_fetch_add(&blas.inside, 1) + 1, buffers = atomic_load(&blas.buffers);
    while (inside > buffers)
        if (atomic_compare_exchange_weak(&blas.buffers, &buffers, buffers + 1)) {
            munmap(blas.held[buffers], blas.share);
            break;
        }
}

static void leave(void) {
    atomic_fetch_sub(&blas.inside, 1);
    sem_post(&blas.gate);
}

void blas_gemm(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
               real *work) {
    if (A.storage != STORED_REAL || B.storage != STORED_REAL) {
        kernels_portable.gemm(out, ldo, A, B, bias, M, N, K, accumulate, work);
        return;
    }
    if (M == 0 || N == 0) return;
    for (int m = 0; m < M && (bias || (K == 0 && !accumulate)); m++) {
        real *out_m = out + (size_t)m * ldo;
        for (int n = 0; n < N; n++) out_m[n] = (accumulate ? out_m[n] : 0) + (bias ? bias[n] : 0);
    }
    if (K == 0) return;
    if (blas.limited) enter();
    blas.gemm(ROW_MAJOR, A.transposed ? TRANSPOSED : AS_STORED, B.transposed ? TRANSPOSED : AS_STORED, M, N, K, 1,
              A.data, (int)A.stride, B.data, (int)B.stride, accumulate || bias, out, (int)ldo);
    if (blas.limited) leave();
}

size_t blas_packed_size(int K, int N) {
    (void)K, (void)N;
    return 0;
}
