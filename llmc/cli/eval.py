"""llmc eval: the loss and perplexity of a model on texts, a row a file, or its results in benchmarks."""

import math
import os
import time

from llmc.cli import benchmarks, texts
from llmc.cli.outcome import Usage, say
from llmc.cli.sources import are_rows, ends_in_bin, rows_of
from llmc.show.table import Table

EXAMPLE = ("llmc eval llmc-demo --text README.md\n"
           "  llmc eval llmc-demo --tasks arc_easy,piqa --num-fewshot 1 --limit 100")
LONGEST = 1024  # tokens of context, unless more are asked for


def arguments(parser):
    """Its words."""
    texts.add(parser, LONGEST, batch_size=8, kinds='text; or rows (.jsonl, .json, .csv, .parquet) of text, or of '
              'prompt and response, which alone counts; or scenes (.yaml, or a folder of them), likewise; or a '
              '.bin of llmc tokenize',
              required=False)
    benchmarks.add(parser)


def run(args):
    """Print a table: a row a file and a total where there are several, or one for every metric of every task."""
    if (args.text is None) == (args.tasks is None):
        raise Usage("eval: which --text, or which --tasks? one of the two; see llmc eval --help")
    benchmarks.check(args)
    if args.tasks is None:
        _read(args)
    else:
        benchmarks.run(args)


def _read(args):
    """The loss on texts."""
    from llmc import NonFiniteError, Trainer, TrainingArguments

    are_rows(args.text)  # refuses two kinds at once
    model, tokenizer = texts.opened(args)
    size = texts.block_size(args, model, LONGEST)
    if size > (context := model.config.max_position_embeddings):
        say(f"blocks of {size} tokens are longer than the context of {context} that this model was trained on")
    trainer = Trainer(model, TrainingArguments(per_device_eval_batch_size=args.batch_size), tokenizer=tokenizer)
    measured = [measure(trainer, path, size, tokenizer) for path in args.text]
    if len(measured) > 1:
        measured.append(total(measured))
    print(Table(["text", "tokens", "context", "loss", "perplexity", "bits a byte", "tokens/s"],
                [shown(each, size) for each in measured]))
    if bad := next((each for each in measured if not math.isfinite(each["nats"])), None):
        raise NonFiniteError(f"{args.model}: the loss of {bad['text']} is {bad['nats'] / bad['tokens']}; are the "
                             f"weights finite? llmc lim says where numbers stop being so")


def measure(trainer, path, size, tokenizer):
    """What a model says of one file.

    Returns
    -------
    dict
        `text`, `nats` (the summed loss), `tokens` that were predicted, `bytes` of UTF-8 (None where the file is not the
        text alone), `seconds`.
    """
    from tqdm import tqdm

    from llmc import DataError

    rows, tokens = are_rows([path]), ends_in_bin([path])
    begin = time.perf_counter()
    data = rows_of([path], tokenizer, size) if rows else None
    blocks = texts.items(data) if rows else texts.blocks([path], trainer.model, tokenizer, size)
    with tqdm(blocks, total=data and len(data), unit="block", desc=f"eval {os.path.basename(path)}", leave=False,
              disable=None) as bar:
        nats, count, _ = trainer._losses(iter(bar))
    if not count:
        raise DataError(f"{path}: no token to predict in it: one token alone, or responses of none")
    size_of_text = None if rows or tokens else os.path.getsize(path)
    return {"text": path, "nats": nats, "tokens": count, "bytes": size_of_text, "seconds": time.perf_counter() - begin}


def total(measured):
    """All files as one: every predicted token weighs the same."""
    sums = {name: sum(each[name] for each in measured) for name in ("nats", "tokens", "seconds")}
    sizes = [each["bytes"] for each in measured]
    return {"text": "total", "bytes": None if None in sizes else sum(sizes), **sums}


def shown(each, size):
    """A row of the table."""
    loss = each["nats"] / each["tokens"]
    bits = each["nats"] / math.log(2) / each["bytes"] if each["bytes"] else None
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return {"text": each["text"], "tokens": each["tokens"], "context": size, "loss": f"{loss:.6f}",
            "perplexity": f"{perplexity:,.6f}", "bits a byte": None if bits is None else f"{bits:.6f}",
            "tokens/s": round(each["tokens"] / each["seconds"])}
