"""Conversations: templates rendered as transformers renders them, within bounds, and what of them is learnt."""

import io
import json
import os
import signal
import sys
import time

import pytest

import llmc
from llmc.cli import main
from llmc.data.conversations import conversation_ids
from llmc.tokenizer import chat_rendering

pytest.importorskip("jinja2")

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
          "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
MARKED = ("{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
          "{{ eos_token }}{% endgeneration %}{% else %}<user>{{ message.content }}</user>{% endif %}{% endfor %}")
HEADED = ("{{ bos_token }}{% set found = namespace(system=false) %}{% for message in messages %}\n"
          "    {% if message.role == 'system' %}{% set found.system = true %}{% continue %}{% endif %}\n"
          "    {% if loop.index0 > 40 %}{% break %}{% endif %}\n"
          "[{{ message.role | upper }} {{ loop.index }}/{{ loop.length }}] "
          "{{ message.content | tojson }}{{ eos_token }}"
          "\n"
          "{% endfor %}{{ found.system }}{% if add_generation_prompt %}[ASSISTANT]{% endif %}")
ASKED = [{"role": "user", "content": "What is 2+2?  "}]
TALK = [*ASKED, {"role": "assistant", "content": " Four. "}, {"role": "user", "content": "And <b> \"é\"?"},
        {"role": "assistant", "content": "No number."}]  # fmt: skip


@pytest.fixture
def tokenizer():
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}
    tok = llmc.Tokenizer.train([llmc.data.builtin_text()[:20000]], vocab_size=320, special_tokens=special)
    tok.chat_template = CHATML
    return tok


@pytest.mark.parametrize("template", (CHATML, MARKED, HEADED))
@pytest.mark.parametrize("prompted", (False, True))
def test_a_template_writes_what_transformers_writes(template, prompted, tokenizer, tmp_path, peers):
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    theirs = peers.transformers.AutoTokenizer.from_pretrained(tmp_path)
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    for messages in (ASKED, talk):
        text = theirs.apply_chat_template(messages, add_generation_prompt=prompted, tokenize=False)
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=prompted, tokenize=False) == text
        ids = theirs.apply_chat_template(messages, add_generation_prompt=prompted, tokenize=True, return_dict=False)
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=prompted) == list(ids)


def test_the_ids_are_the_templates_with_no_second_beginning(tokenizer):
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    ids = tokenizer.apply_chat_template(ASKED)
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("where", ("a file", "the configuration", "names"))
def test_a_template_survives_saving_wherever_it_stood(where, tokenizer, tmp_path):
    tokenizer.chat_template = None
    if where == "a file":
        tokenizer.chat_template = CHATML
    else:
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
        tokenizer._config["chat_template"] = CHATML if where == "the configuration" else named
    tokenizer.save_pretrained(tmp_path)
    again = llmc.Tokenizer.from_pretrained(tmp_path)
    assert again.chat_template == CHATML
    assert again.apply_chat_template(TALK) == tokenizer.apply_chat_template(TALK)


