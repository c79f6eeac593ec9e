/* part: the words of the parts. */
#include "plan/part.h"

static const char *const words[PARTS] = {
    [PART_NONE] = "none",
    [PART_ROOT] = "root",
    [PART_BLOCK] = "block",
    [PART_ATTENTION] = "attention",
    [PART_FEED_FORWARD] = "feed_forward",
    [PART_PATTERN] = "pattern",
    [PART_ROUTER] = "router",
    [PART_ATTENTION_CONNECTION] = "attention_connection",
    [PART_FEED_FORWARD_CONNECTION] = "feed_forward_connection",
    [PART_EMBED] = "embed",
    [PART_POSITIONS] = "positions",
    [PART_ATTENTION_NORM_IN] = "attention_norm_in",
    [PART_ATTENTION_NORM_OUT] = "attention_norm_out",
    [PART_ATTENTION_NORM_SUM] = "attention_norm_sum",
    [PART_FEED_FORWARD_NORM_IN] = "feed_forward_norm_in",
    [PART_FEED_FORWARD_NORM_OUT] = "feed_forward_norm_out",
    [PART_FEED_FORWARD_NORM_SUM] = "feed_forward_norm_sum",
    [PART_MEMORY_NORM] = "memory_norm",
    [PART_FINAL_NORM] = "final_norm",
    [PART_Q] = "q",
    [PART_K] = "k",
    [PART_V] = "v",
    [PART_QKV] = "qkv",
    [PART_O] = "o",
    [PART_GATE] = "gate",
    [PART_UP] = "up",
    [PART_DOWN] = "down",
    [PART_HEAD] = "head",
};

const char *part_word(Part part) { return words[part]; }
