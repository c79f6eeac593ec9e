"""llmc tokenize: text files of any size into one file of token ids."""

import os
import sys

from llmc.cli.outcome import Usage
from llmc.cli.parser import whole
from llmc.cli.sources import located, require_files
from llmc.show.table import Table

EXAMPLE = "llmc tokenize corpus.txt --tokenizer tok --vocab-size 8192 --out corpus.bin"


def arguments(parser):
    """Its words."""
    parser.add_argument("files", nargs="+", metavar="FILE",
                        help='UTF-8 text; several are documents, an end between; so are rows (.jsonl, .json, .csv, '
                             '.parquet) with a text')
    parser.add_argument("--tokenizer", required=True, metavar="DIR", help="a folder with tokenizer.json, or a hub name")
    parser.add_argument("--vocab-size", type=whole(257), metavar="V",
                        help="train a byte-level BPE of V tokens on the text first, and save it in the --tokenizer "
                             "folder [take the one that is there]")
    parser.add_argument("--out", metavar="X.bin", help="where the ids go [the first file's name with .bin]")


def run(args):
    """Write the ids, and print what was written."""
    from llmc import Tokenizer
    from llmc.data import tokenize_file

    out = args.out or f"{os.path.splitext(args.files[0])[0]}.bin"
    if not out.endswith(".bin"):
        raise Usage(f"tokenize: --out {out}: token ids go into a file that ends in .bin, by which they are known")
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: there is no such folder to write {os.path.basename(out)} into")
    if args.vocab_size:
        require_files(args.files, "with --vocab-size the text is read")
        if os.path.exists(os.path.join(args.tokenizer, "tokenizer.json")):
            raise FileExistsError(f"{args.tokenizer}: there is a tokenizer in it; name another folder for the new one, "
                                  "or leave out --vocab-size")
        tokenizer = Tokenizer.train(files=args.files, vocab_size=args.vocab_size)
        tokenizer.save_pretrained(args.tokenizer)
    else:
        tokenizer = Tokenizer.from_pretrained(located(args.tokenizer))
    info = tokenize_file(args.files, tokenizer, out, progress=sys.stderr.isatty())
    size = sum(map(os.path.getsize, args.files))
    print(Table(["file", "tokens", "dtype", "bytes", "vocabulary", "bytes of text per token"], [
        {"file": out, "tokens": info["count"], "dtype": info["dtype"], "bytes": os.path.getsize(out),
         "vocabulary": info["vocab_size"], "bytes of text per token": size / info["count"]}]))
