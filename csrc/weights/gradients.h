/* Gradients: those of the trainable parameters, by slot; several runs may share one. */
#pragma once
#include "weights/weights.h"

typedef enum {
    GRADIENTS_NONE, /* nothing is held: what lies there counts as zero, and the next writer overwrites it */
    GRADIENTS_HELD, /* a sum */
    GRADIENTS_VOID, /* a backward pass was stopped half-way */
} GradientsState;

typedef struct {
    Arena *arena;
    atomic_int references;
    GradientsState state;
    size_t targets; /* that the sum is of */
} Gradients;

Gradients *gradients_new(const Weights *w); /* NULL: no memory */
Gradients *gradients_retain(Gradients *g);
void gradients_release(Gradients *g);
void gradients_clear(Gradients *g); /* costs nothing: what is there counts as zero */
/* May a backward pass add to them? False: see e (g NULL: the run keeps none; or they are void). */
bool gradients_take_more(const Gradients *g, Error *e);
