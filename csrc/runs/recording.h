/* recording: a run's plan for one call. */
#pragma once
#include "runs/run.h"

/* The text that tells one recording from another; release with memory_free. NULL: no memory. */
char *recording_key(const Run *r, const Call *c);
/* Those of the model's precision, or with float32 products where the run asks for them. */
const Kernels *recording_kernels(const Run *r);
/* Records and finishes the plan; see its error. */
void record_call(Run *r, const Call *c);
