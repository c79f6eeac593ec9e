"""What a tokenizer does with conversations: its template, and what that writes."""

from llmc.data.messages import check_messages
from llmc.errors import ConfigError
from llmc.tokenizer.chat_templates import DEFAULT


class Conversations:
    """The part of `Tokenizer` that knows of messages; a base of it alone."""

    @property
    def chat_template(self):
        """The template of conversations (Jinja), or None; it may be set."""
        own = self._config.get("chat_template")
        if isinstance(own, list):  # an older spelling: named ones
            own = next((each.get("template") for each in own if each.get("name") == "default"), None)
        return self._chat_templates.get(DEFAULT, own)

    @chat_template.setter
    def chat_template(self, template):
        if template is not None and not isinstance(template, str):
            raise TypeError(f"chat_template is a text, not {type(template).__name__}")
        self._config.pop("chat_template", None)
        self._chat_templates.pop(DEFAULT, None)
        if template is not None:
            self._chat_templates[DEFAULT] = template

    def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=True):
        """A conversation as the model reads it.

        Parameters
        ----------
        messages : list of dict
            `{"role": "user", "content": "…"}`, one behind the other; other keys are the template's business.
        add_generation_prompt : bool
            End with what asks the assistant to speak.
        tokenize : bool
            Ids; otherwise the text.

        Returns
        -------
        list of int, or str
            What the template writes, and nothing around it: no second token that begins a text.

        Raises
        ------
        ConfigError
            When the tokenizer has no template.
        DataError
            When these are no messages, or the template refuses them.
        CheckpointError
            When the template is no Jinja, or would take more than 10 s, 512 MiB or a million turns of loops.
        ImportError
            Without jinja2 (`pip install 'llmc[chat]'`).
        """
        text, _ = self._rendered(messages, add_generation_prompt)
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def _rendered(self, messages, add_generation_prompt=False):
        """(text, spans of the assistant's words where the template marks them) of a conversation."""
        from llmc.tokenizer.chat_rendering import render

        template = self.chat_template
        if template is None:
            raise ConfigError("this tokenizer has no chat template; set its chat_template (a Jinja text), or open the "
                              "folder of a model that was trained on conversations")
        special = {name: token for name, token in self._special.items() if token is not None}
        return render(template, {**special, "messages": check_messages(messages), "tools": None, "documents": None,
                                 "add_generation_prompt": bool(add_generation_prompt)})

    def _special_ids(self):
        """The ids of the tokens that are no text."""
        return {number for number, token in self._backend.get_added_tokens_decoder().items() if token.special}
