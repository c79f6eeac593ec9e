/* packing: the timeline is cut into spans of times.
 *
 * What is taken at some time of [first, last] either lasts all through the span of `first`, or begins in a span between
 * the two at the ends, or begins or ends in one of these two. The last are listed by themselves, with their times. Of
 * the others a range counts for whole spans, and ranges that touch become one: however many layers there are, a span
 * has few. What lasts through spans is noted in a tree over them, in as few nodes as make up its time; what begins
 * between two spans is what begins between each of them and the turn. */
#include "plan/packing.h"

#include <limits.h>
#include <string.h>

#define SPAN 32 /* times */
#define FAN 8   /* nodes of the tree that one above them stands for */
#define LEVELS 10

/* [from, to) of the block, at [first, last]. */
typedef struct {
    size_t from, to;
    int first, last;
} Range;

typedef struct {
    Range *ranges; /* by where they begin in the block */
    int count, room;
} Ranges;

struct Packing {
    Plan *plan;
    int spans, turn;
    Ranges *listed;          /* by span: what begins or ends in it */
    Ranges *begin;           /* by span: what begins in it */
    Ranges *between;         /* by span: what begins between it and the turn; see look_ahead */
    Ranges *through[LEVELS]; /* by node: what lasts all through it. The spans first, the root last */
    int levels;
    size_t size;             /* and first time: what was asked for last */
    int first;
};

static void *take_zeroed(Plan *p, size_t count, size_t size) {
    void *block = plan_take(p, count * size);
    return block ? memset(block, 0, count * size) : NULL;
}

Packing *packing_begin(Plan *plan, int times, int turn) {
    Packing *p = take_zeroed(plan, 1, sizeof *p);
    if (!p) return NULL;
    p->plan = plan;
    p->turn = turn / SPAN;
    p->spans = (times - 1) / SPAN + 1;
    size_t width = (size_t)p->spans;
    p->listed = take_zeroed(plan, width, sizeof *p->listed);
    p->begin = take_zeroed(plan, width, sizeof *p->begin);
    p->between = take_zeroed(plan, width, sizeof *p->between);
    bool fine = p->listed && p->begin && p->between;
    for (bool root = false; fine && !root; width = (width - 1) / FAN + 1) {
        fine = (p->through[p->levels++] = take_zeroed(plan, width, sizeof(Ranges))) != NULL;
        root = width == 1;
    }
    return fine ? p : NULL;
}

/* --- ranges ------------------------------------------------------------------------------------------------------- */
static bool make_room(Packing *p, Ranges *r, int count) {
    if (count <= r->room) return true;
    int room = r->room ? r->room : 8;
    while (room < count) room *= 2;
    Range *grown = plan_take(p->plan, (size_t)room * sizeof *grown);
    if (!grown) return false;
    if (r->count) memcpy(grown, r->ranges, (size_t)r->count * sizeof *grown);
    r->ranges = grown;
    r->room = room;
    return true;
}

/* Puts `range` in the place of those at [from, to). False: no memory. */
static bool put(Packing *p, Ranges *r, int from, int to, Range range) {
    if (!make_room(p, r, r->count + from + 1 - to)) return false;
    memmove(&r->ranges[from + 1], &r->ranges[to], (size_t)(r->count - to) * sizeof *r->ranges);
    r->count += from + 1 - to;
    r->ranges[from] = range;
    return true;
}

static bool list(Packing *p, Ranges *r, Range range) {
    int at = r->count;
    while (at > 0 && r->ranges[at - 1].from > range.from) at--;
    return put(p, r, at, at, range);
}

/* One with those it touches, at all times. */
static bool merge(Packing *p, Ranges *r, Range range) {
    int low = 0, high = r->count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (r->ranges[middle].to < range.from) low = middle + 1;
        else high = middle;
    }
    range.first = 0;
    range.last = INT_MAX;
    for (; high < r->count && r->ranges[high].from <= range.to; high++) {
        if (r->ranges[high].from < range.from) range.from = r->ranges[high].from;
        if (r->ranges[high].to > range.to) range.to = r->ranges[high].to;
    }
    return put(p, r, low, high, range);
}

