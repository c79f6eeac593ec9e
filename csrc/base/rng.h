/* Random numbers as a function of a key and an index: no state, so any thread may ask for any element in any order.
 *
 * The generator is squares32 (B. Widynski, "Squares: A Fast Counter-Based RNG", 2020): four rounds of squaring, which
 * passes BigCrush and PractRand. A loop over consecutive indices vectorises. */
#pragma once
#include "base/real.h"

/* Bijective mixing of 64 bits (the finaliser of SplitMix64). */
static inline uint64_t rng_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* The key of one tensor's numbers: `stream` tells micro-batches apart. Odd, as squares32 asks. */
static inline uint64_t rng_key(uint64_t seed, uint64_t step, uint64_t stream, uint64_t tensor) {
    const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t key = rng_mix(seed + golden);
    key = rng_mix(key + golden + step);
    key = rng_mix(key + golden + stream);
    key = rng_mix(key + golden + tensor);
    return key | 1;
}

/* 32 random bits */
static inline uint32_t rng_bits(uint64_t key, uint64_t index) {
    uint64_t y = index * key, z = y + key, x = y;
    x = x * x + y;
    x = (x >> 32) | (x << 32);
    x = x * x + z;
    x = (x >> 32) | (x << 32);
    x = x * x + y;
    x = (x >> 32) | (x << 32);
    return (uint32_t)((x * x + z) >> 32);
}

/* A multiple of 2^-24 in [0, 1): the same number in float and in double. */
static inline real rng_uniform(uint64_t key, uint64_t index) {
    return (real)(int32_t)(rng_bits(key, index) >> 8) * (real)0x1p-24;
}
