/* block: an attention branch and a feed-forward branch on the residual stream. */
#include "blocks/block.h"

#include <stdio.h>

Tensor *block(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l) {
    char name[48];
    snprintf(name, sizeof name, "%s.%d", s->names.layers, l);
    bool out = skipped(p, name);
    enter(p, "%s", name);
    Tensor *y = x;
    if (!out) {
        y = residual(p, s, mem, y, l, s->names.attention_norm, s->names.attention, self_attention);
        y = residual(p, s, mem, y, l, s->names.ffn_norm, s->names.ffn, feed_forward);
    }
    leave(p, x, y);
    return y;
}
