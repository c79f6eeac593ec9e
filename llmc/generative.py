"""Generative: how a model is asked to go on with a text."""

from llmc import generation


class Generative:
    """The methods of a Model that continue texts."""

    def generate(self, ids, attention_mask=None, max_new_tokens=None, do_sample=None, temperature=None, top_k=None,
                 top_p=None, min_p=None, repetition_penalty=None, prefill_chunk=None, min_new_tokens=None,
                 eos_token_id=None, pad_token_id=None, seed=None, use_cache=True, stop=None, tokenizer=None,
                 num_return_sequences=1, return_logprobs=False):  # fmt: skip
        """Continue every row.

        What is None is what the model's generation_config.json says, else what stands here in brackets. Of that file
        do_sample, temperature, top_k, top_p, min_p, repetition_penalty, min_new_tokens, max_new_tokens,
        suppress_tokens and the ids of end, beginning and padding are obeyed, those of sampling where tokens are
        sampled; a warning names what else in it would change the text.

        Parameters
        ----------
        ids : (B, T) or (T,) integers
        attention_mask : (B, T) of 0 and 1, optional
            Padding on either side. Without one, `pad_token_id` is padding unless it ends texts too.
        max_new_tokens : int, optional
            [64]
        do_sample : bool, optional
            Sample; otherwise take the likeliest token [False; True where temperature, top_k, top_p or min_p is given].
        temperature, top_k, top_p, min_p : float or int, optional
            Of sampling, as in transformers [1.0, every token].
        repetition_penalty : float, optional
            [1.0]
        prefill_chunk : int, optional
            Read the prompt in pieces of this many tokens.
        min_new_tokens : int, optional
            No end before these [0].
        eos_token_id : int, list of int, optional
            -1: never stop [the config's].
        pad_token_id : int, optional
            What stands behind the end of a row [the config's, else the end].
        seed : int, optional
            Of sampling; the same seed gives the same text.
        use_cache : bool
            Keep keys and values between steps; the text is the same without.
        stop : list of str, optional
            A row ends with the token that completes one of these in its new text.
        tokenizer : Tokenizer, optional
            For `stop`.
        num_return_sequences : int
            Rows for each prompt, one behind the other; above 1 only where tokens are sampled.
        return_logprobs : bool
            Give the logarithms of probabilities too.

        Returns
        -------
        (B, T + new) int64
            Rows that have ended are filled with `pad_token_id`; right-padded rows go on after their last real token.
            With `return_logprobs` also (B, new) float32: of each new token by the model's own distribution, before
            any penalty, temperature or filter; 0 behind a row's end.

        Raises
        ------
        ConfigError, TypeError
            For an option that is impossible, a text longer than the model has learned positions.
        DataError, ShapeError
            For ids or a mask that cannot be.
        NonFiniteError
            When logits are not finite.
        """
        return generation.generate(
            self, ids, attention_mask, num_return_sequences, return_logprobs, prefill_chunk, seed, use_cache,
            max_new_tokens=max_new_tokens, do_sample=do_sample, temperature=temperature, top_k=top_k, top_p=top_p,
            min_p=min_p, repetition_penalty=repetition_penalty, min_new_tokens=min_new_tokens,
            eos_token_id=eos_token_id, pad_token_id=pad_token_id, stop=stop, tokenizer=tokenizer,
        )  # fmt: skip

    def stream(self, ids, attention_mask=None, max_new_tokens=None, do_sample=None, temperature=None, top_k=None,
               top_p=None, min_p=None, repetition_penalty=None, prefill_chunk=None, min_new_tokens=None,
               eos_token_id=None, pad_token_id=None, seed=None, use_cache=True, stop=None,
               tokenizer=None):  # fmt: skip
        """Continue every row, one (B,) int64 array of new tokens a step; arguments and errors as for `generate`."""
        return generation.stream(
            self, ids, attention_mask, prefill_chunk, seed, use_cache, max_new_tokens=max_new_tokens,
            do_sample=do_sample, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, min_new_tokens=min_new_tokens, eos_token_id=eos_token_id,
            pad_token_id=pad_token_id, stop=stop, tokenizer=tokenizer,
        )  # fmt: skip
