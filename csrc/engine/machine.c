/* machine: a job of many short tasks is timed again and again; the best time is the machine's, the rest are others'. */
#include "engine/machine.h"

#include "base/clock.h"
#include "base/alloc.h"
#include "engine/engine.h"

#include <string.h>

#define TASKS_EACH 16                      /* a thread, so that none waits long for the others */
#define ROUNDS ((size_t)1 << 14)           /* a task; well under a millisecond */
#define PORTION ((size_t)4 << 20)          /* bytes a task */
#define BLOCK_BYTES ((size_t)256 << 20)    /* several times any last cache */
#define SOME_NUMBER ((real)0.5)

typedef struct {
    const Kernels *k;
    char *block;
    volatile real result; /* nobody reads it; it keeps the work from being left out */
} Single;

static void multiply_add(void *context, size_t index, int slot) {
    (void)index, (void)slot;
    Single *b = context;
    b->result = b->k->peak_multiply_add(ROUNDS, SOME_NUMBER, SOME_NUMBER);
}

static void bfloat16(void *context, size_t index, int slot) {
    (void)index, (void)slot;
    Single *b = context;
    b->result = b->k->peak_bfloat16(ROUNDS, SOME_NUMBER);
}

static void read_portion(void *context, size_t index, int slot) {
    (void)slot;
    Single *b = context;
    b->result = b->k->peak_read((const real *)(const void *)(b->block + index * PORTION), PORTION / sizeof(real));
}

/* From one half of the block to the other. */
static void copy_portion(void *context, size_t index, int slot) {
    (void)slot;
    Single *b = context;
    char *from = b->block + index * PORTION;
    memcpy(from + BLOCK_BYTES / 2, from, PORTION);
}

/* Memory that was never written has no place of its own yet. */
static void write_portion(void *context, size_t index, int slot) {
    (void)slot;
    Single *b = context;
    memset(b->block + index * PORTION, 1, PORTION);
}

typedef struct {
    const char *what;
    PoolTask task;
    bool in_memory;
    double units;  /* a task */
    size_t tasks;  /* a job */
} Measure;

static bool measure(Single *b, const Measure *m, double seconds, double *rate, Cancel *cancel) {
    int slots = pool_threads();
    double begun = clock_seconds(), now = begun;
    do {
        double start = clock_seconds();
        if (!pool_run(m->tasks, m->task, b, slots, cancel)) return false;
        now = clock_seconds();
        double reached = m->units * (double)m->tasks / (now - start);
        if (reached > *rate) *rate = reached;
    } while (now - begun < seconds);
    return true;
}

static bool measure_memory(Single *b, const Measure *m, double seconds, double *rate, Error *e, Cancel *cancel) {
    b->block = alloc_map(BLOCK_BYTES);
    if (!b->block) {
        error_set(e, ERROR_MEMORY, "measuring '%s' takes %zu bytes", m->what, BLOCK_BYTES);
        return false;
    }
    bool going = pool_run(BLOCK_BYTES / PORTION, write_portion, b, pool_threads(), cancel) &&
                 measure(b, m, seconds, rate, cancel);
    alloc_unmap(b->block, BLOCK_BYTES);
    return going;
}

bool machine_measure(const char *what, double seconds, double *rate, Error *e, Cancel *cancel) {
    Single b = {.k = engine_kernels(PRECISION_BFLOAT16)}; /* every kind of product */
    size_t tasks = (size_t)pool_threads() * TASKS_EACH;
    const Measure all[] = {
        {"multiply_add", multiply_add, false, (double)ROUNDS * (double)b.k->peak_multiply_add_flops, tasks},
        {"bfloat16", bfloat16, false, (double)ROUNDS * (double)b.k->peak_bfloat16_flops, tasks},
        {"read", read_portion, true, PORTION, BLOCK_BYTES / PORTION},
        {"copy", copy_portion, true, 2 * PORTION, BLOCK_BYTES / PORTION / 2},
    };
    *rate = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const Measure *m = &all[i];
        if (strcmp(m->what, what) != 0) continue;
        if (m->units == 0) return true;
        bool going =
            m->in_memory ? measure_memory(&b, m, seconds, rate, e, cancel) : measure(&b, m, seconds, rate, cancel);
        if (!going && e->code == FINE) error_set(e, ERROR_CANCELLED, "interrupted");
        return going;
    }
    error_set(e, ERROR_NAME, "there is no measure '%.100s': multiply_add, bfloat16, read and copy are measured", what);
    return false;
}
