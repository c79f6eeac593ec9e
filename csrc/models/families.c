/* families: one row an architecture. A new one is a row here and an entry in the tests' table. */
#include "models/families.h"

#include <string.h>

#define GPT_BLOCK                                                                                                    \
    .layers = "h", .attention_norm = "ln_1", .attention = "attn", .qkv = "c_attn", .o = "c_proj", .ffn_norm = "ln_2", \
    .ffn = "mlp", .up = "c_fc", .down = "c_proj", .head = "lm_head"

#define LLAMA                                                                                                       \
    .norm = NORM_RMS, .place = PLACE_PRE, .final = FINAL_NORM, .position = POSITION_ROPE, .ffn = FFN_GATED,          \
    .names = {.root = "model", .embed = "embed_tokens", .layers = "layers", .final = "norm",                         \
              .attention_norm = "input_layernorm", .attention = "self_attn", .q = "q_proj", .k = "k_proj",           \
              .v = "v_proj", .o = "o_proj", .ffn_norm = "post_attention_layernorm", .ffn = "mlp", .gate = "gate_proj", \
              .up = "up_proj", .down = "down_proj", .head = "lm_head"}

static const Family families[] = {
    {"openai-gpt", {.norm = NORM_LAYER, .place = PLACE_POST, .final = FINAL_NONE, .position = POSITION_LEARNED,
                    .ffn = FFN_MLP, .in_out = true,
                    .names = {.root = "transformer", .embed = "tokens_embed", .positions = "positions_embed", GPT_BLOCK}}},
    {"gpt2", {.norm = NORM_LAYER, .place = PLACE_PRE, .final = FINAL_NORM, .position = POSITION_LEARNED,
              .ffn = FFN_MLP, .in_out = true,
              .names = {.root = "transformer", .embed = "wte", .positions = "wpe", .final = "ln_f", GPT_BLOCK}}},
    {"llama", {LLAMA}},
    {"mistral", {LLAMA}}, /* a LLaMA whose config gives a window */
};

int family_count(void) { return (int)(sizeof families / sizeof *families); }
const Family *family_at(int i) { return &families[i]; }

const Family *family_find(const char *model_type) {
    for (int i = 0; i < family_count(); i++)
        if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
    return NULL;
}
