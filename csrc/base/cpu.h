/* cpu: what the processor, and the operating system that runs it, can do. */
#pragma once
#include <stdbool.h>

/* "portable" (always true), "avx2" (with FMA and F16C), "avx512" (F, BW, VL, DQ, and all of avx2), "avx512_bf16"
 * (BF16 and VNNI), "amx_bf16"; false for any other name. True means usable: the operating system keeps the registers,
 * too. */
bool cpu_has(const char *isa);

/* The name the processor gives itself; "unknown" where it cannot be asked. Lives as long as the calling thread. */
const char *cpu_brand(void);
