/* pool: worker threads that take tasks by number. */
#define _GNU_SOURCE
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#define SPINS 4000           /* about 50 microseconds */
#define POLL_SECONDS 0.02

#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#else
#define relax() ((void)0)
#endif

typedef struct {
    PoolTask task;
    void *context;
    size_t count;
    int slots; /* threads beyond these sit the job out */
    Cancel *cancel;
} Job;

typedef struct {
    pthread_t thread;
    int slot;
    unsigned epoch; /* the last job this worker must not run */
} Worker;

static struct {
    pthread_mutex_t owner; /* held by whoever runs a job or changes the pool */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    Worker worker[POOL_MOST]; /* the caller is one more thread */
    int workers;     /* running */
    atomic_int size; /* asked for, the caller included; workers are started at the first job */
    Job job;
    atomic_uint epoch;
    atomic_size_t next;
    atomic_int running, sleepers;
    atomic_bool quit;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

int pool_processors(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* This thread is running a job on the pool: what it is asked meanwhile (a signal handler) must not wait for itself. */
static _Thread_local bool at_work;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool stopped(Cancel *c) { return c && atomic_load_explicit(&c->stop, memory_order_relaxed); }

static void ask(Cancel *c) {
    if (!c || !c->poll) return;
    double t = now();
    if (t - c->asked < POLL_SECONDS) return;
    c->asked = t;
    if (c->poll(c->context)) atomic_store(&c->stop, true);
}

bool pool_going(Cancel *cancel, int slot) {
    if (slot == 0) ask(cancel);
    return !stopped(cancel);
}

static void take_tasks(const Job *job, int slot) {
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (i >= job->count || stopped(job->cancel)) return;
        job->task(job->context, i, slot);
        if (slot == 0) ask(job->cancel);
    }
}

static unsigned wait_for_job(unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        unsigned epoch = atomic_load_explicit(&pool.epoch, memory_order_acquire);
        if (epoch != seen) return epoch;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1);
    while (atomic_load(&pool.epoch) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load(&pool.epoch);
}

static void *work(void *argument) {
    const Worker w = *(Worker *)argument;
    for (unsigned epoch = w.epoch;;) {
        epoch = wait_for_job(epoch);
        if (atomic_load(&pool.quit)) return NULL;
        Job job = pool.job;
        if (w.slot < job.slots) take_tasks(&job, w.slot);
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
}

static void announce(void) {
    atomic_fetch_add(&pool.epoch, 1);
    if (atomic_load(&pool.sleepers) == 0) return;
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
}

static void stop_workers(void) {
    if (!pool.workers) return;
    atomic_store(&pool.quit, true);
    atomic_fetch_add(&pool.epoch, 1);
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
    for (int i = 0; i < pool.workers; i++) pthread_join(pool.worker[i].thread, NULL);
    atomic_store(&pool.quit, false);
    pool.workers = 0;
}

/* Starts what is missing; with fewer threads than asked for the work is done all the same. */
static void start_workers(void) {
    if (pool.workers > pool.size - 1) stop_workers();
    while (pool.workers < pool.size - 1) {
        Worker *w = &pool.worker[pool.workers];
        w->slot = pool.workers + 1;
        w->epoch = atomic_load(&pool.epoch);
        if (pthread_create(&w->thread, NULL, work, w) != 0) return;
        pool.workers++;
    }
}

static bool run_alone(const Job *job) {
    for (size_t i = 0; i < job->count && !stopped(job->cancel); i++) {
        job->task(job->context, i, 0);
        ask(job->cancel);
    }
    return !stopped(job->cancel);
}

bool pool_run(size_t count, PoolTask task, void *context, int slots, Cancel *cancel) {
    Job job = {task, context, count, slots, cancel};
    if (count <= 1 || slots == 1 || pool_threads() == 1 || pthread_mutex_trylock(&pool.owner) != 0) return run_alone(&job);
    start_workers();
    if (pool.workers == 0) {
        pthread_mutex_unlock(&pool.owner);
        return run_alone(&job);
    }
    pool.job = job;
    atomic_store(&pool.next, 0);
    atomic_store(&pool.running, pool.workers);
    at_work = true;
    announce();
    take_tasks(&job, 0);
    for (int i = 0; atomic_load_explicit(&pool.running, memory_order_acquire) > 0; i++) {
        if (i < SPINS) {
            relax();
        } else {
            ask(cancel);
            sched_yield();
        }
    }
    at_work = false;
    pthread_mutex_unlock(&pool.owner);
    return !stopped(cancel);
}

int pool_threads(void) { return atomic_load(&pool.size); }

bool pool_set_threads(int n) {
    if (at_work) { /* the next job starts them */
        pool.size = n;
        return true;
    }
    pthread_mutex_lock(&pool.owner);
    stop_workers();
    pool.size = n;
    start_workers();
    bool all = pool.workers == n - 1;
    if (!all) pool.size = pool.workers + 1;
    pthread_mutex_unlock(&pool.owner);
    return all;
}

/* In a forked child only the forking thread lives on: forget the workers, and start new ones at the next job. */
static void forget_workers(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.workers = 0;
    atomic_store(&pool.running, 0);
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.quit, false);
    if (!at_work) return;
    pthread_mutex_lock(&pool.owner); /* forked by a signal handler: the job lacks what the other threads took */
    if (pool.job.cancel) atomic_store(&pool.job.cancel->stop, true);
}

void pool_begin(void) {
    if (pool.size) return;
    pool.size = pool_processors();
    if (pool.size > POOL_MOST) pool.size = POOL_MOST;
    pthread_atfork(NULL, NULL, forget_workers);
}
