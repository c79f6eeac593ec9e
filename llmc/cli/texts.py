"""What llmc eval and llmc lim do alike: a model, and a text for it in blocks of tokens."""

from llmc.cli.parser import storage, threads, whole
from llmc.cli.sources import ends_in_bin, model_and_tokenizer


def add(parser, longest, batch_size, kinds, required=True):
    """Add the words for a model, a text of these kinds, and its blocks, `longest` tokens unless more are asked."""
    parser.add_argument("model", metavar="DIR", help="a checkpoint's folder, or a hub name")
    parser.add_argument("--text", nargs="+", required=required, metavar="FILE",
                        help=kinds if required else f"{kinds} [--tasks]")
    parser.add_argument("--block-size", type=whole(2), metavar="T",
                        help=f"tokens of context [the model's, at most {longest}]")
    parser.add_argument("--batch-size", type=whole(1), default=batch_size, metavar="B",
                        help="blocks at once [%(default)s]")
    storage(parser)
    threads(parser)


def opened(args):
    """The model of these words and its tokenizer, which may be None where the text is a file of tokens."""
    return model_and_tokenizer(args.model, not ends_in_bin(args.text), args.dtype, args.precision)


def block_size(args, model, longest):
    """Tokens of a block."""
    return args.block_size or min(model.config.max_position_embeddings, longest)


def blocks(files, model, tokenizer, size):
    """An iterator over the blocks of `size` tokens of texts, or of one file of tokens."""
    from llmc.data import StreamingTextDataset, TokenBlockDataset

    if ends_in_bin(files):
        return items(TokenBlockDataset(files[0], size, vocab_size=model.config.vocab_size))
    return iter(StreamingTextDataset(files=files, tokenizer=tokenizer, block_size=size))


def items(data):
    """An iterator over the items of a dataset."""
    return map(data.__getitem__, range(len(data)))
