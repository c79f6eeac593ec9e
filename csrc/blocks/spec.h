/* Spec: an architecture as a few kinds and numbers. It carries no model name, so no code can branch on one. */
#pragma once
#include "ops/ops.h"

typedef enum { NORM_LAYER, NORM_RMS } NormKind;
typedef enum { PLACE_PRE, PLACE_POST } Place;          /* norm before the branch, or after the addition */
typedef enum { FINAL_NONE, FINAL_NORM } FinalNorm;
typedef enum { POSITION_LEARNED, POSITION_ROPE } Position;
typedef enum { FFN_MLP, FFN_GATED } Ffn;
typedef enum { MEMORY_OWN } MemoryKind;                /* whose keys and values a head may read */
typedef enum { RESIDUAL_PLAIN } ResidualKind;          /* how a branch rejoins the stream */

/* Hugging Face's words for the modules, each relative to its parent. NULL: there is no such module. */
typedef struct {
    const char *root;      /* "model", "transformer" */
    const char *embed, *positions, *layers, *final;
    const char *attention_norm, *attention, *qkv, *q, *k, *v, *o;
    const char *ffn_norm, *ffn, *gate, *up, *down;
    const char *head;
} Names;

typedef struct {
    NormKind norm;
    Place place;
    FinalNorm final;
    Position position;
    Ffn ffn;
    MemoryKind memory;
    ResidualKind residual;
    Activation act;
    bool in_out;          /* linears of the blocks are stored (in, out) */
    Names names;

    int V, C, L, H, G, D, F;
    int max_positions;
    int padding;          /* token whose embedding gets no gradient; -1: none */
    int window;           /* keys a query sees, its own included; 0: all before it */
    real eps;
    real attention_scale; /* multiplies q.k */
    bool scale_by_layer;  /* and divides it by layer + 1 */
    bool attention_bias, ffn_bias;
    bool tied;            /* the head is the embedding */
    real embed_dropout, residual_dropout, attention_dropout;
} Spec;
