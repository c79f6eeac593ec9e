/* parts: what plan.c, differentiate.c and layout.c share and nobody else needs. */
#pragma once
#include "plan/plan.h"

void plan_differentiate(Plan *p); /* modes and lifetimes of the gradients, lifetimes of what they need */
void plan_halve(Plan *p);         /* which tensors lie in bfloat16 */
void plan_place(Plan *p);         /* an offset for every tensor */
void plan_rewind(Plan *p);        /* tensors that were written anew are back where the forward pass puts them */
