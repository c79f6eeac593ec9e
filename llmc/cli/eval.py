"""llmc eval: the loss and perplexity of a model on a text, or its results in benchmarks."""

import math

from llmc.cli import benchmarks, texts
from llmc.cli.outcome import Usage
from llmc.cli.sources import are_rows, rows_of
from llmc.show.table import Table

EXAMPLE = ("llmc eval llmc-demo --text README.md\n"
           "  llmc eval llmc-demo --tasks arc_easy,piqa --num-fewshot 1 --limit 100")
LONGEST = 1024  # tokens of context, unless more are asked for


def arguments(parser):
    """Its words."""
    texts.add(parser, LONGEST, batch_size=8, kinds='text; or .jsonl of {"text"}, or {"prompt", "response"}, whose '
              'response alone counts; or scenes (.yaml, or a folder of them), likewise; or a .bin of llmc tokenize',
              required=False)
    benchmarks.add(parser)


def run(args):
    """Print a table: a row for the text, or one for every metric of every task."""
    if (args.text is None) == (args.tasks is None):
        raise Usage("eval: which --text, or which --tasks? one of the two; see llmc eval --help")
    benchmarks.check(args)
    if args.tasks is None:
        _read(args)
    else:
        benchmarks.run(args)


def _read(args):
    """The loss on a text."""
    from tqdm import tqdm

    from llmc import NonFiniteError, Trainer, TrainingArguments

    model, tokenizer = texts.opened(args)
    size = texts.block_size(args, model, LONGEST)
    if are_rows(args.text):
        blocks = texts.items(rows_of(args.text, tokenizer, size))
    else:
        blocks = texts.blocks(args, model, tokenizer, size)
    trainer = Trainer(model, TrainingArguments(per_device_eval_batch_size=args.batch_size), tokenizer=tokenizer)
    with tqdm(blocks, unit=" blocks", desc="eval", leave=False, disable=None) as bar:
        result = trainer.evaluate(iter(bar))
    print(Table(["text", "tokens", "context", "loss", "perplexity", "tokens/s"], [
        {"text": ", ".join(args.text), "tokens": result["eval_tokens"], "context": size,
         "loss": result["eval_loss"], "perplexity": result["perplexity"],
         "tokens/s": round(result["eval_tokens"] / result["eval_runtime"])}]))
    if not math.isfinite(result["eval_loss"]):
        raise NonFiniteError(f"{args.model}: the loss is {result['eval_loss']}; are the weights finite? "
                             f"llmc lim says where numbers stop being so")
