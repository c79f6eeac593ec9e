/* self_attention: projections, rotary positions, whose keys and values are read, attention, output projection. */
#include "blocks/block.h"
#include "ops/ops.h"

typedef struct {
    Tensor *q, *k, *v;
} Heads;

static Heads heads_of(Plan *p, const Spec *s, Tensor *x) {
    int q = s->H * s->D, kv = s->G * s->D;
    if (s->names.qkv) {
        Tensor *fused;
        linears(p, x, 1, &(Linear){s->names.qkv, q + 2 * kv}, s->attention_bias, s->in_out, &fused);
        Tensor *third = tensor_view(p, fused, 0, q);
        Tensor *key = tensor_view(p, fused, q, kv);
        return (Heads){third, key, tensor_view(p, fused, q + kv, kv)};
    }
    const Linear to[] = {{s->names.q, q}, {s->names.k, kv}, {s->names.v, kv}};
    Tensor *out[3];
    linears(p, x, 3, to, s->attention_bias, s->in_out, out);
    return (Heads){out[0], out[1], out[2]};
}

/* Keys are cached as they are read: rotated. */
static Heads with_past(Plan *p, const Spec *s, const Memory *mem, Heads h, int l) {
    if (mem->rope) {
        h.q = rope(p, h.q, mem->rope, s->H, s->D);
        h.k = rope(p, h.k, mem->rope, s->G, s->D);
    }
    if (!mem->keys) return h;
    h.k = remember(p, h.k, mem->keys[l]);
    h.v = remember(p, h.v, mem->values[l]);
    return h;
}

/* A pattern that is kept is a step beside attention's; one after which the pass stops is what attention multiplies. */
static Tensor *attended(Plan *p, Heads h, AttendNumbers n) {
    Tensor *pattern = NULL;
    if (is_cut(p, "pattern")) {
        enter(p, "pattern");
        pattern = attention_pattern(p, h.q, h.k, n);
        leave(p, h.q, pattern);
        return mix(p, pattern, h.v, h.q, h.k, n);
    }
    Tensor *mixed = attend(p, h.q, h.k, h.v, n, wanted(p, "pattern") ? &pattern : NULL);
    if (pattern) {
        enter(p, "pattern");
        leave(p, mixed, pattern);
    }
    return mixed;
}

Tensor *self_attention(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l) {
    enter(p, "%s", s->names.attention);
    Heads h = with_past(p, s, mem, heads_of(p, s, x), l);
    AttendNumbers n = {.H = s->H, .G = s->G, .D = s->D, .window = s->window, .cached = mem->keys != NULL, .causal = true,
                       .scale = s->scale_by_layer ? s->attention_scale / (real)(l + 1) : s->attention_scale,
                       .dropout = s->attention_dropout};
    Tensor *mixed = attended(p, h, n), *out;
    linears(p, mixed, 1, &(Linear){s->names.o, s->C}, s->attention_bias, s->in_out, &out);
    out = dropout(p, out, s->residual_dropout, 0);
    leave(p, x, out);
    return out;
}
