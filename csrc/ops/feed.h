/* feed: what changes from call to call without a new recording. Whoever replays a plan of these ops gives it one, as
 * Exec's feed. */
#pragma once
#include "plan/op.h"

/* Frequencies of rotary positions: position t turns pair i by t * inv_freq[i]; the table's numbers are times factor. */
typedef struct {
    const real *inv_freq; /* (D/2) */
    real factor;
} Rotary;

typedef struct {
    const int32_t *ids;        /* (B,T) */
    const int32_t *targets;    /* (B,T), already shifted; negative: ignored. NULL: no loss */
    const int32_t *positions;  /* (B,T) */
    const uint8_t *mask; /* (B,positions), of the past too, row stride mask_stride; NULL: everything may be seen */
    size_t mask_stride;
    const Rotary *rotary;      /* as many as rope_table was told of */
    int past;                  /* positions before this call's */
    const int32_t *first;      /* a layer: the first position that its cache holds */
    double items;              /* divides the summed loss */
    uint64_t seed, update, micro; /* of dropout: the run's seed, the optimizer step, the micro-batch */
} Feed;

static inline const Feed *feed_of(const Exec *x) { return x->feed; }