BAD = {
    "no Jinja": ("{% if %}", llmc.CheckpointError, "line 1: Expected an expression"),
    "attributes": ("{{ ''.__class__.__mro__ }}", llmc.CheckpointError, "may not"),
    "memory by an operator": ("{{ 'a' * 10**10 }}", llmc.CheckpointError, "more than 512 MiB"),
    "memory by a filter": ("{{ 'a' | center(10**10) }}", llmc.CheckpointError, "more than 512 MiB"),
    "turns": ("{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}", llmc.CheckpointError,
              "turn more than 1,000,000 times"),
    "calls without end": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", llmc.CheckpointError, "calls itself"),
    "its own refusal": ("{{ raise_exception('roles must alternate') }}", llmc.DataError, "roles must alternate"),
    "what is not there": ("{{ messages[0].tools.name }}", llmc.DataError, "no attribute 'tools'"),
    "filler text": ("{{ lipsum() }}", llmc.DataError, "'lipsum' is undefined"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_template_is_refused_in_words_and_the_next_one_works(what, tokenizer):
    template, kind, words = BAD[what]
    tokenizer.chat_template = template
    with pytest.raises(kind, match=words):
        tokenizer.apply_chat_template(ASKED)
    tokenizer.chat_template = CHATML
    assert tokenizer.apply_chat_template(ASKED)


def test_a_template_that_takes_for_ever_is_stopped(tokenizer, monkeypatch):
    tokenizer.apply_chat_template(ASKED)  # the program has begun
    monkeypatch.setattr(chat_rendering, "SECONDS", 0.5)
    tokenizer.chat_template = "{{ (3 ** (10 ** 8)) % 7 }}"
    begin = time.monotonic()
    with pytest.raises(llmc.CheckpointError, match="takes longer than"):
        tokenizer.apply_chat_template(ASKED)
    assert time.monotonic() - begin < 5
    monkeypatch.undo()
    tokenizer.chat_template = CHATML
    assert tokenizer.apply_chat_template(ASKED)


def test_the_program_that_renders_may_die_and_a_fork_has_its_own(tokenizer):
    text = tokenizer.apply_chat_template(ASKED, tokenize=False)
    child = os.fork()
    if child == 0:
        os._exit(tokenizer.apply_chat_template(ASKED, tokenize=False) != text)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.kill(chat_rendering._child._process.pid, signal.SIGKILL)
    chat_rendering._child._process.wait()
    with pytest.raises(llmc.CheckpointError, match="brought its process down"):
        tokenizer.apply_chat_template(ASKED)
    assert tokenizer.apply_chat_template(ASKED, tokenize=False) == text


@pytest.mark.parametrize("messages,kind,words", (
    ("hello", TypeError, "a list of dicts"),
    ([], llmc.DataError, "is empty"),
    (["hello"], llmc.DataError, r"messages\[0\] is str"),
    ([{"role": "user"}], llmc.DataError, r"messages\[0\] has no content"),
    ([{"role": "user", "content": ["parts"]}], llmc.DataError, "no content that is a text"),
))  # fmt: skip
def test_what_is_no_conversation_is_refused(messages, kind, words, tokenizer):
    with pytest.raises(kind, match=words):
        tokenizer.apply_chat_template(messages)


def test_no_template_is_said(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(llmc.ConfigError, match="no chat template"):
        tokenizer.apply_chat_template(ASKED)


def learnt_text(tokenizer, messages):
    ids, learnt = conversation_ids(messages, tokenizer, "talk.jsonl:3")
    assert ids == tokenizer.apply_chat_template(messages)
    return tokenizer.decode([number for number, one in zip(ids, learnt) if one])


def test_the_assistants_turns_are_learnt_with_the_token_that_ends_them(tokenizer):
    assert learnt_text(tokenizer, TALK) == "Four.<|im_end|>No number.<|im_end|>"


def test_a_template_that_marks_what_is_learnt_is_believed(tokenizer):
    tokenizer.chat_template = MARKED
    assert learnt_text(tokenizer, TALK) == " Four. <|im_end|>No number.<|im_end|>"


def test_without_an_ending_token_the_content_is_learnt(tokenizer):
    tokenizer.chat_template = ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                               "{% if add_generation_prompt %}assistant: {% endif %}")
    assert learnt_text(tokenizer, [ASKED[0], {"role": "assistant", "content": "Four."}]).rstrip("\n") == "Four."


def test_turns_that_cannot_be_told_apart_are_refused_with_file_and_line(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(llmc.DataError, match=r"talk.jsonl:3: messages\[1\]: the text before this turn is not"):
        learnt_text(tokenizer, TALK)
    tokenizer.chat_template = CHATML
    with pytest.raises(llmc.DataError, match="talk.jsonl:3: nothing in this conversation is learnt"):
        learnt_text(tokenizer, ASKED)


def test_somebody_types_and_the_model_answers(tokenizer, tmp_path, monkeypatch, capsys):
    llmc.Model(llmc.Config(vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                           num_attention_heads=2, bos_token_id=None, eos_token_id=None)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = ["generate", str(tmp_path), "--chat", "--max-new-tokens", "3"]
    assert main([*command, "hello"]) == 0
    once = capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nand again\n"))
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(once.out) and once.err.count(": 3 tokens, ") == 1
    tokenizer.chat_template = None
    (tmp_path / "chat_template.jinja").unlink()
    assert main([*command, "hello"]) == 2 and "no chat template" in capsys.readouterr().err
    assert main(["generate", str(tmp_path)]) == 2 and "a prompt is needed" in capsys.readouterr().err


def rows_of_talk(tokenizer):
    return [{"messages": TALK}, {"messages": TALK[:2], "text": "no"}, {"prompt": "2+2=", "response": "4"}]


def test_conversations_are_rows_of_which_the_assistants_turns_are_learnt(tokenizer, tmp_path):
    rows = rows_of_talk(tokenizer)
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for data in (llmc.data.JsonlDataset(tmp_path / "talk.jsonl", tokenizer, 256),
                 llmc.data.JsonlDataset(rows, tokenizer, 256)):
        assert len(data) == 3
        found = data[0]
        assert found["input_ids"].tolist() == tokenizer.apply_chat_template(TALK)
        told = found["input_ids"][found["labels"] != -100].tolist()
        assert tokenizer.decode(told) == "Four.<|im_end|>No number.<|im_end|>"
        assert data.count_targets()[0] == len(told)
        assert data[1]["input_ids"].tolist() == tokenizer.apply_chat_template(TALK[:2])


def test_a_trainer_takes_conversations_and_a_longer_one_is_refused_with_both_numbers(tokenizer, tmp_path):
    config = llmc.Config(vocab_size=tokenizer.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, bos_token_id=None, eos_token_id=None, max_position_embeddings=256)
    args = llmc.TrainingArguments(str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, disable_tqdm=True)
    trainer = llmc.Trainer(llmc.Model(config), args, train_dataset=rows_of_talk(tokenizer), tokenizer=tokenizer)
    trainer.train()
    assert trainer.evaluate(rows_of_talk(tokenizer))["eval_loss"] > 0
    length = len(tokenizer.apply_chat_template(TALK))
    with pytest.raises(llmc.DataError, match=f"row 0: the conversation has {length} tokens, more than block_size 12"):
        llmc.data.JsonlDataset([{"messages": TALK}], tokenizer, 12)


@pytest.mark.parametrize("messages,words", [
    (7, "messages is a list"), ([], "is empty"), ([{"role": "user"}], "content"),
])  # fmt: skip
def test_rows_that_are_no_conversation_are_refused_with_their_place(messages, words, tokenizer):
    with pytest.raises(llmc.DataError, match=f"row 0: .*{words}"):
        llmc.data.JsonlDataset([{"messages": messages}], tokenizer, 99)
