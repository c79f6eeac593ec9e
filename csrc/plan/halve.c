/* halve: where products round their operands to bfloat16, what is read as an operand alone lies in bfloat16 already. The
 * same numbers are multiplied, and they take half the memory. */
#include "plan/parts.h"

static Tensor *whole_of(Tensor *t) { return t->whole ? t->whole : t; }

/* Could it, as far as its producer goes? */
static bool may_lie_in_half(const Plan *p, const Tensor *t) {
    if (t->whole || t->kept || t->producer < 0) return false;
    if (t->last == t->producer) return false; /* nobody in the plan reads it */
    const Step *producer = &p->steps[t->producer];
    for (int i = 0; i < producer->outs; i++)
        if (producer->out[i] == t) return producer->op->halves >> i & 1;
    return false;
}

void plan_halve(Plan *p) {
    for (int i = 0; i < p->tensor_count; i++)
        if (p->tensors[i]->kind == TENSOR_STEP) p->tensors[i]->halved = may_lie_in_half(p, p->tensors[i]);
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->ins; k++)
            if (s->in[k] && s->in[k]->kind == TENSOR_STEP && !(s->op->multiplies >> k & 1)) whole_of(s->in[k])->halved = false;
    }
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->whole) t->halved = t->whole->halved;
    }
}
