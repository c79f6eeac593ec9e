/* self_attention: projections, rotary positions, whose keys and values are read, attention, output projection. */
#include "blocks/block.h"
#include "ops/ops.h"

typedef struct {
    Tensor *q, *k, *v;
} Heads;

static Heads heads_of(Plan *p, const Spec *s, Tensor *x) {
    int q = s->H * s->D, kv = s->G * s->D;
    const char *const *names = s->names;
    if (names[PART_QKV]) {
        Tensor *fused;
        linears(p, x, 1, &(Linear){PART_QKV, names[PART_QKV], q + 2 * kv}, s->qkv_bias, s->in_out, &fused);
        Tensor *third = tensor_view(p, fused, 0, q);
        Tensor *key = tensor_view(p, fused, q, kv);
        return (Heads){third, key, tensor_view(p, fused, q + kv, kv)};
    }
    const Linear to[] = {{PART_Q, names[PART_Q], q}, {PART_K, names[PART_K], kv}, {PART_V, names[PART_V], kv}};
    Tensor *out[3];
    linears(p, x, 3, to, s->qkv_bias, s->in_out, out);
    return (Heads){out[0], out[1], out[2]};
}

static Tensor *routed_as(Plan *p, const Spec *s, const char *name, Tensor *weight, Tensor *const *offers, int l) {
    enter(p, PART_ROUTER, name);
    Tensor *out = route(p, weight, offers, l + 1, s->G, s->D);
    leave(p, offers[l], out);
    return out;
}

/* One matrix mixes keys and values alike. The first layer has nothing before it to read. */
static Heads routed(Plan *p, const Spec *s, const Memory *memory, Heads own, int l) {
    memory->keys[l] = own.k;
    memory->values[l] = own.v;
    if (l == 0) return own;
    enter(p, PART_ROUTER, s->names[PART_ROUTER]);
    Tensor *weight = parameter(p, "static_weights", 2, (int[]){s->G, (l + 1) * s->G});
    own.k = routed_as(p, s, "keys", weight, memory->keys, l);
    own.v = routed_as(p, s, "values", weight, memory->values, l);
    leave_container(p);
    return own;
}

/* Queries are the layer's own. */
static Heads mixed(Plan *p, const Spec *s, Mixed m, Tensor *x) {
    Heads h;
    linears(p, x, 1, &(Linear){PART_Q, s->names[PART_Q], s->H * s->D}, false, s->in_out, &h.q);
    mixed_heads(p, s, m, &h.k, &h.v);
    return h;
}

/* Whose keys and values a head reads. */
static Heads memory_of(Plan *p, const Spec *s, const Memory *memory, Mixed m, Tensor *x, int l) {
    if (reads_mixtures(s, l)) return mixed(p, s, m, x);
    Heads own = heads_of(p, s, x);
    return s->memory == MEMORY_LIME ? routed(p, s, memory, own, l) : own;
}

/* Keys are cached as they are read: rotated. */
static Heads with_past(Plan *p, const Spec *s, const Past *past, Heads h, int l) {
    if (past->rotary) {
        Tensor *table = past->rotary[s->layers[l].rotary];
        h.q = rope(p, h.q, table, s->H, s->D);
        h.k = rope(p, h.k, table, s->G, s->D);
    }
    if (!past->keys) return h;
    h.k = remember(p, h.k, past->keys[l], l);
    h.v = remember(p, h.v, past->values[l], l);
    return h;
}

/* A pattern that is kept is a step beside attention's; one after which the pass stops is what attention multiplies. */
static Tensor *attended(Plan *p, Heads h, AttendAttributes n) {
    Tensor *pattern = NULL;
    if (stops_after(p, "pattern")) {
        enter(p, PART_PATTERN, "pattern");
        pattern = attention_pattern(p, h.q, h.k, n);
        leave(p, h.q, pattern);
        return mix(p, pattern, h.v, h.q, h.k, n);
    }
    Tensor *mixed = attend(p, h.q, h.k, h.v, n, kept_by_name(p, "pattern") ? &pattern : NULL);
    if (pattern) {
        enter(p, PART_PATTERN, "pattern");
        leave(p, mixed, pattern);
    }
    return mixed;
}

Tensor *self_attention(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l) {
    const Mixed m = mixture_of(p, s, memory, l);
    enter(p, PART_ATTENTION, s->names[PART_ATTENTION]);
    Heads h = with_past(p, s, past, memory_of(p, s, memory, m, x, l), l);
    AttendAttributes n = {.H = s->H, .G = s->G, .D = s->D, .window = s->layers[l].window, .layer = l,
                       .cached = past->keys != NULL, .causal = true,
                       .scale = s->scale_by_layer ? s->attention_scale / (real)(l + 1) : s->attention_scale,
                       .dropout = s->attention_dropout};
    Tensor *mixed = attended(p, h, n), *out;
    linears(p, mixed, 1, &(Linear){PART_O, s->names[PART_O], s->C}, s->o_bias, s->in_out, &out);
    out = dropout(p, out, s->residual_dropout, 0);
    leave(p, x, out);
    return out;
}
