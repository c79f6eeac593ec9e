"""Makes the inputs of this folder, and the right values beside them (right.json) with transformers and peft.

Run in this folder: python make.py
"""

import json
import os

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

V, C, L = 32, 16, 2
IDS = [[3, 17, 8, 21, 30, 9, 4, 12]]


def write(path, value):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        if isinstance(value, str):
            file.write(value)
        else:
            json.dump(value, file, indent=1, ensure_ascii=False)


def llama(folder, vocab=V, width=C, layers=L, heads=2, head=3.0, seed=0, own_head=True, **fields):
    """A LLaMA of random bfloat16 numbers, in the shape that transformers writes."""
    random = np.random.default_rng(seed)
    draw = lambda *shape, scale=1.0: torch.tensor(random.standard_normal(shape) * scale)
    tensors = {"model.embed_tokens.weight": draw(vocab, width, scale=0.7),
               "model.norm.weight": 1 + draw(width, scale=0.3)}
    if own_head:
        tensors["lm_head.weight"] = draw(vocab, width, scale=head / width ** 0.5)
    for layer in range(layers):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                     "mlp.up_proj", "mlp.down_proj"):
            tensors[f"model.layers.{layer}.{name}.weight"] = draw(width, width, scale=1.5 / width ** 0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = 1 + draw(width, scale=0.3)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": width,
              "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": heads, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": not own_head, "bos_token_id": None,
              "eos_token_id": None, "pad_token_id": None, "torch_dtype": "bfloat16", **fields}
    write(f"{folder}/config.json", config)
    save(tensors, folder)
    return tensors


def save(tensors, folder):
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, f"{folder}/model.safetensors",
              metadata={"format": "pt"})


def adapter(folder, base, layers=L, width=C, rank=2, targets=("q_proj", "v_proj"), seed=0, extra=None, **fields):
    """A LoRA adapter of q and v in peft's files."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for name in targets:
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for side, shape, scale in (("A", (rank, width), width ** -0.5), ("B", (width, rank), 0.2)):
                numbers = torch.tensor(random.standard_normal(shape) * scale).float()
                tensors[f"{path}.lora_{side}.weight"] = numbers.bfloat16().float()
    os.makedirs(folder, exist_ok=True)
    save_file({**tensors, **(extra or {})}, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})
    write(f"{folder}/adapter_config.json", {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
        "lora_alpha": 2 * rank, "target_modules": list(targets), "inference_mode": True, **fields})


def byte_level(folder, template=None, **config):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    text = "the cat sat on the mat with the hat , and the dog ran . hello world hello there"
    backend.train_from_iterator([text] * 5, trainer)
    if template:
        used = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>") if token in template]
        backend.post_processor = processors.TemplateProcessing(
            single=template, pair=f"{template} $B:1", special_tokens=used)
    tokenizer(folder, backend, config)


def sentencepiece(folder):
    """LLaMA's layout: bytes as `<0x0A>`, `▁` for a space, one put before every text."""
    characters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;?!#[]/+"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *characters]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for word in ("▁▁", "▁the", "▁yes", "▁answer", "▁Sure"):
        left = word[0]
        for char in word[1:]:
            if left + char not in vocab:
                vocab[left + char] = len(vocab)
                merges.append((left, char))
            left += char
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    tokenizer(folder, backend, {"unk_token": "<unk>"})


