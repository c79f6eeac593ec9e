/* pool: worker threads that take tasks by number. */
#define _GNU_SOURCE
#include "base/pool.h"

#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#define SPINS 16000          /* about 200 microseconds: the time between two tokens */
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
    Cancel *cancel;
} Job;

typedef struct {
    pthread_t thread;
    int slot;
} Worker;

/* A job's tasks are handed out by a ticket: the job's number above, the tasks nobody has taken below. Whoever takes one
 * finds the job as it was announced, since a job ends only when its last task is done; whoever comes late finds nothing
 * left, and nobody waits for it. */
static struct {
    pthread_mutex_t owner; /* held by whoever runs a job or changes the pool */
    pthread_mutex_t sleep;
    pthread_cond_t wake;
    Worker worker[POOL_MOST]; /* the caller is one more thread */
    int workers;     /* running */
    atomic_int size; /* asked for, the caller included; workers are started at the first job */
    Job job;
    atomic_int slots;            /* threads beyond these sit the job out */
    _Atomic uint64_t ticket;
    _Atomic int64_t outstanding; /* tasks not yet done */
    atomic_int sleepers;
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

static bool stopped(Cancel *c) { return c && atomic_load_explicit(&c->stop, memory_order_relaxed); }

static void ask(Cancel *c) {
    if (!c || !c->poll || stopped(c)) return;
    double t = clock_seconds();
    if (t - c->asked < POLL_SECONDS) return;
    c->asked = t;
    if (c->poll(c->context)) atomic_store(&c->stop, true);
}

bool pool_going(Cancel *cancel, int slot) {
    if (slot == 0) ask(cancel);
    return !stopped(cancel);
}

static uint32_t left_in(uint64_t ticket) { return (uint32_t)ticket; }

/* A task's index; false when none is left for this slot. */
static bool take(int slot, size_t *index) {
    uint64_t ticket = atomic_load(&pool.ticket);
    do {
        if (left_in(ticket) == 0 || slot >= atomic_load(&pool.slots)) return false;
    } while (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket - 1));
    *index = pool.job.count - left_in(ticket);
    return true;
}

static void take_tasks(int slot) {
    size_t index;
    while (take(slot, &index)) {
        Cancel *cancel = pool.job.cancel;
        if (!stopped(cancel)) pool.job.task(pool.job.context, index, slot);
        if (slot == 0) ask(cancel);
        atomic_fetch_sub(&pool.outstanding, 1); /* the job may end now: it is not looked at again */
    }
}

static bool wanted_at(int slot) {
    return atomic_load(&pool.quit) || (left_in(atomic_load(&pool.ticket)) > 0 && slot < atomic_load(&pool.slots));
}

static void wait_for_job(int slot) {
    for (int i = 0; i < SPINS; i++) {
        if (wanted_at(slot)) return;
        relax();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1);
    while (!wanted_at(slot)) pthread_cond_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.sleep);
}

static void *work(void *argument) {
    const int slot = ((const Worker *)argument)->slot;
    for (;;) {
        wait_for_job(slot);
        if (atomic_load(&pool.quit)) return NULL;
        take_tasks(slot);
    }
}

static void wake_all(void) {
    if (atomic_load(&pool.sleepers) == 0) return;
    pthread_mutex_lock(&pool.sleep);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
}

/* The ticket comes last: it is what lets others in. */
static void announce(const Job *job, int slots) {
    pool.job = *job;
    atomic_store(&pool.slots, slots);
    atomic_store(&pool.outstanding, (int64_t)job->count);
    uint64_t number = (atomic_load(&pool.ticket) >> 32) + 1;
    atomic_store(&pool.ticket, number << 32 | (uint64_t)job->count);
    wake_all();
}

static void stop_workers(void) {
    if (!pool.workers) return;
    atomic_store(&pool.quit, true);
    wake_all();
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
    Job job = {task, context, count, cancel};
    bool few = count <= 1 || count > UINT32_MAX || slots == 1 || pool_threads() == 1;
    if (few || pthread_mutex_trylock(&pool.owner) != 0) return run_alone(&job);
    start_workers();
    if (pool.workers == 0) {
        pthread_mutex_unlock(&pool.owner);
        return run_alone(&job);
    }
    at_work = true;
    announce(&job, slots);
    take_tasks(0);
    for (int i = 0; atomic_load(&pool.outstanding) > 0; i++) {
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
    atomic_store(&pool.ticket, 0);
    atomic_store(&pool.outstanding, 0); /* nobody is left to do what others took */
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
