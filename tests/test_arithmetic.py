"""The arithmetic task: expressions in a prime field, the rows that work them out, and how a model is marked."""

import ast
import time

import numpy as np
import pytest

import llmc
from llmc.analysis import arithmetic_accuracy
from llmc.data import ArithmeticDataset
from llmc.data.arithmetic import CLOSE, EOS, EQUALS, OPEN, OVER, PAD, ZERO, decode, encode, evaluate, vocabulary
from llmc.data.arithmetic_rows import all_rows, most_rows
from llmc.errors import ConfigError, DataError


def by_python(text, modulus):
    """The value of an expression, by Python's own reading of it."""
    def value(node):
        if isinstance(node, ast.Constant):
            return node.value % modulus
        left, right = value(node.left), value(node.right)
        kind = type(node.op)
        if kind is ast.Div:
            return left * pow(right, -1, modulus) % modulus
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[kind] % modulus

    return value(ast.parse(text, mode="eval").body)


def expressions(row, modulus=11):
    return decode(row, modulus).split("=")


# --- the language


def test_the_vocabulary_has_each_token_where_its_id_says():
    assert vocabulary() == "<pad> <cls> <eos> + - * / ( ) = 0 1 2 3 4 5 6 7 8 9 10".split()
    assert len(vocabulary(107)) == 117 and vocabulary(107)[10 + 100] == "100"


def test_texts_and_ids_are_each_others():
    text = "(7+5)/(6+4*3-2*7)="
    ids = encode(text)
    assert [vocabulary()[each] for each in ids] == "( 7 + 5 ) / ( 6 + 4 * 3 - 2 * 7 ) =".split()
    assert decode(ids) == text == decode([PAD, *ids, EOS, PAD])
    assert encode(" ( 7+5) /(6 + 4*3-2*7 )= ") == ids == encode(decode(np.array(ids)))
    assert encode("10*1<eos>") == [20, 5, 11, EOS]
    assert encode("106/100", modulus=107) == [116, OVER, 110]


@pytest.mark.parametrize("text, expected", [
    ("(7+5)/(6+4*3-2*7)", 3), ("3", 3), ("2-3", 10), ("1-2-3", 7), ("8/4/2", 1), ("2+3*4", 3), ("(((5)))", 5),
    ("1/2", 6), ("6*(1+1)=", 1), ("0/3", 0),
])  # fmt: skip
def test_values_are_those_of_the_field(text, expected):
    assert evaluate(text) == expected == evaluate(encode(text)) == by_python(text.rstrip("="), 11)


@pytest.mark.parametrize("modulus", [2, 3, 11, 107])
def test_random_expressions_are_worth_what_python_says(modulus):
    generator = np.random.default_rng(modulus)

    def expression(depth):
        if not depth or generator.random() < 0.2:
            return str(generator.integers(modulus))
        inner = f"{expression(depth - 1)}{generator.choice(list('+-*/'))}{expression(depth - 1)}"
        return f"({inner})" if generator.random() < 0.5 else inner

    compared = 0
    for text in (expression(4) for _ in range(400)):
        try:
            expected = by_python(text, modulus)
        except ValueError:  # no inverse
            with pytest.raises(DataError, match="division by 0"):
                evaluate(text, modulus)
            continue
        assert evaluate(text, modulus) == expected, text
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("call, error, words", [
    (lambda: vocabulary(12), ConfigError, "modulus is 12, a multiple of 2; a prime is needed"),
    (lambda: vocabulary(1), ConfigError, "modulus is 1, not a whole number of at least 2"),
    (lambda: vocabulary("11"), TypeError, "modulus is '11'"),
    (lambda: encode("7+11"), DataError, "'11' at character 2 is no token.*from 0 to 10"),
    (lambda: encode("7 + x"), DataError, "'x' at character 4"),
    (lambda: encode("<bos>1"), DataError, "'<bos>' at character 0"),
    (lambda: encode(7), TypeError, "a text, not int"),
    (lambda: decode([10, 21]), DataError, "a token id is 21"),
    (lambda: decode("1+1"), TypeError, "whole numbers in a row, not str"),
    (lambda: evaluate("1/(3-3)"), DataError, "division by 0"),
    (lambda: evaluate("1+"), DataError, "a number has to stand at its end"),
    (lambda: evaluate(""), DataError, "a number has to stand at its end"),
    (lambda: evaluate("-1"), DataError, "a number has to stand at token 0"),
    (lambda: evaluate("1 2"), DataError, "a number cannot stand at token 1"),
    (lambda: evaluate("2(3)"), DataError, "a number cannot stand at token 1"),
    (lambda: evaluate("(1"), DataError, r"a \( is not closed"),
    (lambda: evaluate("1)"), DataError, "nothing is open"),
    (lambda: evaluate("()"), DataError, "a number has to stand at token 1"),
    (lambda: evaluate("1=1"), DataError, "= at token 1 is no part"),
])  # fmt: skip
def test_what_is_no_expression_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_brackets_may_be_deep():
    assert evaluate("(" * 5000 + "7" + ")" * 5000) == 7


