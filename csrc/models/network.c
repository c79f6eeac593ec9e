/* network: embeddings, blocks, final norm, head. */
#include "models/network.h"

#include "ops/ops.h"

#include <stdio.h>

static Tensor *embedded(Plan *p, const Spec *s, const char *name, int rows, EmbedBy by, int padding) {
    enter(p, "%s", name);
    Tensor *x = embed(p, rows, s->C, by, padding);
    leave(p, NULL, x);
    return x;
}

static Tensor *stream(Plan *p, const Spec *s, const Wanted *w) {
    Memory mem = {.keys = w->keys, .values = w->values};
    enter(p, "%s", s->names.root);
    Tensor *x = embedded(p, s, s->names.embed, s->V, BY_IDS, s->padding);
    if (s->position == POSITION_LEARNED)
        x = add(p, x, embedded(p, s, s->names.positions, s->max_positions, BY_POSITIONS, -1));
    x = dropout(p, x, s->embed_dropout, 0);
    if (s->position == POSITION_ROPE) mem.rope = rope_table(p, s->D, 0);
    for (int l = 0; l < s->L; l++) x = block(p, s, &mem, x, l);
    if (s->final == FINAL_NORM) x = norm(p, s, x, s->names.final);
    leave(p, NULL, x);
    return x;
}

static Tensor *head_weight(Plan *p, const Spec *s) {
    char path[128];
    if (s->tied) snprintf(path, sizeof path, "%s.%s.weight", s->names.root, s->names.embed);
    else snprintf(path, sizeof path, "%s.weight", s->names.head);
    return p->parameter(p, path, 2, (int[]){s->V, s->C});
}

Given network(Plan *p, const Spec *s, const Wanted *w) {
    Given given = {NULL, NULL};
    Tensor *x = stream(p, s, w);
    Tensor *weight = head_weight(p, s);
    if (w->logits || kept(p, s->names.head)) {
        if (w->last) x = select_last(p, x, w->last);
        enter(p, "%s", s->names.head);
        given.logits = adapted(p, x, multiply(p, x, weight, NULL, false));
        given.logits->kept = true;
        leave(p, x, given.logits);
        if (w->losses) given.losses = cross_entropy(p, given.logits);
    } else if (w->losses) {
        given.losses = head_loss(p, x, weight);
    }
    return given;
}
