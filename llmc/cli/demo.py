"""llmc demo: everything once, in a minute and offline: a tokenizer, a small LLaMA, its losses, a sample, the files."""

import os

from llmc.cli.outcome import say
from llmc.cli.parser import precision, threads, whole
from llmc.show.table import Table, count

EXAMPLE = "llmc demo && llmc generate llmc-demo \"The class\" --top-p 0.9"
STEPS = 600  # about a minute on two slow cores
BLOCK = 64
PROMPT = "The statement"
MARK = "demo.json"  # lies where a demo wrote, which the next one may replace


def arguments(parser):
    """Its words."""
    parser.add_argument("--out", default="llmc-demo", metavar="DIR",
                        help="where everything goes, in the place of an earlier demo [%(default)s]")
    parser.add_argument("--steps", type=whole(1), default=STEPS, metavar="N",
                        help="optimizer steps [%(default)s: about a minute on two cores]")
    precision(parser)
    threads(parser)


def run(args):
    """Train, evaluate, write a sample."""
    import llmc
    from llmc.train.log import LOG, read_log
    from llmc.train.output_folder import OutputFolder

    os.makedirs(args.out, exist_ok=True)  # an impossible place is said before the work
    again = os.path.exists(os.path.join(args.out, MARK))
    OutputFolder(args.out, again, ways="and no demo left it; name another folder with --out")
    text, held_out = llmc.data.split_text(llmc.data.builtin_text())
    tokenizer = llmc.Tokenizer.train([text], vocab_size=1024)
    data, unseen = (llmc.data.TextDataset([part], tokenizer, BLOCK) for part in (text, held_out))
    model = llmc.Model(config(tokenizer), seed=0, precision=args.precision)
    say(f"pydoc_data.topics: {len(text):,} characters to train on, {len(held_out):,} held out; "
        f"a vocabulary of {len(tokenizer):,}")
    say(f"a LLaMA of {count(model.num_parameters())} parameters, {args.steps} steps of 8 x {BLOCK} tokens")
    settings = llmc.TrainingArguments(
        output_dir=args.out, overwrite_output_dir=again, max_steps=args.steps, per_device_train_batch_size=8,
        learning_rate=4e-3, warmup_steps=0.05, lr_scheduler_type="cosine", weight_decay=0.1, eval_steps=0.1,
        save_strategy="no", logging_steps=0.1, seed=0,
    )
    trainer = llmc.Trainer(model, settings, train_dataset=data, eval_dataset=unseen, tokenizer=tokenizer)
    trainer._beside = {MARK: {"llmc": llmc.__version__, "steps": args.steps, "precision": args.precision}}
    result = trainer.train()
    before = read_log(os.path.join(args.out, LOG))[0]
    rate = f"{result.tokens / result.seconds:,.0f} tokens/s"
    print(Table(["held-out text", "loss", "perplexity"], [
        {"held-out text": "before", "loss": round(before["eval_loss"], 3), "perplexity": before["perplexity"]},
        {"held-out text": f"after {result.step} steps", "loss": round(result.eval_loss, 3),
         "perplexity": result.perplexity},
    ], f"{result.tokens:,} tokens in {result.seconds:.0f} s of training: {rate}"))
    prompt = tokenizer.encode(PROMPT)
    ids = model.generate(prompt, max_new_tokens=80, do_sample=True, temperature=0.6, top_p=0.9, seed=0)
    print(f"\n{tokenizer.decode(ids[0], skip_special_tokens=True)} …\n")
    print(f"{os.path.join(args.out, 'loss.png')} shows both curves; {args.out} opens in transformers, too.")


def config(tokenizer):
    """A LLaMA of two million parameters; so narrow a one learns faster when its weights begin large."""
    from llmc import Config

    return Config(model_type="llama", vocab_size=len(tokenizer), hidden_size=192, num_hidden_layers=4,
                  num_attention_heads=6, num_key_value_heads=6, intermediate_size=512, max_position_embeddings=512,
                  initializer_range=0.08, tie_word_embeddings=True,
                  bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
