"""A model as lm-evaluation-harness asks it: how likely continuations are, and what it writes.

Its conventions are those of its class of Hugging Face models, so that a benchmark's number means the same: how a text
is cut into context and continuation, what is left out where it is too long, where a text begins.
"""

from itertools import groupby, islice

import numpy as np

from llmc.calls import public, warn
from llmc.checks import whole
from llmc.config.rope import grows
from llmc.errors import ConfigError, DataError, NonFiniteError, shown
from llmc.generate.settings import OPTIONS
from llmc.model import Model
from llmc.tokenizer import Tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError(f"benchmarks are lm-evaluation-harness', 0.4.13 or newer, and here: {error}; "
                      f"pip install 'llmc[eval]'") from error

__all__ = ["LM"]

_NEW_TOKENS = 256  # of a continuation for which a task names no number
_POSITIONS = 64  # whose probabilities are computed at once: a large vocabulary's are megabytes each


@public
class LM(TemplateLM):
    """A model and its tokenizer, as an `lm_eval.api.model.LM`.

    Texts get what the tokenizer puts around every text (LLaMA's `<s>`), unless they begin with it. What is longer than
    the model's `max_position_embeddings` loses its beginning. The company of a batch changes no number beyond rounding.

    Parameters
    ----------
    model : Model
    tokenizer : Tokenizer
    batch_size : int
        Texts that are read at once.

    Examples
    --------
    >>> lm = llmc.harness.LM(model, tokenizer)                                                  # doctest: +SKIP
    >>> lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"], num_fewshot=1)["results"]         # doctest: +SKIP
    """

    def __init__(self, model, tokenizer, batch_size=8):
        super().__init__()
        for value, name, kind in ((model, "model", Model), (tokenizer, "tokenizer", Tokenizer)):
            if not isinstance(value, kind):
                raise TypeError(f"LM: {name} is {shown(value)}, not a llmc.{kind.__name__}")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = whole(batch_size, "batch_size", 1)

    @property
    def max_length(self):
        """Tokens that the model reads at once."""
        return self.model.config.max_position_embeddings

    @property
    def eot_token_id(self):
        """The token that ends a text, or None."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self):
        """The token before a text that has no context: that which begins texts, else that which ends them."""
        prefix = self._prefix()
        if prefix is None:
            raise DataError("a text without a context needs a token before it, and the tokenizer has neither bos_token "
                            "nor eos_token; set one of them")
        return prefix

    def _prefix(self):
        begins = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begins is None else begins

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        """The ids of a text; special tokens around it unless it begins with that one, or as `add_special_tokens` says.
        """
        if add_special_tokens is None:
            prefix = self._prefix()
            add_special_tokens = prefix is None or not string.startswith(self.tokenizer.decode(prefix))
        return self.tokenizer.encode(string, add_special_tokens)

    # --- how likely ------------------------------------------------------------------------------------------------
    def loglikelihood(self, requests, disable_tqdm=None):
        """How likely continuations are.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            Their `args` are (context, continuation).
        disable_tqdm : bool, optional
            No bar; by default there is one in a terminal.

        Returns
        -------
        list of (float, bool)
            The sum of the continuation's log-probabilities, in nats, and whether each of its tokens is the likeliest.
        """
        texts = [request.args for request in requests]
        return self._loglikelihood_tokens([(pair, *self._cut(*pair)) for pair in texts], disable_tqdm)

    def _cut(self, context, continuation):
        """(ids of the context, ids of the continuation): of both as one text, cut where the context alone ends."""
        if context == "":
            ids = self.tok_encode(continuation, add_special_tokens=False)
            begins = len(ids) > 1 and ids[0] == self.prefix_token_id
            return (ids[:1], ids[1:]) if begins else ([self.prefix_token_id], ids)
        before, after = self._encode_pair(context, continuation)
        if not after:  # one token reaches across the cut
            spaces = context[len(context.rstrip()) :]
            after = self.tok_encode(spaces + continuation, add_special_tokens=False)
        return before or [self.prefix_token_id], after

    def _loglikelihood_tokens(self, requests, disable_tqdm=None, **kwargs):
        """The same of (key, ids of the context, ids of the continuation); requests that read the same share it."""
        readers, longer = {}, 0
        for number, (key, context, continuation) in enumerate(requests):
            if not 0 < len(continuation) <= self.max_length:
                raise DataError(f"request {number}: {shown(key and key[1])} has {len(continuation)} tokens; a "
                                f"continuation has 1 to {self.max_length}, the most that this model reads")
            ids = (*context, *continuation)
            longer += len(ids) > self.max_length + 1
            readers.setdefault(ids[-(self.max_length + 1) : -1], []).append(number)
        if longer:
            warn(f"{longer:,} of {len(requests):,} texts are longer than the {self.max_length:,} tokens that this "
                 f"model reads; their beginnings are left out")
        answers = [None] * len(requests)
        with _bar(len(requests), "loglikelihood", disable_tqdm) as bar:
            for number, answer in self._answers(requests, readers):
                answers[number] = answer
                if requests[number][0] is not None:  # windows of a text have no key of their own
                    self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
                bar.update()
        return answers

    def _answers(self, requests, readers):
        """Pairs (number of a request, its answer); `readers` is {ids that are read: numbers of what they answer}."""
        reads = sorted(readers, key=len, reverse=True)
        run = self.model.run(min(self.batch_size, len(reads)), len(reads[0])) if reads else None
        for batch in self._batches(reads):
            ids = np.zeros((len(batch), len(batch[0])), dtype=np.int64)  # what stands behind a text changes nothing
            for row, read in zip(ids, batch):
                row[: len(read)] = read
            asked = [(row, len(read), number, requests[number][2])
                     for row, read in enumerate(batch) for number in readers[read]]  # fmt: skip
            first = min(length - len(continuation) for _, length, _, continuation in asked)
            run.forward(ids, logits_to_keep=ids.shape[1] - first)
            logits = run.logits
            for row, length, number, continuation in asked:
                end = length - first
                yield number, _answer(logits[row, end - len(continuation) : end], continuation, number)

    def _batches(self, reads):
        """Lists of rows, the longest first; of one length where the rotary frequencies depend on it."""
        config = self.model.config
        alike = len if config._has_rope and grows(config) else lambda read: 0
        for _, group in groupby(reads, alike):
            while batch := list(islice(group, self.batch_size)):
                yield batch

    def loglikelihood_rolling(self, requests, disable_tqdm=None):
        """How likely whole texts are, each token once, with as much before it as the model reads.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            Their `args` are (text,).
        disable_tqdm : bool, optional
            As for `loglikelihood`.

        Returns
        -------
        list of float
            The sum of the text's log-probabilities, in nats.
        """
        windows, owners = [], []
        for owner, request in enumerate(requests):
            pairs = get_rolling_token_windows(token_list=self.tok_encode(request.args[0]),
                                              prefix_token=self.prefix_token_id, max_seq_len=self.max_length,
                                              context_len=1)
            mine = [(None, *make_disjoint_window(pair)) for pair in pairs]
            windows += mine
            owners += [owner] * len(mine)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm)):
            totals[owner] += value
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    # --- what it writes --------------------------------------------------------------------------------------------
    def generate_until(self, requests, disable_tqdm=None):
        """Continuations, each up to the first of the texts that end it.

        Parameters
        ----------
        requests : list of lm_eval.api.instance.Instance
            Their `args` are (context, what the task says of generation): `until`, `max_gen_toks` (or `max_new_tokens`,
            `max_tokens`; 256), `do_sample`, `temperature` and the other words of `Model.generate`.
        disable_tqdm : bool, optional
            As for `loglikelihood`.

        Returns
        -------
        list of str
        """
        texts, said = [None] * len(requests), {}
        for number, request in enumerate(requests):
            said.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        with _bar(len(requests), "generate_until", disable_tqdm) as bar:
            for numbers in said.values():
                asked = self._asked(requests[numbers[0]].args[1])
                prompts = {number: self._prompt(requests[number].args[0], asked[0]) for number in numbers}
                rest = iter(sorted(numbers, key=lambda number: -len(prompts[number])))
                while batch := list(islice(rest, self.batch_size)):
                    written = self._written([prompts[number] for number in batch], *asked)
                    for number, text in zip(batch, written):
                        texts[number] = text
                        self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(len(batch))
        return texts

    def _asked(self, said):
        """(new tokens, texts that end a continuation, words for `Model.generate`) of what a task says."""
        options = dict(normalize_gen_kwargs(said, _NEW_TOKENS))
        until = handle_stop_sequences(options.pop("until"), eos=self.tokenizer.eos_token)
        new = whole(options.pop("max_gen_toks"), "max_gen_toks", 1)
        if new >= self.max_length:
            raise ConfigError(f"max_gen_toks is {new}, and this model reads {self.max_length} tokens, the context "
                              f"among them; the task has to ask for fewer")
        if options.pop("num_beams", 1) != 1:
            raise ConfigError(f"num_beams is {shown(said['num_beams'])}; llmc takes the likeliest token, or samples")
        if not options["do_sample"]:
            options.pop("temperature", None)
        unknown = sorted(options.keys() - OPTIONS.keys())
        if unknown:
            raise ConfigError(f"the task asks for {unknown[0]}={shown(options[unknown[0]])}, which generation here "
                              f"does not have; it has {', '.join(OPTIONS)}")
        return new, [text for text in until if text], options

    def _prompt(self, context, new):
        """The last tokens of a context, such that `new` ones fit behind them."""
        return self.tok_encode(context)[-(self.max_length - new) :] or [self.prefix_token_id]

    def _written(self, prompts, new, until, options):
        """What follows each of these prompts (lists of ids)."""
        longest = max(map(len, prompts))
        ids, mask = np.zeros((2, len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        ends = self._ends()
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=new, eos_token_id=ends, stop=until,
                                  tokenizer=self.tokenizer, seed=int(np.random.randint(2**31)),  # lm_eval's seed
                                  **options)  # fmt: skip
        for row in out[:, longest:].tolist():
            end = next((place for place, token in enumerate(row) if token in ends), len(row))
            yield postprocess_generated_text(self.tokenizer.decode(row[:end], skip_special_tokens=True), until, None)

    def _ends(self):
        """The tokens that end a text: the model's, and the tokenizer's."""
        ends = self.model.config.eos_token_id
        ends = [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]
        return ends if self.eot_token_id is None else sorted({*ends, self.eot_token_id})

    # --- conversations ---------------------------------------------------------------------------------------------
    @property
    def tokenizer_name(self):
        """What tells prompts that were written with one chat template from those with another."""
        return (self.model._name_or_path or "").replace("/", "__")

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        """A conversation as text, its last message open where the assistant is not asked to begin one."""
        text = self.tokenizer.apply_chat_template(chat_history, add_generation_prompt, tokenize=False)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].rstrip()
        return text[: text.rindex(last) + len(last)]


def _answer(logits, targets, number):
    """(sum of the log-probabilities that logits (N, V) give N targets, whether each is the likeliest)."""
    total, likeliest = 0.0, True
    for start in range(0, len(targets), _POSITIONS):
        part, wanted = logits[start : start + _POSITIONS], np.array(targets[start : start + _POSITIONS])
        highest = part.argmax(axis=1)
        rows = np.arange(len(part))
        shifted = part - part[rows, highest][:, None]
        total += float((shifted[rows, wanted] - np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))).sum())
        likeliest = likeliest and bool((highest == wanted).all())
    if not np.isfinite(total):
        raise NonFiniteError(f"request {number}: its log-probability is {total}; are the weights finite?")
    return total, likeliest


def _bar(total, what, disable):
    from tqdm import tqdm

    return tqdm(total=total, desc=what, leave=False, disable=disable)
