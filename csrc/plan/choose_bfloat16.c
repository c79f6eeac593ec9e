/* halve: where products round their operands to bfloat16, what is read as an operand alone lies in bfloat16 already.
 * The same numbers are multiplied, and they take half the memory. */
#include "plan/finish.h"

/* Could the step `at` write its output k so? Not if it is shown, or if nobody in the plan reads it. */
static bool may_be_bfloat16(const Step *s, int k, int at) {
    const Tensor *t = s->out[k];
    return bit(s->op->may_be_bfloat16, k) && t->kind == TENSOR_STEP && !t->parent && !t->kept && t->last > at;
}

void plan_choose_bfloat16(Plan *p) {
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->steps[i].outs; k++)
            if (may_be_bfloat16(&p->steps[i], k, i)) p->steps[i].out[k]->is_bfloat16 = true;
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->ins; k++)
            if (s->in[k] && s->in[k]->kind == TENSOR_STEP && !bit(s->op->multiplies, k))
                parent_of(s->in[k])->is_bfloat16 = false;
    }
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->parent) t->is_bfloat16 = t->parent->is_bfloat16;
    }
}
