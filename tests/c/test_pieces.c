/* The ops alone: their gradients against slopes, and operands that do not go together. */
#include "harness.h"

#define ROOM 4096

/* The sum of dout * piece: what the gradients are the slopes of. */
static double inner(Functional p, real *out, const real *dout) {
    p.dout = NULL;
    p.out = out;
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++) p.in[i].grad = NULL;
    Error e = {0};
    CHECK(functional_run(&p, &e, NULL), "%s: %s", p.op, e.message);
    double sum = 0;
    for (size_t i = 0; i < p.count; i++) sum += (double)dout[i] * out[i];
    return sum;
}

static void check_piece_slopes(Functional p) {
    static real data[FUNCTIONAL_ARRAYS][ROOM], grad[FUNCTIONAL_ARRAYS][ROOM], out[ROOM], dout[ROOM];
    size_t count[FUNCTIONAL_ARRAYS] = {0};
    fill(dout, p.count, 31);
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++) {
        if (!p.in[i].ndim) continue;
        count[i] = 1;
        for (int d = 0; d < p.in[i].ndim; d++) count[i] *= (size_t)p.in[i].shape[d];
        CHECK(count[i] <= ROOM, "%zu numbers", count[i]);
        fill(data[i], count[i], (uint64_t)i + 40);
        p.in[i].data = data[i];
        p.in[i].grad = grad[i];
    }
    p.dout = dout;
    Error e = {0};
    CHECK(functional_run(&p, &e, NULL), "%s: %s", p.op, e.message);
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++) {
        for (size_t j = 0; j < count[i]; j += 1 + count[i] / 7) {
            real kept = data[i][j];
            double h = 1e-5;
            data[i][j] = kept + h;
            double up = inner(p, out, dout);
            data[i][j] = kept - h;
            double down = inner(p, out, dout), slope = (up - down) / (2 * h);
            data[i][j] = kept;
            CHECK(fabs(slope - grad[i][j]) < 1e-6 * (1 + fabs(slope)), "%s: operand %d: slope %g, gradient %g", p.op, i,
                  slope, (double)grad[i][j]);
        }
    }
}

#define ARRAY(...) {.ndim = sizeof((int[]){__VA_ARGS__}) / sizeof(int), .shape = {__VA_ARGS__}}

static void refused_piece(Functional p, ErrorCode code) {
    static real data[ROOM], out[ROOM];
    for (int i = 0; i < FUNCTIONAL_ARRAYS; i++)
        if (p.in[i].ndim) p.in[i].data = data;
    p.out = out;
    Error e = {0};
    CHECK(!functional_run(&p, &e, NULL) && e.code == code, "%s: %d '%s'", p.op, e.code, e.message);
}

