"""Writes families.md: a drawing of a block of every family, read from the recorded plan."""

from pathlib import Path

import llmc

TEXT = """# The families, block by block

What `print(config.drawing())` shows of each family's default configuration: the residual stream runs down the left,
a branch leaves it at `├──▶` and rejoins it at `+`. `python docs/make_families.py` writes this page anew.
"""


def page():
    """The text of families.md."""
    sections = [TEXT]
    for name in llmc.families.rows():
        if name != "llmc":  # assembled from kinds: it has no block of its own
            sections.append(f"## {name}\n\n```\n{llmc.Config(name).drawing()}```\n")
    example = llmc.Architecture(32000, 1024, 12, 16, num_key_value_heads=4, order="parallel", feed_forward="mlp",
                                hidden_act="gelu", sliding_window=[256, 256, None] * 4)  # fmt: skip
    sections.append("## Assembled\n\n`llmc.Architecture(32000, 1024, 12, 16, num_key_value_heads=4, order=\"parallel\", "
                    "feed_forward=\"mlp\",\nhidden_act=\"gelu\", sliding_window=[256, 256, None] * 4)`:\n\n"
                    f"```\n{example.drawing()}```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    Path(__file__).with_name("families.md").write_text(page())
