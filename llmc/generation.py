"""Generation: prompts of unequal lengths, the cache, and the choice of the next token."""

import numpy as np

from llmc.checks import whole
from llmc.errors import ConfigError, DataError, NonFiniteError
from llmc.inputs import as_ids, as_mask, as_positions
from llmc.run import Run
from llmc.generate.sampling import Sampler
from llmc.generate.settings import settings
from llmc.generate.stopping import Stopping


def generate(model, ids, attention_mask, num_return_sequences, return_logprobs, prefill_chunk, seed, use_cache, **said):
    """See `Model.generate`."""
    asked = settings(model, **said)
    copies = whole(num_return_sequences, "num_return_sequences", 1)
    if copies > 1 and not asked.do_sample:
        raise ConfigError(f"num_return_sequences is {copies}, and without sampling all would be the same; "
                          f"say do_sample=True")  # fmt: skip
    prompt = _Prompt(model, ids, attention_mask, asked.padding, copies)
    logprobs = [] if return_logprobs else None
    steps = list(_steps(model, prompt, asked, said["tokenizer"], prefill_chunk, seed, use_cache, logprobs))
    out = prompt.continued(_side_by_side(steps, prompt.B, np.int64), asked.fill)
    return (out, _side_by_side(logprobs, prompt.B, np.float32)) if return_logprobs else out


def stream(model, ids, attention_mask, prefill_chunk, seed, use_cache, **said):
    """See `Model.stream`."""
    asked = settings(model, **said)
    prompt = _Prompt(model, ids, attention_mask, asked.padding)
    return _steps(model, prompt, asked, said["tokenizer"], prefill_chunk, seed, use_cache)


def _side_by_side(steps, rows, dtype):
    return np.stack(steps, axis=1).astype(dtype) if steps else np.empty((rows, 0), dtype=dtype)


class _Prompt:
    """The prompt with every row's padding moved to its left, so that all rows go on at the same slot.

    Where no mask is given, `padding` is the token that is padding, if there is one; a row of nothing else is text.
    """

    def __init__(self, model, ids, attention_mask, padding, copies=1):
        given = as_ids(ids, model.config.vocab_size)
        mask = as_mask(attention_mask, given.shape)
        if attention_mask is None and padding is not None:
            mask = (given != padding).astype(np.uint8)
            mask[~mask.any(axis=1)] = 1
        mask = np.ones(given.shape, dtype=np.uint8) if mask is None else mask
        if not mask.any(axis=1).all():
            row = int(np.argmin(mask.any(axis=1)))
            raise DataError(f"attention_mask: row {row} is all padding; a prompt needs a token")
        self.given, mask = np.repeat(given, copies, axis=0), np.repeat(mask, copies, axis=0)
        self.B, self.T = self.given.shape
        self.trailing = np.argmax(mask[:, ::-1], axis=1)  # padding on the right, a row
        columns = (np.arange(self.T)[None, :] - self.trailing[:, None]) % self.T
        self.ids = np.take_along_axis(self.given, columns, axis=1)
        self.mask = np.take_along_axis(mask, columns, axis=1)

    def rows(self):
        """The tokens of each row, padding left out."""
        return [ids[mask == 1] for ids, mask in zip(self.ids, self.mask)]

    def continued(self, new, pad):
        """(B, T + new): each row's new tokens behind its last real token, its padding on the right at the end."""
        out = np.empty((self.B, self.T + new.shape[1]), dtype=np.int64)
        for row, trailing in enumerate(self.trailing):
            real = self.T - trailing
            out[row, :real] = self.given[row, :real]
            out[row, real : real + new.shape[1]] = new[row]
            out[row, real + new.shape[1] :] = self.given[row, real:] if pad is None else pad
        return out


def _steps(model, prompt, asked, tokenizer, prefill_chunk, seed, use_cache, logprobs=None):
    """Checks everything at once, then gives an iterator over the steps; `logprobs` is a list that gets theirs."""
    new = asked.max_new_tokens
    chunk = prompt.T if prefill_chunk is None else whole(prefill_chunk, "prefill_chunk", 1)
    sampler = Sampler(prompt.B, asked.do_sample, asked.temperature, asked.top_k, asked.top_p, asked.min_p,
                      asked.repetition_penalty, seed)  # fmt: skip
    limit = model._position_limit
    longest = int(prompt.mask.sum(axis=1).max())
    if limit is not None and longest + new > limit + 1:
        raise ConfigError(
            f"a prompt of {longest} tokens and {new} new ones reach beyond the {limit} positions this model learned; "
            f"ask for max_new_tokens <= {max(limit + 1 - longest, 0)}, or shorten the prompt"
        )
    model._say_beyond_context(longest + new, f"a prompt of {longest} tokens and {new} new ones")
    if new == 0:
        return iter(())
    reader = (_Cached if use_cache else _Uncached)(model, prompt, new, min(chunk, prompt.T))
    stopping = Stopping(asked.stop, tokenizer, prompt.rows()) if asked.stop else None
    return _continue(reader, sampler, prompt, asked, stopping, logprobs)


def _continue(reader, sampler, prompt, asked, stopping, logprobs):
    ended, all_ended, can_end = np.zeros(prompt.B, dtype=bool), False, bool(len(asked.ends) or stopping)
    seen, banned_early = prompt.rows(), np.union1d(asked.suppressed, asked.ends)
    for step in range(asked.max_new_tokens):
        likeliest = reader.likeliest()
        if -1 in likeliest:
            row = likeliest.index(-1)
            raise NonFiniteError(f"the logits of row {row} are not finite at new token {step}; are the weights?")
        banned = banned_early if step < asked.min_new_tokens else asked.suppressed
        if sampler.takes_the_likeliest and not len(banned):
            tokens = np.array(likeliest, dtype=np.int64)
        else:
            logits = reader.logits()
            if len(banned) or sampler.looks_back:
                logits = logits.copy()
                logits[:, banned] = -np.inf
            tokens = sampler.next(logits, seen)
        if logprobs is not None:
            logprobs.append(np.where(ended, 0.0, _logprobs(reader.logits(), tokens)))
        if can_end:
            tokens[ended] = asked.fill
            ended |= np.isin(tokens, asked.ends)
            if stopping:
                ended |= stopping.met(tokens, ended)
            all_ended = ended.all()
        yield tokens
        if all_ended or step + 1 == asked.max_new_tokens:
            return
        seen = [np.append(row, token) for row, token in zip(seen, tokens)] if sampler.looks_back else seen
        reader.append(tokens)


def _logprobs(logits, tokens):
    """The logarithms (B,) of the probabilities that logits (B, V) give the tokens (B,)."""
    logits = logits - logits.max(axis=1, keepdims=True).astype(np.float64)
    return logits[np.arange(len(tokens)), tokens] - np.log(np.exp(logits).sum(axis=1))


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
        ids = np.ascontiguousarray(self.ids[:, start:end])
        positions = np.ascontiguousarray(self.positions[:, start:end])
        mask = np.ascontiguousarray(self.mask[:, start:end]) if self.padded else None
        if mask is not None and mask.all():
            mask = None
        return self.run._read(ids, positions, mask, frequencies)

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
            self.run._core.trim(0)
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
