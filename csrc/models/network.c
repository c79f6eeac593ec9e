/* network: embeddings, blocks, final norm, head. */
#include "models/network.h"

#include "ops/ops.h"

#include <stdio.h>
#include <string.h>

static Tensor *embedded(Plan *p, const Spec *s, Part part, int rows, EmbedBy by, int padding) {
    enter(p, part, s->names[part]);
    Tensor *x = embed(p, rows, s->C, by, padding);
    leave(p, NULL, x);
    return x;
}

/* Of no offers yet; NULL when there is no memory. */
static Tensor **no_offers(Plan *p, int L) {
    Tensor **offers = plan_take(p, (size_t)L * sizeof *offers);
    return offers ? memset(offers, 0, (size_t)L * sizeof *offers) : NULL;
}

static Tensor *stream(Plan *p, const Spec *s, const Request *w) {
    Tensor *rotary[ROTARIES_MOST];
    Past past = {.rotary = s->position == POSITION_ROPE ? rotary : NULL, .keys = w->keys, .values = w->values};
    const Memory memory = {.keys = no_offers(p, s->L), .values = no_offers(p, s->L), .streams = no_offers(p, s->L),
                           .rstds = no_offers(p, s->L)};
    if (!memory.keys || !memory.values || !memory.streams || !memory.rstds) return &p->nowhere;
    enter(p, PART_ROOT, s->names[PART_ROOT]);
    Tensor *x = embedded(p, s, PART_EMBED, s->V, BY_IDS, s->padding);
    if (s->position == POSITION_LEARNED)
        x = add(p, x, embedded(p, s, PART_POSITIONS, s->max_positions, BY_POSITIONS, -1));
    x = dropout(p, x, s->embed_dropout, 0);
    for (int i = 0; past.rotary && i < s->rotaries; i++) rotary[i] = rope_table(p, s->D, i);
    if (s->residual == RESIDUAL_HYPER) x = spread(p, x, s->streams);
    for (int l = 0; l < s->L; l++) x = block(p, s, &past, &memory, x, l);
    if (s->residual == RESIDUAL_HYPER) x = gather(p, x, s->streams);
    x = norm(p, s, x, PART_FINAL_NORM);
    leave(p, NULL, x);
    return x;
}

static Tensor *head_weight(Plan *p, const Spec *s) {
    char leaf[320];
    if (s->tied) snprintf(leaf, sizeof leaf, "%s.%s.weight", s->names[PART_ROOT], s->names[PART_EMBED]);
    else snprintf(leaf, sizeof leaf, "%s.weight", s->names[PART_HEAD]);
    return parameter_weight(p, PART_HEAD, leaf, s->C, s->V, false);
}

Result network(Plan *p, const Spec *s, const Request *w) {
    Result result = {NULL, NULL};
    const char *head = s->names[PART_HEAD];
    Tensor *x = stream(p, s, w);
    Tensor *weight = head_weight(p, s);
    if (w->logits || kept(p, head)) {
        if (w->last) x = select_last(p, x, w->last);
        enter(p, PART_HEAD, head);
        result.logits = adapted(p, x, multiply(p, x, weight, NULL, false));
        result.logits->kept = true;
        leave(p, x, result.logits);
        if (w->losses) result.losses = cross_entropy(p, result.logits);
    } else if (w->losses) {
        result.losses = head_loss(p, x, weight);
    }
    return result;
}