# --- the rows


@pytest.mark.parametrize("operands, modulus", [(4, 2), (3, 11), (5, 11), (8, 11), (4, 107)])
def test_all_expressions_of_a_row_are_worth_the_same(operands, modulus):
    for row in ArithmeticDataset(operands, 40, seed=3, modulus=modulus).rows:
        *worked, value = expressions(row, modulus)
        assert len(worked) == operands - 1 and row[-1] == EOS and row.count(EOS) == 1
        assert [sum(token >= ZERO for token in encode(text, modulus)) for text in worked] == [*range(operands, 1, -1)]
        assert {by_python(text, modulus) for text in worked} == {int(value)}
        assert {evaluate(text, modulus) for text in worked} == {int(value)}


@pytest.mark.parametrize("operands, mean, longest", [(4, 22.2, 26), (5, 34.4, 42), (6, 49.5, 62), (7, 67.1, 86),
                                                     (8, 87.6, 114)])  # fmt: skip
def test_rows_are_as_long_as_those_of_the_first_generator(operands, mean, longest):
    lengths = [len(row) for row in ArithmeticDataset(operands, 4000).rows]
    assert np.mean(lengths) == pytest.approx(mean, abs=5 * np.std(lengths) / np.sqrt(4000))
    assert max(lengths) <= longest


def test_brackets_stand_behind_a_division_and_around_sums_that_need_them():
    found = set()
    for row in ArithmeticDataset(6, 300).rows:
        text = f"  {expressions(row)[0]}  "
        for opening in (place for place, character in enumerate(text) if character == "("):
            closing, depth, sums = opening + 1, 1, False
            while depth:
                depth += (text[closing] == "(") - (text[closing] == ")")
                sums |= depth == 1 and text[closing] in "+-"
                closing += 1
            before, after = text[opening - 1], text[closing]
            assert before == "/" or sums and (before in "-*" or after in "*/"), text
            found.add((before, sums))
    assert {("/", True), ("/", False), ("-", True), ("*", True), (" ", True)} <= found


def test_rows_are_distinct_and_follow_from_the_arguments():
    rows = ArithmeticDataset(3, 5000, seed=1).rows
    assert len(set(rows)) == 5000
    assert rows == ArithmeticDataset(3, 5000, seed=1).rows
    assert rows[:100] != ArithmeticDataset(3, 100, seed=2).rows


def test_excluded_rows_do_not_come():
    data = ArithmeticDataset(2, 400)
    held = ArithmeticDataset(2, 73, seed=1, exclude=data)
    assert not set(held.rows) & set(data.rows)
    assert set(held.rows) | set(data.rows) == set(all_rows(2, 11))
    lists = [list(row) for row in data.rows]
    assert ArithmeticDataset(2, 73, seed=1, exclude=lists).rows == held.rows


@pytest.mark.parametrize("arguments, words", [
    (dict(operands=2, samples=474), "samples is 474, but of 2 operands modulo 11 there are 473 rows"),
    (dict(operands=2, samples=10**9), "at most 583 rows"),
    (dict(operands=3, samples=10**7), "samples is 10000000"),
    (dict(operands=2, samples=1, exclude=list(all_rows(2, 11))), "there are 0 rows beside the 473 that are excluded"),
])  # fmt: skip
def test_more_rows_than_there_are_is_said_at_once(arguments, words):
    with pytest.raises(DataError, match=words):
        ArithmeticDataset(**arguments)


def test_all_rows_there_are_can_be_had():
    assert set(ArithmeticDataset(2, 473).rows) == set(all_rows(2, 11))
    for modulus in (2, 3):
        for operands in (2, 3):
            rows = set(all_rows(operands, modulus))
            assert len(rows) <= most_rows(operands, modulus)
            assert set(ArithmeticDataset(operands, len(rows), modulus=modulus).rows) == rows


@pytest.mark.parametrize("arguments, error, words", [
    (dict(operands=1), ConfigError, "operands is 1"),
    (dict(operands="5"), TypeError, "operands is '5'"),
    (dict(modulus=10), ConfigError, "modulus is 10, a multiple of 2"),
    (dict(samples=0), ConfigError, "samples is 0"),
    (dict(exclude=5), TypeError, "exclude must be a dataset or rows of ids, not int"),
    (dict(exclude=[5]), TypeError, "exclude must be a dataset, or rows"),
])
def test_impossible_datasets_are_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        ArithmeticDataset(**{"operands": 3, "samples": 5, **arguments})


def test_rows_of_another_field_exclude_nothing():
    with pytest.raises(ConfigError, match="exclude has rows modulo 7, these are modulo 11"):
        ArithmeticDataset(3, 5, exclude=ArithmeticDataset(3, 5, modulus=7))


