/* memory: checked sizes, zeroed blocks, failures on demand. */
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define MAP_FROM ((size_t)1 << 20) /* smaller blocks come from the heap */

#ifdef LLMC_TESTING
#include <stdatomic.h>
static atomic_long fail_at, fail_count, live;

void alloc_fail(long k, long count) {
    atomic_store(&fail_count, count);
    atomic_store(&fail_at, k);
}
long alloc_live(void) { return atomic_load(&live); }

static bool fails(void) {
    if (atomic_load(&fail_at) == 0) return false;
    long left = atomic_fetch_sub(&fail_at, 1);
    if (left > 1) return false;
    atomic_store(&fail_at, 0);
    if (atomic_fetch_sub(&fail_count, 1) > 1) atomic_store(&fail_at, 1);
    return true;
}
static void *counted(void *block) {
    if (block) atomic_fetch_add(&live, 1);
    return block;
}
static void uncount(void) { atomic_fetch_sub(&live, 1); }
#else
static bool fails(void) { return false; }
static void *counted(void *block) { return block; }
static void uncount(void) {}
#endif

bool size_mul(size_t *out, size_t a, size_t b) { return !__builtin_mul_overflow(a, b, out); }
bool size_add(size_t *out, size_t a, size_t b) { return !__builtin_add_overflow(a, b, out); }

void *alloc_array(size_t count, size_t size) {
    if (fails()) return NULL;
    return counted(calloc(count ? count : 1, size ? size : 1)); /* calloc checks the product */
}

void *alloc_grow(void *block, size_t count, size_t size) {
    size_t bytes;
    if (fails() || !size_mul(&bytes, count, size)) return NULL;
    void *grown = realloc(block, bytes ? bytes : 1);
    return block ? grown : counted(grown);
}

void alloc_free(void *block) {
    if (!block) return;
    uncount();
    free(block);
}

/* Mapped blocks are a multiple of the huge page and start on one: the surplus on both sides is given back at once. */
static void *map_aligned(size_t bytes) {
    size_t whole;
    if (!size_add(&whole, bytes, HUGE_PAGE)) return NULL;
    char *raw = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    size_t skip = (HUGE_PAGE - (size_t)raw % HUGE_PAGE) % HUGE_PAGE;
    if (skip) munmap(raw, skip);
    if (HUGE_PAGE - skip) munmap(raw + skip + bytes, HUGE_PAGE - skip);
#ifdef MADV_HUGEPAGE
    madvise(raw + skip, bytes, MADV_HUGEPAGE);
#endif
    return raw + skip;
}

static size_t mapped_size(size_t bytes) {
    size_t rounded;
    if (bytes < MAP_FROM || !size_add(&rounded, bytes, HUGE_PAGE - 1)) return 0;
    return rounded / HUGE_PAGE * HUGE_PAGE;
}

void *alloc_map(size_t bytes) {
    if (fails()) return NULL;
    size_t whole = mapped_size(bytes);
    if (whole) return counted(map_aligned(whole));
    if (bytes >= MAP_FROM) return NULL;
    size_t small = (bytes + 64) / 64 * 64;
    void *block = aligned_alloc(64, small);
    if (block) memset(block, 0, small);
    return counted(block);
}

void alloc_unmap(void *block, size_t bytes) {
    if (!block) return;
    uncount();
    size_t whole = mapped_size(bytes);
    if (whole) munmap(block, whole);
    else free(block);
}
