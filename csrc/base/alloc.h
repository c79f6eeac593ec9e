/* memory: the only door to malloc, so that sizes are checked in one place and a test can make any allocation fail. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Products and sums of sizes; false (and *out untouched) when they do not fit in size_t. */
bool size_mul(size_t *out, size_t a, size_t b);
bool size_add(size_t *out, size_t a, size_t b);

/* count*size bytes, zeroed; NULL when there is no memory or the product does not fit. Release with alloc_free. */
void *alloc_array(size_t count, size_t size);
/* Grows to count*size bytes, keeping the contents; NULL leaves the old block valid. New bytes are not zeroed. */
void *alloc_grow(void *block, size_t count, size_t size);
void alloc_free(void *block);

/* Large zeroed blocks, 64-byte aligned, on huge pages where the system gives them; NULL when there is no memory. */
void *alloc_map(size_t bytes);
void alloc_unmap(void *block, size_t bytes);

#ifdef LLMC_TESTING
/* The k-th allocation from now on fails (k = 1: the next), and `count` of them; k = 0: none. */
void alloc_fail(long k, long count);
/* Blocks taken and not yet given back. */
long alloc_live(void);
#endif
