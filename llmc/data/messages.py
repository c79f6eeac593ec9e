"""Messages: what a conversation is made of, checked before anything reads it."""

from llmc.errors import DataError


def check_messages(messages):
    """`messages`, once they are a conversation: a list of objects with a role and a text.

    Raises
    ------
    TypeError, DataError
        When they are not; the message names the place.
    """
    if not isinstance(messages, (list, tuple)):
        raise TypeError(f"messages is a list of dicts with role and content, not {type(messages).__name__}")
    if not messages:
        raise DataError("messages is empty; a conversation has one message at least")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise DataError(f"messages[{place}] is {type(message).__name__}; it is an object with role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise DataError(f"messages[{place}] has no {key} that is a text; it has {', '.join(map(str, message))}")
    return list(messages)
