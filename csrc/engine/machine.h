/* machine: what this machine can do at best, measured on the pool's threads with the kernels in use. */
#pragma once
#include "base/error.h"
#include "base/pool.h"

/* Measures for about `seconds`, and gives the best rate seen:
 *   "multiply_add"  float32 operations a second, from registers
 *   "bfloat16"      the same with bfloat16 products; 0 where the kernels in use have none
 *   "read"          bytes a second, from memory
 *   "copy"          bytes a second, read and written both counted
 * False: see e. */
bool machine_measure(const char *what, double seconds, double *rate, Error *e, Cancel *cancel);
