/* The recording functions: each is the bare word one would draw, checks shapes, and appends one step.
 *
 * They take weights from the module being recorded (parameter "weight", "bias" of p->path). Shapes: B batch, T time,
 * C width. A recording function that fails leaves its reason in the plan's error and returns the plan's `nowhere`. */
#pragma once
#include "kernels/kernels.h"
#include "ops/feed.h"
#include "plan/plan.h"

/* op_embed.c   (B,T,C): rows of `weight` (rows,C), chosen by the ids of the call or by its positions;
 * row `padding` gets no gradient (-1: all do) */
typedef enum { BY_IDS, BY_POSITIONS } EmbedBy;
Tensor *embed(Plan *p, int rows, int C, EmbedBy by, int padding);

/* op_norm.c   x (…,C) -> (…,C) */
Tensor *layernorm(Plan *p, Tensor *x, real eps);
Tensor *bare_layernorm(Plan *p, Tensor *x, real eps); /* without weights */
Tensor *rmsnorm(Plan *p, Tensor *x, real eps);
/* (N): 1 / sqrt(mean(x^2) + eps) of every row. No gradient passes: who reads it gives x that of the way through it. */
Tensor *reciprocal_rms(Plan *p, Tensor *x, real eps);

/* op_linear.c   x (…,I) -> (…,O).   weight (O,I), or (I,O) as the file says when in_out; bias (O) or NULL */
Tensor *multiply(Plan *p, Tensor *x, Tensor *weight, Tensor *bias, bool in_out);
/* Submodules of the module being recorded that read the same x, as many as there are, in one step; what adapts each
 * comes after it. Either all of their outputs or none lie on a way to the loss. */
typedef struct {
    Part part;
    const char *name;
    int outputs;
} Linear;
void linears(Plan *p, Tensor *x, int count, const Linear *to, bool bias, bool in_out, Tensor **out);

/* op_lora.c   y (…,O) + scale * (x A^T) B^T.   x (…,I), A (R,I), B (O,R) */
Tensor *low_rank(Plan *p, Tensor *x, Tensor *a, Tensor *b, Tensor *y, real scale);

/* op_observe.c   six sums a row over what a module read and what it gave: (…,6); NULL when their rows do not match */
#define OBSERVED 6
Tensor *observe(Plan *p, Tensor *x, Tensor *y);

/* op_rope.c   the table of cosines and sines (B,T,D) of the call's positions, by the feed's rotary[which]; rope turns
 * every head of x (B,T,heads*D) by it */
Tensor *rope_table(Plan *p, int D, int which);
Tensor *rope(Plan *p, Tensor *x, Tensor *table, int heads, int D);

/* op_route.c   the last offer's shape: head g of it is sum_{j,c} weight[g, j*G + c] * head c of the offer of layer j.
 * weight (G, layers*G), offers (B,T,G*D) of every layer up to this one, the last; NULL: that layer makes none */
Tensor *route(Plan *p, Tensor *weight, Tensor *const *offers, int layers, int G, int D);

/* op_streams.c   S copies of x (B,T,C) side by side: (B,T,S*C), the residual of Hyper-Connections; their sum. x itself
 * where S is 1 */
Tensor *spread(Plan *p, Tensor *x, int S);
Tensor *gather(Plan *p, Tensor *streams, int S);

/* op_hyper.c   width: what a branch reads of streams (B,T,S*C), how they go on, and how much of what the branch gives
 * each of them takes, by "static_beta" (S), "static_alpha" (S,S+1) and, when dynamic, "dynamic_alpha_fn" (C,S+1),
 * "dynamic_alpha_scale" (1), "dynamic_beta_fn" (C), "dynamic_beta_scale" (1). depth: streams + beta times y (B,T,C) */
typedef struct {
    Tensor *read, *streams, *beta; /* (B,T,C), (B,T,S*C), (B,T,S) */
} Connection;
Connection hyper_width(Plan *p, Tensor *streams, int S, bool dynamic, real eps);
Tensor *hyper_depth(Plan *p, Tensor *streams, Tensor *y, Tensor *beta);
/* op_mixture.c   linears (H*D,C) whose every head reads a mixture of its own of the normalised streams, each (…,H*D).
 * weights (H,layers), or (…,H*layers) where they depend on the token; gain (C); streams (…,C) and their statistics
 * (see reciprocal_rms), NULL of a layer that offers none; the last one does. Either all outputs or none lie on a way to
 * the loss. */
typedef struct {
    Tensor *weights, *gain, *const *streams, *const *rstds;
    int layers, H, D;
} Mixed;
void mixture(Plan *p, Mixed m, int count, Tensor *const *linears, Tensor **out);

/* op_retrieve.c   logits or weights of heads that read `layers` representations, (H,layers) or (…,H*layers): softmax
 * over those that are offered (not NULL); the smallest set of the largest whose sum exceeds top_p, made to sum to 1 */
Tensor *softmax_offered(Plan *p, Tensor *logits, Tensor *const *offers, int layers);
Tensor *prune(Plan *p, Tensor *weights, int layers, real top_p);

/* op_cache.c   appends k (B,T,G*D) after the past in `cache` (B,G,capacity,D) of a layer and gives the cache */
Tensor *remember(Plan *p, Tensor *k, Tensor *cache, int layer);

/* op_attend.c   q (B,T,H*D), k and v (B,T,G*D), or a cache (B,G,capacity,D) -> (B,T,H*D) */
typedef struct {
    int H, G, D, window; /* window 0: none */
    int layer;           /* whose cache it reads */
    bool cached;         /* k and v are a cache: the keys that it holds count, and those of this call */
    bool causal;
    real scale, dropout;
} AttendAttributes;
Tensor *attend(Plan *p, Tensor *q, Tensor *k, Tensor *v, AttendAttributes n, Tensor **pattern);
/* The same in two steps, for a pattern (B,H,T,keys) that is written into in between: mix multiplies what stands there.
 * Its gradient and that of v are had; q and k, which it does not read, get zeros. */
Tensor *attention_pattern(Plan *p, Tensor *q, Tensor *k, AttendAttributes n);
Tensor *mix(Plan *p, Tensor *pattern, Tensor *v, Tensor *q, Tensor *k, AttendAttributes n);

/* op_activate.c   act(x);  act(gate)*up */
extern const char *const activation_words[]; /* of every Activation, ended by NULL */
Tensor *activate(Plan *p, Tensor *x, Activation act);
Tensor *gate(Plan *p, Tensor *g, Tensor *up, Activation act);

/* op_add.c   a + b */
Tensor *add(Plan *p, Tensor *a, Tensor *b);

/* op_dropout.c   happens in training recordings with rate > 0 alone; `salt` tells two of one module apart */
Tensor *dropout(Plan *p, Tensor *x, real rate, int salt);
Dropout dropout_now(const Exec *x, const char *path, int salt, real rate);

/* op_softmax.c   over the last axis. Its gradient has one writer: nothing else may read x */
Tensor *softmax(Plan *p, Tensor *x);

/* op_select.c   the last n positions of every row: (B,T,C) -> (B,n,C) */
Tensor *select_last(Plan *p, Tensor *x, int n);

/* op_loss.c   losses (B,T) of the call's targets: from logits (B,T,V), or from x (B,T,C) and the head's weight (V,C)
 * without ever forming the logits of all positions */
Tensor *cross_entropy(Plan *p, Tensor *logits);
Tensor *head_loss(Plan *p, Tensor *x, Tensor *weight);
