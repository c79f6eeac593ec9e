/* spec: copies that own what they point to. */
#include "blocks/spec.h"

#include "base/alloc.h"

#include <string.h>

bool spec_copy(Spec *to, const Spec *from) {
    *to = *from;
    memset(to->names, 0, sizeof to->names);
    bool fine = (to->layers = alloc_array((size_t)from->L, sizeof *to->layers)) != NULL;
    if (fine) memcpy(to->layers, from->layers, (size_t)from->L * sizeof *to->layers);
    for (Part part = 0; fine && part < PARTS; part++) {
        if (!from->names[part]) continue;
        char *name = alloc_array(strlen(from->names[part]) + 1, 1);
        to->names[part] = name ? strcpy(name, from->names[part]) : NULL;
        fine = name != NULL;
    }
    if (!fine) spec_free(to);
    return fine;
}

void spec_free(Spec *s) {
    for (Part part = 0; part < PARTS; part++) alloc_free((char *)s->names[part]);
    alloc_free(s->layers);
    memset(s, 0, sizeof *s);
}
