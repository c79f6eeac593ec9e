/* Gradients: a counted arena, and what its numbers are worth. */
#include "weights/gradients.h"

#include "base/alloc.h"

Gradients *gradients_new(const Weights *w) {
    Gradients *g = alloc_array(1, sizeof *g);
    if (!g) return NULL;
    g->arena = arena_new(w->trained);
    if (!g->arena) {
        alloc_free(g);
        return NULL;
    }
    atomic_init(&g->references, 1);
    return g;
}

Gradients *gradients_retain(Gradients *g) {
    if (g) atomic_fetch_add(&g->references, 1);
    return g;
}

void gradients_release(Gradients *g) {
    if (!g || atomic_fetch_sub(&g->references, 1) != 1) return;
    arena_release(g->arena);
    alloc_free(g);
}

void gradients_clear(Gradients *g) {
    g->state = GRADIENTS_NONE;
    g->targets = 0;
}

bool gradients_take_more(const Gradients *g, Error *e) {
    if (!g) error_set(e, ERROR_STATE, "this run keeps no gradients: make it with model.run(..., backward=True)");
    else if (g->state == GRADIENTS_VOID)
        error_set(e, ERROR_STATE, "an interrupted backward pass left the gradients void: call run.zero_grad() first");
    return e->code == FINE;
}