def test_items_learn_what_follows_the_first_equals():
    data = ArithmeticDataset(4, 50)
    longest = max(map(len, data.rows))
    for item, row, targets in zip(data, data.rows, data.count_targets()):
        assert {name: (array.shape, array.dtype) for name, array in item.items()} == dict.fromkeys(
            ("input_ids", "labels", "attention_mask"), ((longest,), np.dtype(np.int64)))  # fmt: skip
        first, end = row.index(EQUALS) + 1, len(row)
        assert item["input_ids"].tolist() == [*row, *[PAD] * (longest - end)]
        assert item["labels"].tolist() == [*[-100] * first, *row[first:], *[-100] * (longest - end)]
        assert item["attention_mask"].tolist() == [1] * end + [0] * (longest - end)
        assert targets == end - first


def test_fifty_thousand_rows_take_seconds():
    begin = time.process_time()
    assert len(ArithmeticDataset(5, 50_000)) == 50_000
    assert time.process_time() - begin < 10


# --- marking


class Scribe:
    """Anything that writes: for each prompt what `answer` says, and padding behind the end."""

    def __init__(self, answer):
        self.answer, self.seen = answer, []

    def generate(self, ids, max_new_tokens, eos_token_id, pad_token_id, **options):
        assert (eos_token_id, pad_token_id, options["do_sample"]) == (EOS, PAD, False)
        self.seen += map(tuple, ids.tolist())
        written = [self.answer(row)[:max_new_tokens] for row in ids.tolist()]
        width = max(map(len, written))
        return np.array([[*row, *new, *[PAD] * (width - len(new))] for row, new in zip(ids.tolist(), written)])


def rightly(prompt):
    return [ZERO + evaluate(prompt), EOS]


HELD = ArithmeticDataset(4, 300)


def test_a_model_that_works_everything_out_is_right_everywhere():
    scribe = Scribe(rightly)
    assert arithmetic_accuracy(scribe, HELD, batch_size=64) == {"accuracy": 1.0, "correct": 300, "count": 300}
    assert sorted(scribe.seen) == sorted(row[: row.index(EQUALS) + 1] for row in HELD.rows)


@pytest.mark.parametrize("answer", [
    lambda prompt: [EOS],
    lambda prompt: rightly(prompt)[:1],
    lambda prompt: [rightly(prompt)[0], EQUALS, EOS],
    lambda prompt: [ZERO + (evaluate(prompt) + 1) % 11, EOS, *rightly(prompt)],
    lambda prompt: [EQUALS] * (max(map(len, HELD.rows)) - len(prompt) - 1) + rightly(prompt),
], ids=["ends at once", "does not end", "ends with =", "ends with another number first", "ends too late"])
def test_what_is_not_the_value_before_the_end_is_wrong(answer):
    assert arithmetic_accuracy(Scribe(answer), HELD)["correct"] == 0


def test_a_row_may_be_as_long_as_the_longest():
    longest = max(map(len, HELD.rows))
    just = Scribe(lambda prompt: [EQUALS] * (longest - len(prompt) - 2) + rightly(prompt))
    assert arithmetic_accuracy(just, HELD)["accuracy"] == 1.0


def test_some_are_right():
    odd = Scribe(lambda prompt: rightly(prompt) if evaluate(prompt) % 2 else [ZERO, EOS])
    found = arithmetic_accuracy(odd, HELD)
    values = [evaluate(row[: row.index(EQUALS)]) for row in HELD.rows]
    assert found["correct"] == sum(value % 2 or not value for value in values)
    assert found["accuracy"] == found["correct"] / 300


def test_anything_with_rows_and_a_modulus_is_marked():
    class Two:
        rows, modulus = [encode("1+1=2<eos>", 5), encode("2/3=4<eos>", 5)], 5

    assert arithmetic_accuracy(Scribe(lambda prompt: [ZERO + evaluate(prompt, 5), EOS]), Two)["correct"] == 2
    for rows, words in (([encode("1+1")], "row 0 has no '='"), ([], "no rows")):
        Two.rows = rows
        with pytest.raises(DataError, match=words):
            arithmetic_accuracy(Scribe(rightly), Two)
    with pytest.raises(TypeError, match="dict without rows"):
        arithmetic_accuracy(Scribe(rightly), {})


def test_a_small_model_learns_a_small_field(tmp_path):
    data = ArithmeticDataset(2, 33, modulus=3)
    model = llmc.Model(llmc.Config(
        model_type="llama", vocab_size=13, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=16, initializer_range=0.2, bos_token_id=None, eos_token_id=EOS,
    ))  # fmt: skip
    before = arithmetic_accuracy(model, data)["accuracy"]
    arguments = llmc.TrainingArguments(str(tmp_path), max_steps=100, per_device_train_batch_size=33,
                                       learning_rate=1e-2, save_strategy="no", disable_tqdm=True)  # fmt: skip
    llmc.Trainer(model, arguments, train_dataset=data).train()
    after = arithmetic_accuracy(model, data, batch_size=7)
    assert before < 0.5 and after["accuracy"] > 0.9 and after["count"] == 33