void test_pieces(void) {
    static const int32_t ids[] = {3, 0, 2, 3, 1, 1, 4, 0, 2, 3};
    static const uint8_t mask[] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    check_piece_slopes((Functional){.op = "embedding", .in[1] = ARRAY(5, 7), .ids = ids, .B = 2, .T = 5, .count = 70});
    check_piece_slopes((Functional){.op = "rmsnorm", .in = {ARRAY(6, 9), ARRAY(9)}, .count = 54, .number = 1e-6});
    check_piece_slopes((Functional){.op = "layernorm", .in = {ARRAY(6, 9), ARRAY(9), ARRAY(9)}, .count = 54,
                               .number = 1e-5});
    check_piece_slopes((Functional){.op = "linear", .in = {ARRAY(6, 9), ARRAY(11, 9), ARRAY(11)}, .count = 66});
    check_piece_slopes((Functional){.op = "linear", .in = {ARRAY(70, 9), ARRAY(11, 9)}, .count = 770});
    for (int act = 0; act < ACT_COUNT; act++) {
        check_piece_slopes((Functional){.op = "activation", .in = {ARRAY(1, 67)}, .count = 67, .act = act});
        check_piece_slopes((Functional){.op = "gate", .in = {ARRAY(1, 67), ARRAY(1, 67)}, .count = 67, .act = act});
    }
    check_piece_slopes((Functional){.op = "softmax", .in = {ARRAY(5, 9)}, .count = 45});
    check_piece_slopes((Functional){.op = "rope",
                                    .in = {ARRAY(2, 5, 12)},
                                    .ids = ids,
                                    .B = 2,
                                    .T = 5,
                                    .heads = 3,
                                    .D = 4,
                                    .number = 100,
                                    .count = 120});
    for (int window = 0; window < 4; window++)
        check_piece_slopes((Functional){.op = "attention", .in = {ARRAY(2, 5, 12), ARRAY(2, 5, 6), ARRAY(2, 5, 6)},
                                   .B = 2, .T = 5, .heads = 4, .groups = 2, .D = 3, .window = window,
                                   .causal = window != 1, .mask = window == 2 ? mask : NULL, .number = 0.5,
                                   .count = 120});

    refused_piece((Functional){.op = "polish", .in = {ARRAY(3, 4)}, .count = 12}, ERROR_NAME);
    refused_piece((Functional){.op = "linear", .in = {ARRAY(3, 4)}, .count = 12}, ERROR_SHAPE);
    refused_piece((Functional){.op = "linear", .in = {ARRAY(3, 4), ARRAY(4)}, .count = 12}, ERROR_SHAPE);
    refused_piece((Functional){.op = "linear", .in = {ARRAY(3, 4), ARRAY(2, 5)}, .count = 6}, ERROR_SHAPE);
    refused_piece((Functional){.op = "linear", .in = {ARRAY(3, 4), ARRAY(2, 4), ARRAY(5)}, .count = 6}, ERROR_SHAPE);
    refused_piece((Functional){.op = "linear", .in = {ARRAY(3, 4), ARRAY(2, 4)}, .count = 7}, ERROR_SHAPE);
    refused_piece((Functional){.op = "rmsnorm", .in = {ARRAY(3, 4), ARRAY(5)}, .count = 12}, ERROR_SHAPE);
    refused_piece((Functional){.op = "layernorm", .in = {ARRAY(3, 4), ARRAY(4)}, .count = 12}, ERROR_SHAPE);
    refused_piece((Functional){.op = "gate", .in = {ARRAY(3, 4), ARRAY(3, 5)}, .count = 12}, ERROR_SHAPE);
    refused_piece((Functional){.op = "embedding", .in[1] = ARRAY(5, 7), .B = 1, .T = 2, .count = 14}, ERROR_SHAPE);
    refused_piece((Functional){.op = "embedding", .in[1] = ARRAY(5), .ids = ids, .B = 1, .T = 2, .count = 2},
                  ERROR_SHAPE);
    refused_piece((Functional){.op = "cross_entropy", .in = {ARRAY(2, 5)}, .ids = ids, .B = 2, .T = 5, .count = 10},
                  ERROR_SHAPE);
    refused_piece((Functional){.op = "rope", .in = {ARRAY(2, 5, 6)}, .ids = ids, .B = 2, .T = 5, .heads = 2, .D = 3,
                          .count = 60}, ERROR_SHAPE);
    refused_piece((Functional){.op = "rope", .in = {ARRAY(2, 5, 6)}, .ids = ids, .B = 2, .T = 4, .heads = 3, .D = 2,
                          .count = 60}, ERROR_SHAPE);
    refused_piece((Functional){.op = "attention",
                               .in = {ARRAY(2, 5, 12), ARRAY(2, 5, 6), ARRAY(2, 4, 6)},
                               .B = 2,
                               .T = 5,
                               .heads = 4,
                               .groups = 2,
                               .D = 3,
                               .count = 120},
                  ERROR_SHAPE);
    refused_piece((Functional){.op = "attention",
                               .in = {ARRAY(2, 5, 12), ARRAY(2, 5, 6), ARRAY(2, 5, 6)},
                               .B = 2,
                               .T = 5,
                               .heads = 4,
                               .groups = 0,
                               .D = 3,
                               .count = 120},
                  ERROR_SHAPE);
}
