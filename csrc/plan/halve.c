/* halve: where products round their operands to bfloat16, what is read as an operand alone lies in bfloat16 already. The
 * same numbers are multiplied, and they take half the memory. */
#include "plan/finish.h"

/* Could the step `at` write its output k so? Not if it is shown, or if nobody in the plan reads it. */
static bool may_lie_in_half(const Step *s, int k, int at) {
    const Tensor *t = s->out[k];
    return bit(s->op->halves, k) && t->kind == TENSOR_STEP && !t->whole && !t->kept && t->last > at;
}

void plan_halve(Plan *p) {
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->steps[i].outs; k++)
            if (may_lie_in_half(&p->steps[i], k, i)) p->steps[i].out[k]->halved = true;
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->ins; k++)
            if (s->in[k] && s->in[k]->kind == TENSOR_STEP && !bit(s->op->multiplies, k)) whole_of(s->in[k])->halved = false;
    }
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->whole) t->halved = t->whole->halved;
    }
}
