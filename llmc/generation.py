"""Generation: prompts of unequal lengths, the cache, and the choice of the next token."""

import numpy as np

from llmc.errors import ConfigError, DataError, NonFiniteError
from llmc.inputs import as_ids, as_mask, as_positions, whole
from llmc.run import Run
from llmc.generate.sampling import Sampler


def generate(model, ids, attention_mask=None, max_new_tokens=64, eos_token_id=None, pad_token_id=None, **options):
    """See `Model.generate`."""
    prompt = _Prompt(model, ids, attention_mask)
    ends = _ends(model, eos_token_id)
    pad = _pad(model, pad_token_id, ends)
    steps = list(_steps(model, prompt, max_new_tokens, ends, pad, **options))
    new = np.stack(steps, axis=1) if steps else np.empty((prompt.B, 0), dtype=np.int64)
    return prompt.continued(new, pad)


def stream(model, ids, attention_mask=None, max_new_tokens=64, eos_token_id=None, pad_token_id=None, **options):
    """See `Model.stream`."""
    prompt = _Prompt(model, ids, attention_mask)
    ends = _ends(model, eos_token_id)
    return _steps(model, prompt, max_new_tokens, ends, _pad(model, pad_token_id, ends), **options)


class _Prompt:
    """The prompt with every row's padding moved to its left, so that all rows go on at the same slot."""

    def __init__(self, model, ids, attention_mask):
        self.given = as_ids(ids, model.config.vocab_size)
        self.B, self.T = self.given.shape
        mask = as_mask(attention_mask, self.given.shape)
        self.mask = np.ones(self.given.shape, dtype=np.uint8) if mask is None else mask
        if not self.mask.any(axis=1).all():
            row = int(np.argmin(self.mask.any(axis=1)))
            raise DataError(f"attention_mask: row {row} is all padding; a prompt needs a token")
        self.trailing = np.argmax(self.mask[:, ::-1], axis=1)  # padding on the right, a row
        columns = (np.arange(self.T)[None, :] - self.trailing[:, None]) % self.T
        self.ids = np.take_along_axis(self.given, columns, axis=1)
        self.mask = np.take_along_axis(self.mask, columns, axis=1)

    def continued(self, new, pad):
        """(B, T + new): each row's new tokens behind its last real token, its padding on the right at the end."""
        out = np.empty((self.B, self.T + new.shape[1]), dtype=np.int64)
        for row, trailing in enumerate(self.trailing):
            real = self.T - trailing
            out[row, :real] = self.given[row, :real]
            out[row, real : real + new.shape[1]] = new[row]
            out[row, real + new.shape[1] :] = self.given[row, real:] if pad is None else pad
        return out


def _ends(model, eos_token_id):
    value = model.config.eos_token_id if eos_token_id is None else eos_token_id
    ends = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    ends = [whole(end, "eos_token_id", -1) for end in ends]
    return np.array([end for end in ends if 0 <= end < model.config.vocab_size], dtype=np.int64)


def _pad(model, pad_token_id, ends):
    pad = model.config.pad_token_id if pad_token_id is None else pad_token_id
    if pad is None:
        return int(ends[0]) if len(ends) else None
    pad = whole(pad, "pad_token_id", -1)
    if len(ends) and pad >= model.config.vocab_size:
        raise ConfigError(f"pad_token_id {pad} is outside [0, {model.config.vocab_size}), the vocabulary of this model")
    return None if pad < 0 else pad


def _steps(model, prompt, max_new_tokens, ends, pad, do_sample=False, temperature=1.0, top_k=None, top_p=None,
           min_p=None, repetition_penalty=1.0, prefill_chunk=None, min_new_tokens=0, seed=None,
           use_cache=True):  # fmt: skip
    """Checks everything at once, then gives an iterator over the steps."""
    new = whole(max_new_tokens, "max_new_tokens")
    chunk = prompt.T if prefill_chunk is None else whole(prefill_chunk, "prefill_chunk", 1)
    least = whole(min_new_tokens, "min_new_tokens")
    sampler = Sampler(prompt.B, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed)
    limit = model._position_limit
    longest = int(prompt.mask.sum(axis=1).max())
    if limit is not None and longest + new > limit + 1:
        raise ConfigError(
            f"a prompt of {longest} tokens and {new} new ones reach beyond the {limit} positions this model learned; "
            f"ask for max_new_tokens <= {max(limit + 1 - longest, 0)}, or shorten the prompt"
        )
    if new == 0:
        return iter(())
    reader = (_Cached if use_cache else _Uncached)(model, prompt, new, min(chunk, prompt.T))
    return _continue(reader, sampler, prompt, new, ends, pad, least)