def tokenizer(folder, backend, config):
    os.makedirs(folder, exist_ok=True)
    write(f"{folder}/tokenizer.json", backend.to_str(pretty=False))
    write(f"{folder}/tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **config})


def lines(path, *rows):
    write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def inputs():
    llama("base", seed=1)
    adapter("a", "base", seed=2)
    adapter("b", "base", seed=3)
    llama("tied-flag-own-head", seed=4, tie_word_embeddings=True)
    llama("large-logits", layers=24, width=8, heads=1, head=14.0, seed=7)
    adapter("large-logits/adapter", "large-logits", layers=24, width=8, seed=8)
    llama("padded-prompts", seed=9, pad_token_id=0, eos_token_id=2)
    llama("generation-config", seed=10)
    write("generation-config/generation_config.json", {"repetition_penalty": 1.4})
    llama("tied-base", seed=11, own_head=False)
    random = np.random.default_rng(12)
    rows = lambda count: torch.tensor(random.standard_normal((count, C)) * 0.7).float()
    adapter("tied-base/adapter", "tied-base", seed=13, modules_to_save=["lm_head"],
            extra={"base_model.model.lm_head.weight": rows(V)})
    adapter("grown-adapter", "base", seed=14, modules_to_save=["embed_tokens", "lm_head"],
            extra={"base_model.model.model.embed_tokens.weight": rows(V + 3),
                   "base_model.model.lm_head.weight": rows(V + 3)})
    tensors = llama("padded-vocabulary", vocab=304, width=8, layers=1, seed=15, head=1.0)
    direction = torch.tensor(np.random.default_rng(16).standard_normal(8))
    tensors["lm_head.weight"][300], tensors["lm_head.weight"][301] = 40 * direction, -40 * direction
    save(tensors, "padded-vocabulary")
    byte_level("padded-vocabulary")
    sentencepiece("sentencepiece")
    lines("sentencepiece/lines.jsonl", {"prompt": "answer yes [/INST]", "response": " yes."},
          {"prompt": "### the answer:\n", "response": "Sure, the 15."})
    byte_level("chat")
    write("chat/chat_template.jinja", "{% for message in messages %}"
          "{{ '<s>' + message['role'] + ': ' + message['content'] + '</s>' }}{% endfor %}")
    byte_level("special-twice", "<s> $A")
    lines("special-twice/lines.jsonl", {"prompt": "<s>hello the cat", "response": " sat"})
    byte_level("eos-in-template", "<s> $A </s>")
    byte_level("truncation-side", "<s> $A", truncation_side="left")
    byte_level("split-special-tokens", split_special_tokens=True)
    lines("json-lines/lines.jsonl", {"text": "hello the cat"}, {"text": "the dog ran"})


def values():
    """What transformers and peft make of the inputs."""
    import peft
    import transformers
    transformers.logging.set_verbosity_error()

    def opened(folder, **how):
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, **how).eval()

    @torch.no_grad()
    def last(model, ids=IDS, **how):
        return [round(x, 5) for x in model(torch.tensor(ids), **how).logits[0, -1].tolist()]

    right = {"ids": IDS}
    right["tied-flag-own-head"] = {"last logits": last(opened("tied-flag-own-head"))}
    carried = peft.PeftModel.from_pretrained(opened("large-logits"), "large-logits/adapter").eval()
    right["large-logits"] = {"last logits, adapter attached": last(carried),
                             "last logits, merged": last(carried.merge_and_unload())}
    both = peft.PeftModel.from_pretrained(opened("base"), "a", adapter_name="a")
    both.load_adapter("b", adapter_name="b")
    both.base_model.set_adapter(["a", "b"])
    right["a and b on base"] = {"last logits": last(both.eval())}
    config = transformers.AutoConfig.from_pretrained("base")
    config.rope_parameters["rope_theta"] = 50.0
    right["base with rope_theta 50"] = {"last logits": last(opened("base", config=config))}
    positions = [[0, 1, 2, 0, 1, 2, 3, 4]]
    with torch.no_grad():
        packed = opened("base")(torch.tensor(IDS), labels=torch.tensor(IDS), position_ids=torch.tensor(positions),
                                use_cache=False)
    right["packed on base"] = {"position_ids": positions, "loss": round(packed.loss.item(), 6),
                               "last logits": [round(x, 5) for x in packed.logits[0, -1].tolist()],
                               "last logits of ids[0][3:] alone": last(opened("base"), [IDS[0][3:]])}
    prompts = [[5, 9, 30, 7, 11], [0, 0, 0, 14, 25]]
    text = opened("padded-prompts").generate(torch.tensor(prompts), max_new_tokens=8, do_sample=False)
    right["padded-prompts"] = {"prompts": prompts, "greedy, 8 new": text.tolist()}
    text = opened("generation-config").generate(torch.tensor(IDS), attention_mask=torch.ones(1, 8, dtype=torch.long),
                                                max_new_tokens=12, do_sample=False, pad_token_id=0)
    right["generation-config"] = {"greedy, 12 new": text.tolist()}
    tied = peft.PeftModel.from_pretrained(opened("tied-base"), "tied-base/adapter").eval()
    right["tied-base with its adapter"] = {"last logits": last(tied)}
    grown = opened("base")
    grown.resize_token_embeddings(V + 3)
    grown = peft.PeftModel.from_pretrained(grown, "grown-adapter").eval()
    right["grown-adapter on base"] = {"ids": [[3, 33, 8, 34]], "last logits": last(grown, [[3, 33, 8, 34]])}
    tok = transformers.AutoTokenizer.from_pretrained("truncation-side")
    text = "hello the cat sat on the mat"
    right["truncation-side"] = {"text": text, "max_length": 4,
                                "input_ids": tok(text, truncation=True, max_length=4)["input_ids"]}
    tok = transformers.AutoTokenizer.from_pretrained("split-special-tokens")
    right["split-special-tokens"] = {"text": "say </s> hello", "input_ids": tok("say </s> hello")["input_ids"]}
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in right.items())
    write("right.json", f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    inputs()
    values()
