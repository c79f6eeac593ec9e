/* One table of kernels: this file compiles once for every instruction set, with the compiler flags of that set.
 *
 * LLMC_TABLE       the table's name, e.g. kernels_avx2
 * LLMC_TABLE_NAME  what the user calls it, a string, e.g. "avx2" */
#include "kernels/kernels.h"

#include "kernels/few_rows.c" /* before gemm.c, which leaves few rows to it */
#include "kernels/gemm.c" /* before attention.c, which multiplies with it */
#include "kernels/embedding.c"
#include "kernels/layernorm.c"
#include "kernels/rmsnorm.c"
#include "kernels/rope.c"
#include "kernels/route.c"
#include "kernels/hyper.c" /* after layernorm.c and route.c, which it is made of */
#include "kernels/mixture.c"
#include "kernels/retrieve.c"
#include "kernels/activation.c"
#include "kernels/gated.c"
#include "kernels/attention.c"
#include "kernels/cross_entropy.c"
#include "kernels/vector.c"
#include "kernels/stats.c"
#include "kernels/adamw.c"
#include "kernels/observe.c"
#include "kernels/compare.c"
#include "kernels/peak.c"

const Kernels LLMC_TABLE = {
    .name = LLMC_TABLE_NAME,
#ifdef LLMC_BFLOAT16
    .rounds = true,
#endif
    .gemm = gemm,
    .gemm_work = GEMM_WORK,
    .packed_size = packed_size,
    .pack = pack,
    .gemm_packed = gemm_packed,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward = layernorm_backward,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .rms_statistic = rms_statistic,
    .rope_table = rope_table,
    .rope_forward = rope_forward,
    .rope_backward = rope_backward,
    .route = route,
    .route_backward = route_backward,
    .hyper_width_forward = hyper_width_forward,
    .hyper_width_backward = hyper_width_backward,
    .hyper_depth_forward = hyper_depth_forward,
    .hyper_depth_backward = hyper_depth_backward,
    .mixture = mixture,
    .mixture_backward = mixture_backward,
    .softmax_offered = softmax_offered,
    .softmax_offered_backward = softmax_offered_backward,
    .prune = prune,
    .prune_backward = prune_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_pattern = attention_pattern,
    .attention_work = attention_work,
    .cross_entropy_forward = cross_entropy_forward,
    .cross_entropy_backward = cross_entropy_backward,
    .softmax_forward = softmax_forward,
    .softmax_backward = softmax_backward,
    .add = add,
    .accumulate = accumulate,
    .scale = scale,
    .dropout = dropout,
    .round = round_numbers,
    .column_sums = column_sums,
    .sum = sum,
    .sum_squares = sum_squares,
    .all_finite = all_finite,
    .likeliest = likeliest,
    .adamw = adamw,
    .observe = observe,
    .compare = compare,
    .peak_multiply_add = peak_multiply_add,
    .peak_multiply_add_flops = PEAK_MULTIPLY_ADD_FLOPS,
    .peak_bfloat16 = peak_bfloat16,
    .peak_bfloat16_flops = PEAK_BFLOAT16_FLOPS,
    .peak_read = peak_read,
};
