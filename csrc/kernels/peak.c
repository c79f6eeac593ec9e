/* Peak: what one thread can do at best, to measure everything else by. Each returns a number that depends on all of its
 * work, so that the compiler keeps it.
 *
 *   peak_multiply_add   rounds * PEAK_MULTIPLY_ADD_FLOPS of multiply-adds that never leave the registers
 *   peak_bfloat16       rounds * PEAK_BFLOAT16_FLOPS of bfloat16 products; 0 and 0 where there is no such instruction
 *   peak_read           n reals read once, as four streams */
#include "kernels/lane_sum.h"
#include "kernels/kernels.h"

#define CHAINS 12 /* independent sums: enough to hide the latency, few enough for sixteen registers */
#define PEAK_MULTIPLY_ADD_FLOPS (2 * CHAINS * VECTOR_BYTES / sizeof(real))

/* factor below 1: the chains settle at shift / (1 - factor), far from every slow number */
static real peak_multiply_add(size_t rounds, real factor, real shift) {
    vreal sum[CHAINS], total = {0};
    for (int i = 0; i < CHAINS; i++) sum[i] = total + i * shift; /* equal chains would be computed once */
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + shift;
    }
    for (int i = 0; i < CHAINS; i++) total += sum[i];
    return lanes_total(total);
}

#ifdef LLMC_BFLOAT16
#define PEAK_BFLOAT16_FLOPS (PER_UNIT * PEAK_MULTIPLY_ADD_FLOPS)

static real peak_bfloat16(size_t rounds, real value) {
    unit pair;
    const uint16_t halves[2] = {bfloat16_round(value), bfloat16_round(value)};
    memcpy(&pair, halves, sizeof pair);
    uint32_t pairs __attribute__((vector_size(VECTOR_BYTES)));
    for (int i = 0; i < WIDTH; i++) pairs[i] = pair;
    vreal sum[CHAINS], total = {0};
    for (int i = 0; i < CHAINS; i++) sum[i] = total + (real)i; /* equal chains would be computed once */
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = multiply_add(sum[i], pair, (vreal)pairs);
    }
    for (int i = 0; i < CHAINS; i++) total += sum[i];
    return lanes_total(total);
}
#else
#define PEAK_BFLOAT16_FLOPS 0

static real peak_bfloat16(size_t rounds, real value) {
    (void)rounds, (void)value;
    return 0;
}
#endif

#define STREAMS 4
#define LINE_BYTES 64
#define LINE (LINE_BYTES / sizeof(real))
#define AHEAD (16 * LINE) /* reals between a read and what is fetched meanwhile */

ALWAYS_INLINE vreal peak_line(const real *x) {
    vreal sum = {0};
    for (size_t i = 0; i < LINE; i += VECTOR_BYTES / sizeof(real)) sum += *(const vreal *)(x + i);
    return sum;
}

/* x is aligned to a line, n a multiple of STREAMS * LINE */
static real peak_read(const real *x, size_t n) {
    const size_t each = n / STREAMS;
    vreal sum[STREAMS] = {0};
    for (size_t i = 0; i < each; i += LINE) {
#pragma GCC unroll 4
        for (int s = 0; s < STREAMS; s++) {
            const real *at = x + (size_t)s * each + i;
            __builtin_prefetch(at + AHEAD);
            sum[s] += peak_line(at);
        }
    }
    return lanes_total((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
