"""Conversations as items: their ids are the chat template's, and the assistant's turns are what is learnt."""

from llmc.errors import DataError


def conversation_ids(messages, tokenizer, where):
    """The ids of a conversation, and which of them are learnt.

    A template that marks the assistant's words (`{% generation %}`) is believed. Of others the text up to a turn of
    the assistant, with the prompt that asks for it, is a beginning of the text with the turn: what follows is learnt,
    to the token that ends the turn. A token across a border is not learnt.

    Parameters
    ----------
    messages : list of dict
        `role` and `content`.
    tokenizer : Tokenizer
    where : str
        File and line, for messages.

    Returns
    -------
    ids : list of int
        Those of `tokenizer.apply_chat_template(messages)`.
    learnt : list of bool

    Raises
    ------
    DataError
        When it is no conversation, the template refuses it, or turns cannot be told apart.
    """
    try:
        text, spans = tokenizer._rendered(messages)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if not spans:
            spans = [_turn(messages[: place + 1], text, tokenizer) for place, message in enumerate(messages)
                     if message["role"] == "assistant"]  # fmt: skip
    except (DataError, TypeError) as error:
        raise DataError(f"{where}: {error}") from None
    learnt = [any(start <= first and last <= stop for start, stop in spans) and first < last
              for first, last in encoded["offset_mapping"]]
    if not any(learnt):
        raise DataError(f"{where}: nothing in this conversation is learnt: no turn of the assistant has a token")
    return encoded["input_ids"], learnt


def _turn(messages, text, tokenizer):
    """Where the last of `messages`, a turn of the assistant, stands in the whole text, with the token that ends it."""
    place = len(messages) - 1
    before, _ = tokenizer._rendered(messages[:-1], add_generation_prompt=True)
    turn, _ = tokenizer._rendered(messages)
    if not turn.startswith(before):
        raise DataError(f"messages[{place}]: the text before this turn is not how the text with it begins, so what the "
                        "assistant wrote cannot be told apart; use a template that marks it with {% generation %}")
    content = messages[-1]["content"].strip()
    at = turn.find(content, len(before))
    end = _ended(turn, len(before) if at < 0 else at + len(content), tokenizer)
    if not text.startswith(turn[:end]):
        raise DataError(f"messages[{place}]: the template writes this turn in another way once others follow it, so it "
                        "cannot be found in the whole conversation; give each conversation up to one such turn")
    return len(before), end


def _ended(turn, content_end, tokenizer):
    """Where the token that ends the turn ends: the first special one behind the content; without one, the content."""
    encoded = tokenizer(turn, add_special_tokens=False, return_offsets_mapping=True)
    special = tokenizer._special_ids()
    for number, (first, last) in zip(encoded["input_ids"], encoded["offset_mapping"]):
        if first >= content_end and number in special:
            return last
    return content_end
