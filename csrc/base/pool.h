/* pool: the process's threads. They spin briefly, then sleep; after a fork they are made anew.
 *
 * A job is `count` independent tasks; which thread runs which is chance, so a task's result may depend on its index
 * alone. `slot` (0 <= slot < slots) tells a task which scratch is its own. When the pool is taken, the caller
 * runs its whole job itself in slot 0: the same bits, later. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* Asked between tasks by the calling thread, at most every 20 ms; true stops the job. */
typedef struct {
    atomic_bool stop;
    bool (*poll)(void *context); /* NULL: never asked */
    void *context;
    double asked; /* seconds, monotonic */
} Cancel;

typedef void (*PoolTask)(void *context, size_t index, int slot);

/* Runs task(context, 0..count-1, slot), slot < slots. False when cancelled: some tasks have not run. */
bool pool_run(size_t count, PoolTask task, void *context, int slots, Cancel *cancel);

/* For a task that takes long, now and then: asks as between tasks where the caller's thread runs it (slot 0). False:
 * the job is to stop, whatever the task has left undone. */
bool pool_going(Cancel *cancel, int slot);

int pool_threads(void);
/* 1 <= n <= POOL_MOST. False when no thread could be started: the old pool stays. Waits for a running job. */
bool pool_set_threads(int n);
#define POOL_MOST 256

/* The processors this process may run on. */
int pool_processors(void);
/* Registers the fork handlers; once, at import. */
void pool_begin(void);
