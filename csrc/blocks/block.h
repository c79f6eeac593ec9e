/* One block serves every family: attention and feed-forward branches on a residual stream.
 *
 * A branch reads the stream (B,T,C), transforms what it read, and gives (B,T,C) back. Where the residual is hyper, the
 * stream is S of them, (B,T,S*C), and what a branch reads is a mixture. */
#pragma once
#include "blocks/spec.h"
#include "plan/plan.h"

/* What is known of the positions of a call and of those before it. */
typedef struct {
    Tensor **rotary;                     /* tables of this call's positions; NULL without rope */
    Tensor *const *keys, *const *values; /* (B,G,capacity,D) a layer; NULL without a past */
} Past;

/* What layers offer those behind them, L each; NULL: that layer makes no offer. */
typedef struct {
    Tensor **keys, **values;   /* (B,T,G*D), before positions turn them */
    Tensor **streams, **rstds; /* what enters the layer (B,T,C), and its statistic */
} Memory;

typedef Tensor *(*Branch)(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l);

/* Each enters and leaves the module of its name. */
Tensor *block(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l);
Tensor *self_attention(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l);
Tensor *feed_forward(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l);
/* Of a memory whose heads read mixtures. What they read and how much of it: recorded on the layer, beside its norms. */
Mixed mixture_of(Plan *p, const Spec *s, const Memory *memory, int l);
/* Keys and values, from within the attention. */
void mixed_heads(Plan *p, const Spec *s, Mixed m, Tensor **k, Tensor **v);
static inline bool reads_mixtures(const Spec *s, int l) {
    return l > 0 && (s->memory == MEMORY_STATIC || s->memory == MEMORY_DYNAMIC);
}
/* x itself where the family names no such norm. */
Tensor *norm(Plan *p, const Spec *s, Tensor *x, Part part);

/* A branch, what connects it to several streams, and where its norms stand. */
typedef struct {
    Part part, connection, norm_in, norm_out, norm_sum;
    Branch branch;
} Site;
extern const Site ATTENTION, FEED_FORWARD;

/* Reads the stream into a branch and gives it back. */
Tensor *residual(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l, const Site *site);
/* The same of a plain stream, of what `read` is instead of the stream itself. */
Tensor *rejoined(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, Tensor *read, int l,
                 const Site *site);
