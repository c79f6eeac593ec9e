/* families: every architecture is a row of kinds and names; numbers come from its config.json. */
#pragma once
#include "blocks/spec.h"

typedef struct {
    const char *model_type;
    Spec spec; /* kinds and names; numbers are zero */
} Family;

/* NULL when there is no such row. */
const Family *family_find(const char *model_type);
int family_count(void);
const Family *family_at(int i);
