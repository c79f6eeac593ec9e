"""Grid: the rows of a report laid out as layers by submodules, as every picture and table of it needs them."""

BLOCK = "block"


class Grid:
    """Layers by parts, and what stands outside the blocks.

    Parameters
    ----------
    rows : list of dict
        Those of adapters are left out: they stand beside a linear, not in the way from one module to the next.
    metric : str
        Parts of which it says nothing (an ablation of a norm) are left out.

    Attributes
    ----------
    layers : list of int
    parts : list of str
        Paths within a block in the order of a forward pass, the block itself last, under the name "block".
    cells : dict
        {(layer, part): row}.
    outside : list of dict
        The rows of modules outside the blocks, the whole model aside.
    """

    def __init__(self, rows, metric):
        rows = [row for row in rows if row["kind"] != "adapter"]
        telling = {part(row) for row in rows if row[metric] is not None or is_gone(row, metric)}
        self.cells = {
            (row["layer"], part(row)): row for row in rows if row["layer"] is not None and part(row) in telling
        }
        self.layers = sorted({layer for layer, _ in self.cells})
        parts = list(dict.fromkeys(part for _, part in self.cells))
        self.parts = [each for each in parts if each != BLOCK] + [BLOCK] * (BLOCK in parts)
        outside = [row for row in rows if row["layer"] is None and row["kind"] != "model"]
        self.outside = outside if any(part(row) in telling for row in outside) else []

    def of_blocks(self, metric):
        """A metric of every block, by layer."""
        return [self.cells.get((layer, BLOCK), {}).get(metric) for layer in self.layers]

    def width_change(self, name):
        """"44 → 20" where the widths of a part differ in its first layer; None where they do not."""
        for layer in self.layers:
            row = self.cells.get((layer, name))
            if row is not None:
                return width_change(row)
        return None


def part(row):
    """The path of a row's module within its block; "block" for the block itself."""
    if row["layer"] is None:
        return row["name"]
    steps = row["name"].split(".")
    return ".".join(steps[steps.index(str(row["layer"])) + 1 :]) or BLOCK


def width_change(row):
    """"44 → 20" where a module's widths differ; None where they do not, or where it reads ids."""
    if row["shape_case"] in ("same", "skipped"):
        return None
    return f"{row['input_shape'][-1]} → {row['output_shape'][-1]}"


def is_gone(row, metric):
    """Whether a value should be there and is not: a zero input, numbers that are not finite."""
    if row["shape_case"] == "skipped" or row.get(metric) is not None:
        return False
    return metric != "ablation" or row["kind"] in ("block", "attention", "feed-forward")


def shown(value):
    """A value in at most five characters or so, as a cell has room for."""
    if value is None:
        return ""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 9999.5 or size < 0.00095:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    text = f"{value:.0f}" if size >= 99.5 else f"{value:.1f}" if size >= 9.95 else f"{value:.2f}"
    return text if size >= 0.095 else f"{value:.3f}"
