"""What a reader of the page has to know about the numbers: how small the models are, how long they were trained."""

WORDS_IN = ("fig06", "fig07", "fig12", "fig15")  # where words are told apart


def remarks_on(here, key):
    """Lines about an entry of numbers.json.

    Parameters
    ----------
    here : Findings
    key : str
    """
    names = here.needs(key)
    if not names:
        return []
    recipes = [here.recipes[name] for name in names]
    if recipes[0]["part"] == "arithmetic":
        seeds = here.scale.arithmetic.seeds
        return [_arithmetic(recipe, seeds) for recipe in {each["data"]["operands"]: each for each in recipes}.values()]
    lines = [_text(recipes[0])]
    if key in WORDS_IN:
        words = ", ".join(f"“{word.strip()}”" for word in here.words().values())
        lines.append(f"Words told apart in figures 6, 7, 12 and 15: {words}, {here.occurrences()} occurrences of each "
                     f"in held-out text; a classifier learns for {here.epochs()} epochs, in about the paper's steps.")
    return lines


def _text(recipe):
    config, settings, length = recipe["config"], recipe["arguments"], recipe["data"]["length"]
    layers = "three depths" if recipe["part"] == "deep" else f"{config['num_hidden_layers']} layers"
    return (f"Text models, {layers}: width {config['hidden_size']}, {settings['max_steps']:,} steps of "
            f"{settings['per_device_train_batch_size']} × {length} tokens of Python's help pages. One seed each, so "
            f"a small difference between two models means nothing.")


def _arithmetic(recipe, seeds):
    config, settings, data = recipe["config"], recipe["arguments"], recipe["data"]
    return (f"Arithmetic, {data['operands']} operands: {config['num_hidden_layers']} layers of width "
            f"{config['hidden_size']}, {data['rows']:,} rows, {settings['max_steps']:,} steps of "
            f"{settings['per_device_train_batch_size']} rows, {seeds} paired seeds, {data['held_out']:,} rows held "
            f"out.")
