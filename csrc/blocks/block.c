/* block: an attention branch and a feed-forward branch on the residual stream. */
#include "blocks/block.h"
#include "ops/ops.h"

#include <stdio.h>

const Site ATTENTION = {PART_ATTENTION, PART_ATTENTION_CONNECTION, PART_ATTENTION_NORM_IN, PART_ATTENTION_NORM_OUT,
                        PART_ATTENTION_NORM_SUM, self_attention};
const Site FEED_FORWARD = {PART_FEED_FORWARD, PART_FEED_FORWARD_CONNECTION, PART_FEED_FORWARD_NORM_IN,
                           PART_FEED_FORWARD_NORM_OUT, PART_FEED_FORWARD_NORM_SUM, feed_forward};

/* Both branches read the stream: through one norm, or each through its own. */
static Tensor *parallel_branches(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l) {
    Tensor *first = norm(p, s, x, ATTENTION.norm_in);
    Tensor *second = s->names[FEED_FORWARD.norm_in] ? norm(p, s, x, FEED_FORWARD.norm_in) : first;
    Tensor *y = rejoined(p, s, past, memory, x, first, l, &ATTENTION);
    return rejoined(p, s, past, memory, y, second, l, &FEED_FORWARD);
}

Tensor *block(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l) {
    char name[160];
    snprintf(name, sizeof name, "%s.%d", s->names[PART_BLOCK], l);
    const bool out = skipped(p, name);
    enter_block(p, s->names[PART_BLOCK], l);
    memory->streams[l] = out || skipped(p, s->names[PART_ATTENTION]) ? NULL : x;
    Tensor *y = x;
    if (!out && s->order == ORDER_PARALLEL) {
        y = parallel_branches(p, s, past, memory, x, l);
    } else if (!out) {
        y = residual(p, s, past, memory, y, l, &ATTENTION);
        y = residual(p, s, past, memory, y, l, &FEED_FORWARD);
    }
    leave(p, x, y);
    return y;
}
