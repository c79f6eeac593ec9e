"""Which tensor of a file is which of a model: prefixes, old spellings, old buffers, tied heads."""

import re
from typing import NamedTuple

from llmc.checkpoint.roles import BUFFER
from llmc.errors import CheckpointError, hint, quoted
from llmc.families import rows

# What wrappers and heads put before a name, and what some savers leave out.
_PREFIX = re.compile(r"(?:base_model\.model\.|_orig_mod\.|module\.|model\.|transformer\.)*")
_OLD_SPELLING = {"gamma": "weight", "beta": "bias"}
_BUFFER = re.compile(BUFFER)


class Alignment(NamedTuple):
    """What `align` found.

    Attributes
    ----------
    found : dict of str to str
        The model's name to the file's.
    missing : list of str
        The model's names that the file does not have.
    surplus : list of str
        The file's names that the model does not have, known old buffers and tied heads apart.
    dropped : list of str
        Those buffers and heads.
    """

    found: dict
    missing: list
    surplus: list
    dropped: list

    def check(self, where):
        """Raise `CheckpointError` if anything is missing or surplus; the message names it, with the nearest names."""
        if not self.missing and not self.surplus:
            return
        parts = []
        if self.missing:
            parts.append(f"missing {_some(self.missing, self.surplus)}")
        if self.surplus:
            parts.append(f"surplus {_some(self.surplus, self.missing or self.found)}")
        raise CheckpointError(
            f"{where}: the tensors are not those of the model: {'; '.join(parts)}. "
            "The configuration and the weights must belong together"
        )


def align(names_in_file, names_in_model, tied=None, spellings=None):
    """Find the tensor of the file for each of the model.

    A name that stands in the file as it is always wins. Otherwise prefixes that wrappers add or savers leave out
    (`transformer.`, `model.`, `module.`, `_orig_mod.`, `base_model.model.`) and the old spellings `gamma` and `beta`
    do not count.

    Parameters
    ----------
    names_in_file, names_in_model : iterable of str
    tied : dict of str to str, optional
        Names that share one tensor, `{"lm_head.weight": "model.embed_tokens.weight"}`: either stands for both, and
        the first need not be among the model's names.
    spellings : iterable of llmc.families.Spelling, optional
        Names of a family's authors; None: of every family. A tensor of theirs may stand for several of the model's, or
        lie in another order: `piece_of` says which part is which.

    Returns
    -------
    Alignment

    Raises
    ------
    CheckpointError
        If two tensors of the file would be the same tensor of the model.
    """
    names_in_file, names_in_model, tied = list(names_in_file), list(names_in_model), tied or {}
    if spellings is None:
        spellings = dict.fromkeys(spelling for row in rows().values() for spelling in row.files)
    wanted = list(dict.fromkeys([*names_in_model, *tied]))
    found = _match(names_in_file, wanted, spellings)
    used = set(found.values())
    rest = [name for name in names_in_file if name not in used]
    without = [spelling for spelling in spellings if not spelling.of]
    dropped = [name for name in rest if _BUFFER.fullmatch(name) or _spelt(name, without) is not None]
    for first, second in tied.items():
        if first in found and second in found and first not in names_in_model:
            dropped.append(found.pop(first))
        elif first in found:
            found.setdefault(second, found[first])
        elif second in found:
            found[first] = found[second]
    gone = set(dropped)
    return Alignment(
        {name: found[name] for name in names_in_model if name in found},
        [name for name in names_in_model if name not in found],
        [name for name in rest if name not in gone],
        dropped,
    )


def piece_of(name_in_file, name_in_model, spellings):
    """(spelling, place of the model's tensor in the file's) where that is one of a family's authors; else None."""
    theirs, ours = bare_name(name_in_file), bare_name(name_in_model)
    for spelling in spellings if theirs != ours else ():
        if block := _block(theirs, spelling):
            for place, name in enumerate(spelling.of):
                if block + name == ours:
                    return spelling, place
    return None


def _match(names_in_file, wanted, spellings):
    exact = set(names_in_file) & set(wanted)
    found = {name: name for name in exact}
    by_core = {bare_name(name): name for name in wanted if name not in exact}
    for name in names_in_file:
        target = by_core.get(bare_name(name)) if name not in exact else None
        if target is None:
            continue
        if target in found:
            raise CheckpointError(_two(found[target], name, target))
        found[target] = name
    for name in names_in_file if spellings else ():
        parts = _spelt(name, spellings) if name not in exact else None
        targets = [by_core.get(part) for part in parts or ()]
        if None in targets:
            continue
        for target in targets:
            if target in found:
                raise CheckpointError(_two(found[target], name, target))
            found[target] = name
    return found


def _spelt(name, spellings):
    """What a name in the spelling of a family's authors stands for, perhaps nothing; None of another name."""
    core = bare_name(name)
    for spelling in spellings:
        if block := _block(core, spelling):
            return [block + part for part in spelling.of]
    return None


def _block(core, spelling):
    """The path of the block that a tensor of this spelling belongs to, with its dot; None of other tensors."""
    return core.removesuffix(spelling.name) if core.endswith(f".{spelling.name}") else None


def _two(one, other, target):
    return f"both {quoted(one)} and {quoted(other)} could be the model's {target!r}"


def bare_name(name):
    """A name without what wrappers add, in its new spelling: two that agree in it are one tensor."""
    stem, dot, last = name[_PREFIX.match(name).end() :].rpartition(".")
    return stem + dot + _OLD_SPELLING.get(last, last)


def _some(names, others):
    listed = [quoted(name) + (f" ({near[2:]})" if (near := hint(name, others)) else "") for name in names[:4]]
    return ", ".join(listed) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
