/* The pool: every task runs once, whichever threads there are; it can be cancelled, resized in use, shared and forked;
 * and a training step has the same bits at any number of threads. */
#include "harness.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define TASKS 500

typedef struct {
    atomic_int done[TASKS];
    int slots;
} Marks;

static void mark(void *context, size_t index, int slot) {
    Marks *m = context;
    CHECK(slot >= 0 && slot < m->slots, "slot %d of %d", slot, m->slots);
    atomic_fetch_add(&m->done[index], 1);
}

static void run_marks(int slots) {
    Marks m = {.slots = slots};
    CHECK(pool_run(TASKS, mark, &m, slots, NULL), "cancelled by nobody");
    for (int i = 0; i < TASKS; i++) CHECK(m.done[i] == 1, "task %d ran %d times", i, m.done[i]);
}

static bool set_threads_from_inside(void *context) {
    (void)context;
    CHECK(pool_set_threads(3), "from inside a job");
    return false;
}

static void slow(void *context, size_t index, int slot) {
    (void)context, (void)index, (void)slot;
    usleep(200);
}

static bool enough(void *context) {
    return ++*(int *)context == 2;
}

static void check_cancel(void) {
    int asked = 0;
    Cancel c = {.poll = enough, .context = &asked};
    CHECK(!pool_run(100000, slow, NULL, POOL_MOST, &c) && asked == 2, "asked %d times", asked);
    Cancel inside = {.poll = set_threads_from_inside};
    CHECK(pool_run(200, slow, NULL, POOL_MOST, &inside) && pool_threads() == 3, "%d threads", pool_threads());
    run_marks(POOL_MOST);
}

static void *many_marks(void *context) {
    (void)context;
    for (int i = 0; i < 60; i++) run_marks(1 + i % 4);
    return NULL;
}

static void *many_sizes(void *context) {
    (void)context;
    for (int i = 0; i < 60; i++) CHECK(pool_set_threads(1 + i % 4), "%d", i);
    return NULL;
}

static void check_company(void) {
    pthread_t threads[3];
    pthread_create(&threads[0], NULL, many_marks, NULL);
    pthread_create(&threads[1], NULL, many_marks, NULL);
    pthread_create(&threads[2], NULL, many_sizes, NULL);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

void test_fork(void) {
    pool_set_threads(3);
    run_marks(POOL_MOST);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
        run_marks(POOL_MOST);
        pool_set_threads(4);
        run_marks(POOL_MOST);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    run_marks(POOL_MOST);
}

static void check_bits(void) {
    Model m;
    tiny_model(&m, "mistral");
    real *first = NULL;
    for (int threads = 1; threads <= 4; threads++) {
        CHECK(pool_set_threads(threads), "%d", threads);
        Run r;
        make_run(&r, &m, (RunOptions){.batch = 3, .length = 40, .backward = true, .dropout = true});
        Pass p = {.B = 3, .T = 40, .losses = true};
        forward(&r, &p, 2);
        CHECK(run_backward(&r, NULL), "%d", threads);
        if (!first) {
            first = malloc(m.weights.trained * sizeof *first);
            memcpy(first, r.gradients->arena->data, m.weights.trained * sizeof *first);
        }
        CHECK(same(first, r.gradients->arena->data, m.weights.trained), "%d threads give other bits", threads);
        run_free(&r);
    }
    free(first);
    model_free(&m);
}

void test_pool(void) {
    int threads = pool_threads();
    for (int n = 1; n <= 4; n++) {
        CHECK(pool_set_threads(n) && pool_threads() == n, "%d threads", n);
        for (int slots = 1; slots <= 5; slots++) run_marks(slots);
    }
    check_cancel();
    check_company();
    check_bits();
    CHECK(pool_set_threads(threads), "%d", threads);
    run_marks(POOL_MOST);
}
