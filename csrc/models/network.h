/* network: records a whole model, text to logits or losses, for the plan's B and T. */
#pragma once
#include "blocks/block.h"

/* What one recording is to give. */
typedef struct {
    bool losses;    /* against the call's targets */
    bool logits;    /* formed also when nobody keeps lm_head */
    int last;       /* logits of the last positions alone; 0: of all */
    Tensor **keys, **values; /* one a layer, NULL without a past */
} Request;

typedef struct {
    Tensor *logits, *losses; /* NULL: not recorded */
} Result;

Result network(Plan *p, const Spec *s, const Request *w);
