/* names: finds one of many names without looking at the others. Names are borrowed: they stay where they are. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *name; /* NULL: free */
    uint32_t hash;
    int at;
} NameSlot;

typedef struct {
    NameSlot *slots;
    int count, room; /* room: a power of two, or 0 */
} NameIndex;

/* Lists a name as the at-th of something; of equal names the first one counts. False: no memory. */
bool names_add(NameIndex *n, const char *name, int at);
int names_find(const NameIndex *n, const char *name); /* -1: it is not listed */
void names_forget(NameIndex *n);                      /* all of them; keeps the memory */
void names_free(NameIndex *n);
