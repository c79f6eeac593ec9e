/* Observe: six sums a row over an input and an output of unequal widths, see ops/op_observe.c
 *
 * sums (N,6)   x (N,I), row stride ldx   y (N,O), row stride ldy */

static void observe(real *sums, const real *x, size_t ldx, const real *y, size_t ldy, int N, int I, int O) {
    int common = I < O ? I : O;
    for (int n = 0; n < N; n++) {
        const real *x_n = x + (size_t)n * ldx, *y_n = y + (size_t)n * ldy;
        double dot = 0, xx = 0, yy = 0, apart = 0, total = 0, squares = 0, from_mean = 0;
        #pragma omp simd reduction(+ : dot, xx, yy, apart)
        for (int c = 0; c < common; c++) {
            double a = x_n[c], b = y_n[c];
            dot += a * b;
            xx += a * a;
            yy += b * b;
            apart += (b - a) * (b - a);
        }
        #pragma omp simd reduction(+ : total, squares)
        for (int c = 0; c < I; c++) {
            double a = x_n[c];
            total += a;
            squares += a * a;
        }
        double mean = I ? total / I : 0;
        #pragma omp simd reduction(+ : from_mean)
        for (int c = 0; c < O; c++) {
            double b = y_n[c] - mean;
            from_mean += b * b;
        }
        real *row = sums + (size_t)n * 6;
        row[0] = (real)dot;
        row[1] = (real)xx;
        row[2] = (real)yy;
        row[3] = (real)apart;
        row[4] = (real)from_mean;
        row[5] = (real)squares;
    }
}
