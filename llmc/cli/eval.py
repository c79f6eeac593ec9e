"""llmc eval: the loss and perplexity of a model on a text."""

import math

from llmc.cli.parser import storage, threads, whole
from llmc.cli.sources import are_json_lines, ends_in_bin, model_and_tokenizer
from llmc.show.table import Table

EXAMPLE = "llmc eval llmc-demo --text README.md"
LONGEST = 1024  # tokens of context, unless more are asked for


def arguments(parser):
    """Its words."""
    parser.add_argument("model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE",
                        help='text; or .jsonl of {"text"}, or {"prompt", "response"}, whose response alone counts; or '
                             'a .bin of llmc tokenize')
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of context; by default the model's, at most {LONGEST}")
    parser.add_argument("--batch-size", type=whole(1), default=8, metavar="B", help="blocks at once (%(default)s)")
    storage(parser)
    threads(parser)


def run(args):
    """Print a table with one row."""
    from tqdm import tqdm

    from llmc import NonFiniteError, Trainer, TrainingArguments
    from llmc.data import JsonlDataset, StreamingTextDataset, TokenBlockDataset

    model, tokenizer = model_and_tokenizer(args.model, not ends_in_bin(args.text), args.dtype, args.precision)
    block_size = args.block_size or min(model.config.max_position_embeddings, LONGEST)
    if ends_in_bin(args.text):
        data = TokenBlockDataset(args.text[0], block_size, vocab_size=model.config.vocab_size)
        blocks = map(data.__getitem__, range(len(data)))
    elif are_json_lines(args.text):
        data = JsonlDataset(args.text, tokenizer, block_size)
        blocks = map(data.__getitem__, range(len(data)))
    else:
        blocks = iter(StreamingTextDataset(files=args.text, tokenizer=tokenizer, block_size=block_size))
    trainer = Trainer(model, TrainingArguments(per_device_eval_batch_size=args.batch_size), tokenizer=tokenizer)
    with tqdm(blocks, unit=" blocks", desc="eval", leave=False, disable=None) as bar:
        result = trainer.evaluate(iter(bar))
    print(Table(["text", "tokens", "context", "loss", "perplexity", "tokens/s"], [
        {"text": ", ".join(args.text), "tokens": result["eval_tokens"], "context": block_size,
         "loss": result["eval_loss"], "perplexity": result["perplexity"],
         "tokens/s": round(result["eval_tokens"] / result["eval_runtime"])}]))
    if not math.isfinite(result["eval_loss"]):
        raise NonFiniteError(f"{args.model}: the loss is {result['eval_loss']}; are the weights finite? "
                             f"llmc lim says where numbers stop being so")
