/* recording: a run's plan for one pass, and the memory it is bound to. */
#pragma once
#include "runs/run.h"

/* Those of the model's precision, or with float32 products where the run asks for them. */
const Kernels *recording_kernels(const Run *r);
/* Records and finishes the plan, for its sizes alone; see its error. */
void recording_write(Run *r, const Pass *c);
/* Makes the run's plan, its memory and its scratch those of a pass; the last recording stands where it serves.
 * False: see e. */
bool recording_make(Run *r, const Pass *c, Error *e);
