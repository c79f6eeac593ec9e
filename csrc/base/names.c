/* names: open addressing; at most half of the slots are taken. */
#include "base/names.h"

#include "base/alloc.h"

#include <string.h>

#define LEAST 64

static uint32_t hash_of(const char *name) {
    uint64_t hash = 0;
    for (size_t left = strlen(name), step; left; left -= step, name += step) {
        uint64_t word = 0;
        step = left < sizeof word ? left : sizeof word;
        memcpy(&word, name, step);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* Where a name stands, or would. */
static NameSlot *slot_of(const NameIndex *n, const char *name, uint32_t hash) {
    uint32_t most = (uint32_t)n->room - 1, i = hash & most;
    while (n->slots[i].name && (n->slots[i].hash != hash || strcmp(n->slots[i].name, name) != 0)) i = (i + 1) & most;
    return &n->slots[i];
}

static bool make_room(NameIndex *n) {
    if (2 * n->count < n->room) return true;
    NameIndex larger = {.room = n->room ? 2 * n->room : LEAST};
    larger.slots = alloc_array((size_t)larger.room, sizeof *larger.slots);
    if (!larger.slots) return false;
    for (int i = 0; i < n->room; i++)
        if (n->slots[i].name) *slot_of(&larger, n->slots[i].name, n->slots[i].hash) = n->slots[i];
    larger.count = n->count;
    names_free(n);
    *n = larger;
    return true;
}

bool names_add(NameIndex *n, const char *name, int at) {
    if (!make_room(n)) return false;
    uint32_t hash = hash_of(name);
    NameSlot *slot = slot_of(n, name, hash);
    if (slot->name) return true;
    *slot = (NameSlot){name, hash, at};
    n->count++;
    return true;
}

int names_find(const NameIndex *n, const char *name) {
    if (!n->count) return -1;
    const NameSlot *slot = slot_of(n, name, hash_of(name));
    return slot->name ? slot->at : -1;
}

void names_forget(NameIndex *n) {
    if (n->count) memset(n->slots, 0, (size_t)n->room * sizeof *n->slots);
    n->count = 0;
}

void names_free(NameIndex *n) {
    alloc_free(n->slots);
    *n = (NameIndex){0};
}
