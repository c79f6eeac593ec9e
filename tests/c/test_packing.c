/* The packing finds what a look at everything that was taken finds. */
#include "harness.h"
#include "plan/packing.h"

#define COUNT 400

typedef struct {
    int first, last;
    size_t size, offset;
} Parcel;

static uint64_t key;
static int below(int most) {
    static uint64_t drawn;
    return (int)(rng_bits(key, drawn++) % (unsigned)most);
}

static bool together(const Parcel *a, const Parcel *b) { return a->first <= b->last && b->first <= a->last; }

/* The lowest offset at which nothing of those `count` is in the way: 0, or where one of them ends. */
static size_t lowest(const Parcel *taken, int count, const Parcel *next) {
    size_t best = SIZE_MAX;
    for (int i = -1; i < count; i++) {
        size_t offset = i < 0 ? 0 : taken[i].offset + taken[i].size;
        bool fits = offset < best;
        for (int k = 0; k < count && fits; k++)
            fits = !together(&taken[k], next) || offset >= taken[k].offset + taken[k].size ||
                   offset + next->size <= taken[k].offset;
        if (fits) best = offset;
    }
    return best;
}

static int as_planned(const void *a, const void *b) {
    const Parcel *m = a, *n = b;
    if (m->size != n->size) return m->size < n->size ? 1 : -1;
    return m->first != n->first ? m->first - n->first : m->last - n->last;
}

/* Some are there for a moment, some from before the turn till after it, some for any time, some till the end. */
static Parcel draw(int moments, int turn) {
    Parcel p = {.size = 16 * (size_t)(1 + below(below(4) ? 3 : 40))};
    const int kind = below(4), first = below(moments);
    p.first = kind == 1 ? below(turn + 1) : first;
    p.last = kind == 0 ? first + below(6) : kind == 1 ? turn + below(moments - turn) : first + below(moments - first);
    if (kind == 3 && !below(3)) p.last = moments - 1;
    if (p.last >= moments) p.last = moments - 1;
    return p;
}

static void check(int moments, int turn, bool sorted) {
    Plan plan = {0};
    plan_begin(&plan);
    Packing *packing = packing_begin(&plan, moments, turn);
    Parcel parcels[COUNT];
    for (int i = 0; i < COUNT; i++) parcels[i] = draw(moments, turn);
    if (sorted) qsort(parcels, COUNT, sizeof *parcels, as_planned);
    for (int i = 0; i < COUNT; i++) {
        Parcel *p = &parcels[i];
        p->offset = packing_lowest(packing, p->first, p->last, p->size);
        CHECK(p->offset == lowest(parcels, i, p), "%d moments, %s, %d: %zu", moments,
              sorted ? "sorted" : "as they come", i, p->offset);
        CHECK(packing_take(packing, p->first, p->last, p->offset, p->size), "%s", plan.error.message);
    }
    plan_free(&plan);
}

void test_packing(void) {
    const int moments[] = {1, 2, 31, 33, 64, 65, 257, 1000, 3081, 40000};
    key = rng_key(9, 9, 9, 9);
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++)
        for (int sorted = 0; sorted < 2; sorted++) {
            check(moments[i], moments[i] / 2, sorted);
            check(moments[i], below(moments[i]), sorted);
        }
}