/* r becomes what is in a or in b. */
static bool unite(Packing *p, Ranges *r, const Ranges *a, const Ranges *b) {
    if (!make_room(p, r, a->count)) return false;
    r->count = a->count;
    if (a->count) memcpy(r->ranges, a->ranges, (size_t)a->count * sizeof *r->ranges);
    bool fine = true;
    for (int i = 0; i < b->count && fine; i++) fine = merge(p, r, b->ranges[i]);
    return fine;
}

/* --- what is free ------------------------------------------------------------------------------------------------- */
/* Where sizes are the same and first times rise, what begins in spans ahead stays as it is: it is put together once. */
static bool look_ahead(Packing *p, size_t size, int first) {
    const bool known = size == p->size && first >= p->first;
    bool fine = true;
    p->size = size;
    p->first = first;
    if (known) return true;
    for (int i = p->turn - 1; i >= 0 && fine; i--)
        fine = unite(p, &p->between[i], &p->between[i + 1], &p->begin[i + 1]);
    for (int i = p->turn + 2; i < p->spans && fine; i++)
        fine = unite(p, &p->between[i], &p->between[i - 1], &p->begin[i - 1]);
    return fine;
}

/* Ranges that are still ahead, on the way up through the block. */
typedef struct {
    const Range *next, *end;
} Ahead;

static Ahead *meet(Ahead *ahead, const Ranges *r) {
    if (r->count) *ahead++ = (Ahead){r->ranges, r->ranges + r->count};
    return ahead;
}

/* All in which something may lie that is there in the spans [first, last]; returns where they end. */
static Ahead *meet_all(const Packing *p, Ahead *ahead, int first, int last) {
    ahead = meet(ahead, &p->listed[first]);
    if (last != first) ahead = meet(ahead, &p->listed[last]);
    for (int k = 0, i = first; k < p->levels; k++, i /= FAN) ahead = meet(ahead, &p->through[k][i]);
    return ahead;
}

/* The lowest offset from `offset` on at which none of them is in the way of `size` numbers at [first, last]. */
static size_t pass(Ahead *a, size_t offset, size_t size, int first, int last) {
    for (; a->next < a->end && a->next->from < offset + size; a->next++)
        if (a->next->to > offset && a->next->first <= last && a->next->last >= first) offset = a->next->to;
    return offset;
}

size_t packing_lowest(Packing *p, int first, int last, size_t size) {
    const int from = first / SPAN, to = last / SPAN;
    const bool across = from < p->turn && p->turn < to;
    Ahead ahead[2 + LEVELS + 2], *end = meet_all(p, ahead, from, to);
    if (!look_ahead(p, size, first)) return 0;
    if (across) end = meet(meet(end, &p->between[from]), &p->between[to]);
    size_t offset = 0, before;
    do {
        before = offset;
        for (Ahead *a = ahead; a < end; a++) offset = pass(a, offset, size, first, last);
        for (int i = from + 1; i < to && !across; i++) {
            const Ranges *r = &p->begin[i];
            offset = pass(&(Ahead){r->ranges, r->ranges + r->count}, offset, size, first, last);
        }
    } while (offset != before);
    return offset;
}

/* --- what is taken ------------------------------------------------------------------------------------------------ */
bool packing_take(Packing *p, int first, int last, size_t offset, size_t size) {
    const Range range = {offset, offset + size, first, last};
    const int begin = first / SPAN, end = last / SPAN;
    bool fine = merge(p, &p->begin[begin], range) && list(p, &p->listed[begin], range);
    if (end != begin) fine = fine && list(p, &p->listed[end], range);
    for (int k = 0, from = begin + 1, to = end; from < to; k++, from = (from + FAN - 1) / FAN, to /= FAN) {
        for (; from < to && from % FAN; from++) fine = fine && merge(p, &p->through[k][from], range);
        for (; from < to && to % FAN; to--) fine = fine && merge(p, &p->through[k][to - 1], range);
    }
    return fine;
}
