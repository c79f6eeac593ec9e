/* Gradients: those of the trainable parameters, by slot; several runs may share one. */
#pragma once
#include "weights/weights.h"

typedef struct {
    Arena *arena;
    atomic_int references;
    bool held;        /* holds a sum; false: the next writer overwrites */
    bool interrupted; /* a backward pass was stopped half-way: void until cleared */
    bool busy;        /* a run that shares them is writing: whoever calls the core from several threads keeps this */
} Gradients;

Gradients *gradients_new(const Weights *w); /* NULL: no memory */
Gradients *gradients_retain(Gradients *g);
void gradients_release(Gradients *g);
void gradients_clear(Gradients *g); /* costs nothing: what is there counts as zero */
