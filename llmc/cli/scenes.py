"""llmc scenes: every fault of scene files, what they hold, and which field a response comes from."""

import os
import sys

from llmc.cli.outcome import Usage, say
from llmc.cli.parser import between, threads
from llmc.cli.sources import tokenizer_of
from llmc.show import picture

EXAMPLE = ("llmc scenes scenes/ --tokenizer llmc-demo\n"
           "  llmc scenes scenes/ --model adapter --base llmc-demo --out fields.html fields.png")
TABLES = (".html", ".csv", ".json")


def arguments(parser):
    """Its words."""
    parser.add_argument("scenes", nargs="+", metavar="FILE|DIR|GLOB",
                        help="files that end in .yaml or .yml, folders of them, or globs")
    parser.add_argument("--tokenizer", metavar="DIR", help="what counts tokens [the model's]")
    parser.add_argument("--template", choices=("plain", "chatml"), default="plain",
                        help="how a scene is written: plain or chatml [%(default)s]")
    parser.add_argument("--fields", nargs="+", metavar="NAME",
                        help="what is rendered, in this order [system, intent_vector, scene_architecture, "
                             "arch_tension, prompt]")
    parser.add_argument("--required", nargs="+", metavar="NAME",
                        help="what every scene must have [intent_vector, scene_architecture, arch_tension, response]")
    parser.add_argument("--show", metavar="ID",
                        help="print this scene as it is rendered, its learnt part in ⟦ ⟧ [none]")
    parser.add_argument("--to-jsonl", metavar="FILE", help='write lines of {"prompt", "response"} [none]')
    parser.add_argument("--held-out", type=between(0, 1, open_low=True), metavar="SHARE",
                        help="of --to-jsonl: this share, chosen by the ids, in a file of its own, NAME.held-out.jsonl "
                             "[none]")
    parser.add_argument("--model", metavar="DIR",
                        help="say which field its responses come from: a checkpoint's folder, or an adapter's [none]")
    parser.add_argument("--base", metavar="DIR", help="what the model was before it was trained, to put beside [none]")
    parser.add_argument("--out", nargs="+", default=[], metavar="FILE",
                        help="files to write that to: .png, .pdf, .svg, .html, .csv, .json [none]")
    threads(parser)


def run(args):
    """Print the faults, or what is asked for."""
    from llmc.data.scene_files import scenes_and_faults
    from llmc.data.scene_rendering import rendered, templated

    _check(args)
    scenes, faults = scenes_and_faults(args.scenes, args.fields, _required(args))
    if faults:
        for fault in faults:
            print(fault, file=sys.stderr)
        raise SystemExit(1)
    template = templated(args.template)
    if args.show is not None:
        _show(args.show, {scene.id: scene for scene in scenes}, template)
    renderings = [rendered(scene, template) for scene in scenes]
    if args.to_jsonl:
        _write(args, scenes, renderings)
    data = _dataset(args, scenes)
    if args.show is None:
        print(_statistics(data, scenes, renderings))
    if args.model:
        _attribute(args, data)


def _check(args):
    """Refuse what cannot be before the work begins."""
    for flag, needs in (("base", "model"), ("out", "model"), ("held_out", "to_jsonl")):
        if getattr(args, flag) and not getattr(args, needs):
            raise Usage(f"scenes: --{flag.replace('_', '-')} goes with --{needs.replace('_', '-')}")
    for path in args.out:
        ending = os.path.splitext(path)[1]
        if ending not in (*picture.ENDINGS, *TABLES):
            raise Usage(f"scenes: {path} ends in {ending or 'nothing'}; --out takes "
                        f"{', '.join((*picture.ENDINGS, *TABLES))}")
    if args.to_jsonl and os.path.splitext(args.to_jsonl)[1] != ".jsonl":
        raise Usage(f"scenes: {args.to_jsonl}: JSON lines are written as .jsonl")


def _required(args):
    """What every scene must have; Usage for names that no scene can have."""
    from llmc import ConfigError
    from llmc.data.scene import REQUIRED, chosen, needed

    try:
        return needed(args.required or REQUIRED, chosen(args.fields))
    except ConfigError as error:
        raise Usage(f"scenes: {error}") from None


def _show(name, scenes, template):
    from llmc.data.scene_rendering import rendered
    from llmc.errors import UnknownNameError, nearest

    if name not in scenes:
        near = nearest(name, scenes) or f"there are {', '.join(list(scenes)[:5])}{' …' * (len(scenes) > 5)}"
        raise UnknownNameError(f"no scene has the id {name!r}; {near}")
    found = rendered(scenes[name], template)
    print(f"{found.prompt}⟦{found.response}⟧")


def _write(args, scenes, renderings):
    """The JSON lines of the scenes, those that are held out in a file of their own."""
    from llmc.data.scene_dataset import write_lines
    from llmc.data.scene_split import held_out

    held = held_out(scenes, args.held_out, 0, None) if args.held_out else []
    parts = {args.to_jsonl: [each for index, each in enumerate(renderings) if index not in set(held)]}
    if held:
        parts[f"{os.path.splitext(args.to_jsonl)[0]}.held-out.jsonl"] = [renderings[index] for index in held]
    for path, part in parts.items():
        write_lines(part, path)
        say(f"{path}: {len(part):,} scene{'s' * (len(part) != 1)}")


def _dataset(args, scenes):
    """The scenes as items; None without a tokenizer."""
    from llmc.data import SceneDataset

    named = [name for name in (args.tokenizer, args.model, args.base) if name]
    tokenizer = next(filter(None, map(tokenizer_of, named[:1] if args.tokenizer else named)), None)
    if tokenizer is None:
        if named:
            raise FileNotFoundError(f"{named[0]}: no tokenizer in it; name one with --tokenizer DIR")
        return None
    return SceneDataset(scenes, tokenizer, template=args.template, fields=args.fields, required=())


def _statistics(data, scenes, renderings):
    from llmc.data.scene_statistics import statistics_of, table_of

    return table_of(statistics_of(scenes, renderings) if data is None else data.statistics())


def _attribute(args, data):
    """Print which field the responses come from, and write what --out names."""
    from llmc.analysis import scene_attribution
    from llmc.analysis.titles import source_of

    report = scene_attribution(args.model, data, base=args.base)
    report.source = source_of(args.scenes)
    print(f"\n{report}")
    for path in args.out:
        report.save(path) if path.endswith(TABLES) else report.plot(path)
