"""Tables 3 and 4: the paper's settings and sizes, and those of the models that are trained here."""

from llmc.lime.paper import SIZES, arguments, config
from llmc.lime.recipes import arguments_of, config_of

SETTINGS = ("learning_rate", "router_learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
            "max_grad_norm", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps",
            "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")  # fmt: skip
FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "eos_token_id")  # fmt: skip
TRAINED = ("1b", "deep", "aet")  # sizes whose training is published, or nearly so


def hyperparameters(recipes):
    """A row of each setting: the paper's in `paper SIZE`, ours in `here PART`."""
    columns = {f"paper {size}": arguments("out", size) for size in TRAINED}
    columns |= {f"here {part}": arguments_of(recipe, "out") for part, recipe in _first_of_each_part(recipes).items()}
    return [{"setting": name} | {column: _setting(values, name) for column, values in columns.items()}
            for name in SETTINGS]  # fmt: skip


def architectures(recipes):
    """A row of each field of a LLaMA."""
    columns = {f"paper {size}": config("llama", size) for size in SIZES}
    columns |= {f"here {part}": config_of(recipe) for part, recipe in _first_of_each_part(recipes).items()}
    return [{"field": name} | {column: getattr(values, name) for column, values in columns.items()}
            for name in FIELDS]  # fmt: skip


def _first_of_each_part(recipes):
    found = {}
    for recipe in recipes.values():
        found.setdefault(recipe["part"], recipe)
    return found


def _setting(values, name):
    """A setting in a cell; of steps and epochs the one that ends the training."""
    if name == ("num_train_epochs" if values.max_steps > 0 else "max_steps"):
        return None
    value = getattr(values, name)
    return ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
