/* Adapter: low-rank branches beside linears (Hu et al., 2021), and copies that are read in a parameter's stead. */
#pragma once
#include "weights/parameters.h"

/* y += scale * B(A(dropout(x))) for the linear `module`. */
typedef struct {
    const char *module;
    Part part; /* of the linear; the adapter finds it */
    int rank;
    real scale, dropout;
} LowRank;

typedef struct {
    char *name;
    Parameters parameters; /* A and B of every pair in turn, then the copies */
    LowRank *pairs;        /* their names are the adapter's own */
    int pair_count;
    NameIndex modules;     /* of the pairs */
    int *copied;           /* indices of base parameters; copy i is parameters.items[2*pair_count + i] */
    int copy_count;
    bool active, trainable;
} Adapter;

static inline Parameter *adapter_A(const Adapter *a, int pair) { return &a->parameters.items[2 * pair]; }
static inline Parameter *adapter_B(const Adapter *a, int pair) { return &a->parameters.items[2 * pair + 1]; }
static inline Parameter *adapter_copy(const Adapter *a, int i) { return &a->parameters.items[2 * a->pair_count + i]; }

/* Its pair beside the linear `module`; -1: it has none. */
static inline int adapter_pair(const Adapter *a, const char *module) { return names_find(&a->modules, module); }

/* A new, zero adapter for the linears and parameters of base; copies are filled. NULL: see e (no such linear, no such
 * parameter, an impossible rank, no memory). It is not yet in use. */
Adapter *adapter_new(const Parameters *base, const char *name, const LowRank *pairs, int pair_count,
                     const char *const *copies, int copy_count, Error *e);
void adapter_free(Adapter *a); /* NULL is fine */
