"""The work of every job as a user of torch, transformers and peft does it; see ours.py, whose functions these mirror.

float32 is eager float32; bfloat16 is autocast where weights are trained, and a bfloat16 model where they are only read.
"""

import contextlib
import time

import torch

from llmc.bench.ours import tokens


def _model(config, dtype=torch.float32, compiled=False):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    fields = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}.get(config["model_type"], {})
    config = transformers.AutoConfig.for_model(**config, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return torch.compile(model) if compiled else model


def _autocast(precision):
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def _trainer(model, ids, precision):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step():
        with _autocast(precision):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def train(config, batch, length, precision, compiled):
    """A training step."""
    model = _model(config, compiled=compiled).train()
    return _trainer(model, torch.tensor(tokens(config, batch, length)), precision)


def lora(config, batch, length, rank, precision, compiled):
    """A training step of peft's adapters."""
    import peft

    model = _model(config, _narrow(precision))
    model = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear",
                                                       task_type="CAUSAL_LM")).train()
    model = torch.compile(model) if compiled else model
    return _trainer(model, torch.tensor(tokens(config, batch, length)), precision)


def _narrow(precision):
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def prompt(config, length, precision, compiled):
    """A prompt read."""
    model = _model(config, _narrow(precision), compiled).eval()
    ids = torch.tensor(tokens(config, 1, length))

    def step():
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    return step


def decode(config, prompt, new, precision, compiled):
    """Greedy decoding, from the first new token on."""
    model = _model(config, _narrow(precision), compiled).eval()
    ids = torch.tensor(tokens(config, 1, prompt))
    mask = torch.ones_like(ids)

    class Moments:
        """A streamer: is given the prompt, then every new token."""

        def __init__(self):
            self.moments = []

        def put(self, _):
            self.moments.append(time.perf_counter())

        def end(self):
            pass

    def step():
        streamer = Moments()
        with torch.inference_mode():
            model.generate(input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=new, max_new_tokens=new,
                           pad_token_id=0, streamer=streamer)
        return {"seconds": streamer.moments[-1] - streamer.moments[1]}

    return step


def product(rows, inputs, outputs, which, precision, compiled):
    """One product of a linear."""
    x, weight, dout = (torch.randn(*shape, dtype=_narrow(precision))
                       for shape in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    work = {"forward": lambda: x @ weight.T, "dx": lambda: dout @ weight, "dw": lambda: dout.T @ x}[which]
    return _without_gradients(torch.compile(work) if compiled else work)


def _without_gradients(work):
    def step():
        with torch.inference_mode():
            work()

    return step


def attention(batch, length, heads, size, which, precision, compiled):
    """Causal attention."""
    def attend(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    backward = which == "backward"
    dtype = _narrow(precision)
    q, k, v = (torch.randn(batch, length, heads, size, dtype=dtype).transpose(1, 2).requires_grad_(backward)
               for _ in range(3))
    work = torch.compile(attend) if compiled else attend
    if not backward:
        return _without_gradients(lambda: work(q, k, v))
    dout = torch.randn(batch, heads, length, size, dtype=dtype)

    def step():
        out = work(q, k, v)
        start = time.perf_counter()
        torch.autograd.grad(out, (q, k, v), dout)
        return {"seconds": time.perf_counter() - start}

    return step
