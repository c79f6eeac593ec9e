/* real: the number the core computes with.
 * The core compiles twice: float to use, double (-DLLMC_DOUBLE) to be checked against slopes. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#ifdef LLMC_DOUBLE
typedef double real;
#define REAL_NAME "double"
#else
typedef float real;
#define REAL_NAME "float"
#endif