def _continue(reader, sampler, prompt, new, ends, pad, least):
    seen = [prompt.ids[row][prompt.mask[row] == 1] for row in range(prompt.B)]
    ended, all_ended, can_end = np.zeros(prompt.B, dtype=bool), False, len(ends) > 0
    for step in range(new):
        likeliest = reader.likeliest()
        if -1 in likeliest:
            row = likeliest.index(-1)
            raise NonFiniteError(f"the logits of row {row} are not finite at new token {step}; are the weights?")
        if step >= least and sampler.takes_the_likeliest:
            tokens = np.array(likeliest, dtype=np.int64)
        else:
            logits = reader.logits()
            if step < least or sampler.looks_back:
                logits = logits.copy()
            if step < least:
                logits[:, ends] = -np.inf
            tokens = sampler.next(logits, seen)
        if can_end:
            if pad is not None:
                tokens[ended] = pad
            ended |= np.isin(tokens, ends)
            all_ended = ended.all()
        yield tokens
        if all_ended or step + 1 == new:
            return
        seen = [np.append(row, token) for row, token in zip(seen, tokens)] if sampler.looks_back else seen
        reader.append(tokens)


class _Reader:
    """The tokens so far, and what follows them.

    A reader makes its run first: what is too long for the memory is refused before anything of that length is made.
    What it does between two tokens is little on purpose: the weights that were read meanwhile have driven Python itself
    out of the processor's caches.
    """

    def __init__(self, model, prompt, new):
        shape = (prompt.B, prompt.T + new)
        self.model, self.total = model, prompt.T
        self.ids, self.mask = np.zeros(shape, dtype=np.int32), np.ones(shape, dtype=np.uint8)
        self.ids[:, : prompt.T], self.mask[:, : prompt.T] = prompt.ids, prompt.mask
        self.positions = as_positions(None, self.mask, shape, None)
        self.furthest = self.positions.max(axis=0)
        self.padded = bool((prompt.mask == 0).any())

    def append(self, tokens):
        self.ids[:, self.total] = tokens
        self.total += 1

    def logits(self):
        """(B, V), of what was read last; the next reading overwrites them."""
        return self.run._core.logits[:, 0, :]

    def _read(self, start, end, frequencies):
        """Reads [start, end) and gives the likeliest token that follows, of every row."""
        core = self.run._core
        ids = np.ascontiguousarray(self.ids[:, start:end])
        positions = np.ascontiguousarray(self.positions[:, start:end])
        mask = np.ascontiguousarray(self.mask[:, start:end]) if self.padded else None
        if mask is not None and mask.all():
            mask = None
        core.forward(ids, None, positions, mask, *frequencies, 0.0, ids.shape, [], None, 1)
        return core.likeliest()

    def _frequencies(self):
        return self.model._frequencies(int(self.furthest[self.total - 1]) + 1)


class _Cached(_Reader):
    """Reads what is new; keys and values of the past are in the run's cache.

    Where the rotary frequencies depend on the length and have changed, all is read again: what an earlier token made
    of its past depends on them in every layer.
    """

    def __init__(self, model, prompt, new, chunk):
        self.run = Run(model, prompt.B, max(chunk, 1), past=prompt.T + new - 1)
        super().__init__(model, prompt, new)
        self.chunk, self.read, self.known = chunk, 0, None

    def likeliest(self):
        frequencies = self._frequencies()
        if self.known is not None and frequencies is not self.known:
            self.run._core.rewind()
            self.read = 0
        self.known = frequencies
        while self.read < self.total:
            end = min(self.read + self.chunk, self.total)
            tokens = self._read(self.read, end, frequencies)
            self.read = end
        return tokens


class _Uncached(_Reader):
    """Reads everything at every step."""

    def __init__(self, model, prompt, new, chunk):
        self.run = Run(model, prompt.B, prompt.T + new - 1)
        super().__init__(model, prompt, new)

    def likeliest(self):
        return self._read(0, self.total, self._frequencies())
