/* One block serves every family: attention and feed-forward branches on a residual stream.
 *
 * A branch reads the stream (B,T,C), transforms what it read, and gives (B,T,C) back. */
#pragma once
#include "blocks/spec.h"
#include "plan/plan.h"

/* What the blocks of one recording share: the rotary table, and the caches of a generation. */
typedef struct {
    Tensor *rope; /* of this call's positions; NULL without rope */
    Tensor *const *keys, *const *values; /* (B,G,capacity,D) a layer; NULL without a past */
} Memory;

typedef Tensor *(*Branch)(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l);

/* Each enters and leaves the module of its name. */
Tensor *block(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l);
Tensor *self_attention(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l);
Tensor *feed_forward(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l);
Tensor *norm(Plan *p, const Spec *s, Tensor *x, const char *name);
/* Reads the stream into branch f (module `name`) and gives it back. */
Tensor *residual(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l, const char *norm_name, const char *name, Branch f);
