/* estimate: what a run would take, before it takes it. */
#pragma once
#include "runs/run.h"

typedef struct {
    size_t parameters, gradients, moments, activations, cache; /* bytes; moments: of an AdamW */
    double forward_flops, backward_flops;
} Estimate;

/* What a run of these options would take, without taking it. False: see e. */
bool run_estimate(const Model *m, const RunOptions *o, Estimate *out, Error *e);
