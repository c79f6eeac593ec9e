/* Spec: an architecture as a few kinds, names and numbers. It carries no model name, so no code can branch on one. */
#pragma once
#include "ops/ops.h"

typedef enum { NORM_LAYER, NORM_RMS, NORM_BARE } NormKind; /* bare: a LayerNorm without weights */
typedef enum {
    ORDER_SEQUENTIAL,
    ORDER_PARALLEL
} Order; /* the branches one after the other, or both reading the stream */
typedef enum { POSITION_NONE, POSITION_LEARNED, POSITION_ROPE } Position;
typedef enum { FEED_FORWARD_MLP, FEED_FORWARD_GATED } FeedForward;
typedef enum {
    RESIDUAL_PLAIN,
    RESIDUAL_HYPER
} ResidualKind; /* how a branch rejoins the stream: it is added; or to each of several streams, as connections say */
/* Whose keys and values a head reads: its own layer's; routed ones of all layers up to its own; or, for every head, its
 * layer's of a mixture of the streams of all those layers, by weights that are learned or that depend on the token. */
typedef enum { MEMORY_OWN, MEMORY_LIME, MEMORY_STATIC, MEMORY_DYNAMIC } MemoryKind;

/* What may differ from layer to layer. */
typedef struct {
    int window;       /* keys a query sees, its own included; 0: all before it */
    int rotary;       /* which of the rotary tables turns its queries and keys */
    FeedForward feed_forward;
    int F;            /* its width */
} Layer;

typedef struct {
    NormKind norm, branch_norm; /* behind the blocks; in them */
    Order order;
    Position position;
    MemoryKind memory;
    ResidualKind residual;
    Activation act;
    bool in_out;      /* linears of the blocks are stored (in, out) */

    /* Hugging Face's words for the modules, each relative to its parent. NULL: there is no such module; so names say
     * where norms stand, whether q, k and v are fused, and whether there is a final norm. */
    const char *names[PARTS];

    int V, C, L, H, G, D;
    int streams;          /* 1: plain */
    bool dynamic;         /* their connections depend on the token */
    Layer *layers;    /* L */
    int rotaries;     /* rotary tables */
    int max_positions;
    int padding;          /* token whose embedding gets no gradient; -1: none */
    real eps, branch_eps; /* of the norms behind the blocks and in them */
    real attention_scale; /* multiplies q.k */
    bool scale_by_layer;  /* and divides it by layer + 1 */
    real router_top_p;    /* a head reads the likeliest representations whose probabilities exceed it; 1: all */
    bool qkv_bias, o_bias, feed_forward_bias;
    bool tied;            /* the head is the embedding */
    real embed_dropout, residual_dropout, attention_dropout;
} Spec;

#define ROTARIES_MOST 64
#define LAYERS_MOST 2048 /* each is recorded, in 25 us and 25 KB; more of them are a mistake */

/* A copy with names and layers of its own. False: no memory. */
bool spec_copy(Spec *to, const Spec *from);
void spec_free(Spec *s); /* of a copy */
