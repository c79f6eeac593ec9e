/* cpu: asks the processor with CPUID and XGETBV; on other architectures only "portable" is there. */
#include "base/cpu.h"

#include <string.h>

#if defined __x86_64__ || defined __i386__
#include <cpuid.h>

typedef struct {
    unsigned a, b, c, d;
} Leaf;

static Leaf leaf(unsigned number, unsigned part) {
    Leaf l = {0, 0, 0, 0};
    if (!__get_cpuid_count(number, part, &l.a, &l.b, &l.c, &l.d)) return (Leaf){0, 0, 0, 0};
    return l;
}

static bool bits(unsigned word, unsigned wanted) { return (word & wanted) == wanted; }

/* The register states that the operating system saves. */
static unsigned saved_states(void) {
    if (!bits(leaf(1, 0).c, 1u << 27)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

enum { STATE_AVX = 0x6, STATE_AVX512 = 0xe6, STATE_AMX = 0x60000 };
enum { FMA = 1 << 12, AVX = 1 << 28, F16C = 1 << 29 };                         /* leaf 1, ecx */
enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* leaf 7, ebx */
#define AVX512VL (1u << 31)
enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 }; /* leaf 7, edx */
enum { AVX512_VNNI = 1 << 11 };                  /* leaf 7, ecx */
enum { AVX512_BF16 = 1 << 5 };                   /* leaf 7.1, eax */

static bool has_avx2(void) {
    return bits(leaf(1, 0).c, FMA | AVX | F16C) && bits(leaf(7, 0).b, AVX2) && bits(saved_states(), STATE_AVX);
}

static bool has_avx512(void) {
    return has_avx2() && bits(leaf(7, 0).b, AVX512F | AVX512DQ | AVX512BW | AVX512VL) &&
           bits(saved_states(), STATE_AVX512);
}

static bool has(const char *isa) {
    if (strcmp(isa, "avx2") == 0) return has_avx2();
    if (strcmp(isa, "avx512") == 0) return has_avx512();
    if (strcmp(isa, "avx512_bf16") == 0)
        return has_avx512() && bits(leaf(7, 1).a, AVX512_BF16) && bits(leaf(7, 0).c, AVX512_VNNI);
    if (strcmp(isa, "amx_bf16") == 0) return bits(leaf(7, 0).d, AMX_BF16 | AMX_TILE) && bits(saved_states(), STATE_AMX);
    return false;
}

const char *cpu_brand(void) {
    static _Thread_local char brand[49];
    if (leaf(0x80000000u, 0).a < 0x80000004u) return "unknown";
    for (unsigned i = 0; i < 3; i++) {
        Leaf l = leaf(0x80000002u + i, 0);
        memcpy(brand + 16 * i, &l, 16);
    }
    size_t n = strlen(brand);
    while (n > 0 && brand[n - 1] == ' ') brand[--n] = 0;
    return brand + strspn(brand, " ");
}

#else

static bool has(const char *isa) {
    (void)isa;
    return false;
}

const char *cpu_brand(void) { return "unknown"; }

#endif

bool cpu_has(const char *isa) { return strcmp(isa, "portable") == 0 || has(isa); }
