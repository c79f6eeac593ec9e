/* Part: what a module is in the architecture, and so what its weights are. Whoever records a module says it; the plan
 * hands it on and looks at it never. */
#pragma once
#include <stdbool.h>

typedef enum {
    PART_NONE,
    /* modules that hold others */
    PART_ROOT, PART_BLOCK, PART_ATTENTION, PART_FEED_FORWARD,
    PART_PATTERN, /* what attention weighs values by */
    PART_ROUTER,  /* what mixes the heads, or the streams, of this layer and of those before it */
    /* what a branch reads of several streams, and how they go on */
    PART_ATTENTION_CONNECTION, PART_FEED_FORWARD_CONNECTION,
    /* tables, whose rows are gathered */
    PART_EMBED, PART_POSITIONS,
    /* norms, by where they stand: before a branch, on what it gives, after the addition, on all that heads read of this
     * layer and of those before it, behind the blocks */
    PART_ATTENTION_NORM_IN, PART_ATTENTION_NORM_OUT, PART_ATTENTION_NORM_SUM,
    PART_FEED_FORWARD_NORM_IN, PART_FEED_FORWARD_NORM_OUT, PART_FEED_FORWARD_NORM_SUM,
    PART_MEMORY_NORM, PART_FINAL_NORM,
    /* linears */
    PART_Q, PART_K, PART_V, PART_QKV, PART_O, PART_GATE, PART_UP, PART_DOWN, PART_HEAD,
    PARTS
} Part;

/* "root", "attention_norm_in", "q" … */
const char *part_word(Part part);
static inline bool part_is_norm(Part part) { return part >= PART_ATTENTION_NORM_IN && part <= PART_FINAL_NORM; }
static inline bool part_is_connection(Part part) {
    return part == PART_ATTENTION_CONNECTION || part == PART_FEED_FORWARD_CONNECTION;
}
/* Can a pass leave it out? */
static inline bool part_is_skippable(Part part) {
    return part == PART_BLOCK || part == PART_ATTENTION || part == PART_FEED_FORWARD;
}
