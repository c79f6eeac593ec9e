/* The core without Python, in double, under the compiler's sanitizers: every test, or those named, on every instruction
 * set that the build and the processor have. A failed check ends the program with 1. */
#include "harness.h"

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"passes", test_passes},     {"slopes", test_slopes},     {"training", test_training},
    {"inside", test_inside},     {"generation", test_generation}, {"refusals", test_refusals},
    {"adapters", test_adapters}, {"pieces", test_pieces},     {"pool", test_pool},         {"fork", test_fork},
    {"widths", test_widths},     {"recordings", test_recordings}, {"parameters", test_parameters},
    {"packing", test_packing},       {"allocations", test_allocations},
};

static bool wanted_test(const char *name, int count, char **names) {
    for (int i = 1; i < count; i++)
        if (strcmp(names[i], name) == 0) return true;
    return count < 2;
}

int main(int count, char **names) {
    pool_begin();
    const char *isa;
    for (int i = 0; (isa = engine_offers(i)); i++) {
        const char *problem = engine_choose(isa, "own", NULL);
        CHECK(!problem, "%s: %s", isa, problem);
        for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
            if (!wanted_test(tests[t].name, count, names)) continue;
            long before = alloc_live();
            tests[t].run();
            CHECK(alloc_live() == before, "%s, %s: %ld blocks were not given back", isa, tests[t].name,
                  alloc_live() - before);
            printf("%s: %s\n", isa, tests[t].name);
            fflush(stdout);
        }
    }
    return 0;
}
