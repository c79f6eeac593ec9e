/* mixed_heads: keys and values of a mixture of streams, for every head another one. */
#include "blocks/block.h"
#include "ops/ops.h"

#include <stdio.h>

static Tensor *gain_of(Plan *p, int C) { return parameter(p, "weight", 1, &C); }

/* By learned logits, which are the same for all tokens. */
static Tensor *static_weights(Plan *p, const Spec *s, Mixed m) {
    enter(p, PART_ROUTER, s->names[PART_ROUTER]);
    Tensor *logits = parameter(p, "static_weights", 2, (int[]){m.H, m.layers});
    Tensor *weights = softmax_offered(p, logits, m.streams, m.layers);
    if (s->router_top_p < 1) weights = prune(p, weights, m.layers, s->router_top_p);
    leave(p, NULL, weights);
    return weights;
}

/* By a linear of the layer's own normalised stream. */
static Tensor *dynamic_weights(Plan *p, const Spec *s, Mixed m, Tensor *normed) {
    enter(p, PART_ROUTER, s->names[PART_ROUTER]);
    enter(p, PART_ROUTER, "dynamic_proj.0");
    Tensor *weight = parameter_weight(p, PART_ROUTER, "weight", s->C, m.H * m.layers, false);
    Tensor *logits = multiply(p, normed, weight, NULL, false);
    leave(p, normed, logits);
    Tensor *weights = softmax_offered(p, logits, m.streams, m.layers);
    leave(p, normed, weights);
    return weights;
}

static void check_kinds(Plan *p, const Spec *s) {
    if (s->G != s->H || s->names[PART_QKV] || s->qkv_bias || s->in_out || s->residual != RESIDUAL_PLAIN)
        error_set(&p->error, ERROR_CONFIG, "%s: heads that read mixtures of streams need keys and values of their own, "
                  "not fused, without biases, stored (out, in), and a plain residual", p->path);
}

Mixed mixture_of(Plan *p, const Spec *s, const Memory *memory, int l) {
    Mixed m = {.streams = memory->streams, .rstds = memory->rstds, .layers = l + 1, .H = s->H, .D = s->D};
    if (!reads_mixtures(s, s->L)) return m;
    check_kinds(p, s);
    memory->rstds[l] = reciprocal_rms(p, memory->streams[l], s->branch_eps);
    if (l == 0) return m;
    enter(p, PART_MEMORY_NORM, s->names[PART_MEMORY_NORM]);
    m.gain = gain_of(p, s->C);
    if (s->memory == MEMORY_STATIC) {
        leave_container(p); /* it is never applied to one stream alone */
        m.weights = static_weights(p, s, m);
        return m;
    }
    Tensor *normed = rmsnorm(p, memory->streams[l], s->branch_eps);
    leave(p, memory->streams[l], normed);
    m.weights = dynamic_weights(p, s, m, normed);
    return m;
}

static Tensor *weight_of(Plan *p, const Spec *s, Part part) {
    char leaf[96];
    snprintf(leaf, sizeof leaf, "%s.weight", s->names[part]);
    return parameter_weight(p, part, leaf, s->C, s->H * s->D, false);
}

/* No adapter stands beside them: it would read another mixture in every head. */
void mixed_heads(Plan *p, const Spec *s, Mixed m, Tensor **k, Tensor **v) {
    const Part parts[] = {PART_K, PART_V};
    Tensor *weights[] = {weight_of(p, s, PART_K), weight_of(p, s, PART_V)}, *out[2];
    const bool apart = stops_after(p, s->names[PART_K]) || stops_after(p, s->names[PART_V]);
    if (!apart) mixture(p, m, 2, weights, out);
    for (int i = 0; i < 2; i++) {
        enter(p, parts[i], s->names[parts[i]]);
        if (apart) mixture(p, m, 1, &weights[i], &out[i]);
        else give(p, out[i]);
        leave(p, m.streams[m.layers - 1], out[i]);
    }
    *k = out[0];
    *v = out[1];
}
