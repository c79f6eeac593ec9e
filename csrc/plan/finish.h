/* finish: the decisions that replay.c takes in turn when a recording is finished; nobody else needs them. */
#pragma once
#include "plan/plan.h"

void plan_lives(Plan *p);         /* times at which the forward pass needs a tensor */
void plan_differentiate(Plan *p); /* modes and lifetimes of the gradients, lifetimes of what they need */
void plan_choose_bfloat16(Plan *p);         /* which tensors lie in bfloat16 */
void plan_recompute(Plan *p);       /* what is cheap is written anew for the backward pass instead of being kept */
void plan_place(Plan *p);         /* an offset for every tensor */
