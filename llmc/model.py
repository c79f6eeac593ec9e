"""Model: a family's parameters, opened from or saved to Hugging Face's files, and what can be asked of them."""

import copy
import os

import numpy as np

from llmc import checkpoint, core, tree
from llmc.adaptable import Adaptable
from llmc.generative import Generative
from llmc.calls import public, warn
from llmc.checks import one_of, whole
from llmc.system import hub
from llmc.config import Config
from llmc.dtype_words import dtype_word
from llmc.errors import ConfigError, shown
from llmc.weights.assign import assign
from llmc.weights.authors_names import InAuthorsNames
from llmc.weights.carry import carry
from llmc.weights.initialise import initialise
from llmc.inputs import IGNORE, as_ids
from llmc.lora import Adapters
from llmc.lora.adapter_files import base_of, holds_adapter
from llmc.config import rope
from llmc.config.json_files import locate_in
from llmc.run import Run
from llmc.weights.places import has_own_head, places
from llmc.weights.stored import Readable, read_into, stored, writing


@public
class Model(Adaptable, Generative):
    """A transformer language model.

    Parameters
    ----------
    config : Config
    seed : int
        Of the initialisation, which is the family's own.
    dtype : "float32", "bfloat16", "int8" or "auto"
        How weights are stored; NumPy's, ml_dtypes' and torch's dtypes and words like "bf16" do as well. "auto":
        bfloat16 where config.dtype is, else float32. "bfloat16": every matrix and embedding; vectors (norms, biases)
        stay float32. "int8": the linears and the head, each number times a scale that 64 inputs of an output share;
        embeddings that are no head are bfloat16. Narrow weights run, generate and carry adapters; they are not trained.
        See the notes.
    precision : "float32", "bfloat16" or None
        How products are computed; None: in float32 for float32 storage, in bfloat16 for the others. In bfloat16
        operands are rounded as they are multiplied, sums and what names show are float32; a processor without such
        products (`llmc doctor`) computes in float32.

    Raises
    ------
    ConfigError
        When the configuration or the precision is not possible.
    MemoryError
        When there is no memory for the parameters.

    Notes
    -----
    Products in bfloat16, int8's by default, round activations in ways that depend on how many rows are multiplied at
    once, so a generated text depends on the cache and on `prefill_chunk`: "equal text" excuses a step whose two best
    logits are within 1/100 of its largest. On a LLaMA of 135M parameters with int8 or bfloat16 weights one step in a
    hundred took another token, never with more than 0.006 of the largest logit between the two. With
    precision="float32" logits agree to 1e-4 and texts are equal; int8 then generates at 0.6 of its speed.
    """

    _ELSEWHERE = {  # words of torch
        **dict.fromkeys(("to", "cuda", "cpu", "device"), "llmc computes on the CPU alone: leave it out"),
        **dict.fromkeys(("half", "bfloat16", "float"), "say dtype= or precision= where the model is made or opened"),
        **dict.fromkeys(("eval", "train"), "there is no training mode, dropout happens in runs made with dropout=True "
                        "alone: leave it out; llmc.Trainer trains"),
        **dict.fromkeys(("parameters", "named_parameters"), "state_dict() has them by name, trained() what training "
                        "changes"),
        "requires_grad_": "add_adapter freezes the base; llmc.AdamW says what else trains",
        "zero_grad": "gradients are a run's: run.zero_grad()",
        "forward": "call the model for its logits, or model.run(…).forward(…) for what is inside",
        "named_modules": "run.names() has the modules of a run, print(model) the tree",
        "modules": "run.names() has the modules of a run, print(model) the tree",
        "push_to_hub": "save_pretrained writes a folder that huggingface_hub uploads",
    }  # fmt: skip
    _core = core._core  # the float core; the tests put the double one here

    def __init__(self, config, seed=0, dtype="float32", precision=None):
        self._declare(_valid(config), dtype, precision)
        self._take()
        initialise(self._parameters, self._model.layout(), self.config, whole(seed, "seed", most=None))

    def _declare(self, config, dtype, precision):
        """Everything but the memory of the parameters, of a configuration that is valid."""
        dtype, precision = dtype_word(dtype), dtype_word(precision)
        if dtype == "auto":
            dtype = "bfloat16" if config.dtype == "bfloat16" else "float32"
        if dtype not in ("float32", "bfloat16", "int8"):
            raise ConfigError(f"dtype={shown(dtype)}: weights are stored as 'float32', 'bfloat16' or 'int8'; or 'auto'")
        if precision not in ("float32", "bfloat16", None):
            raise ConfigError(f"precision={shown(precision)}: products are computed in 'float32' or in 'bfloat16'")
        self.config = config.frozen()
        self._spec = config.spec()
        self.dtype = dtype
        self.precision = precision or ("float32" if dtype == "float32" else "bfloat16")
        self._model = self._core.Model(self._spec, False, self.precision == "bfloat16", dtype)
        self._cached_frequencies = {}
        self._name_or_path = None

    def _take(self):
        """The memory of the parameters, zeroed."""
        self._model.take()
        self._parameters = stored(self._model.parameters())
        self.adapters = Adapters(self._model, self._parameters, self.config, self._tied())

    # --- files -------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, source, dtype="float32", precision=None, *, config=None, revision=None,
                        local_files_only=False, **fields):  # fmt: skip
        """Open a checkpoint: config.json and safetensors or pytorch_model files, single or sharded; or a GGUF file.

        Parameters
        ----------
        source : path or str
            A folder, or a name on the hub where huggingface_hub can reach it. The folder of an adapter alone opens the
            base that it names, with the adapter attached; a folder that holds both opens as both. A .gguf file of
            llama.cpp (LLaMA, GPT-2; a Mistral, which is stored as a LLaMA, with `sliding_window=`) is read tensor by
            tensor into the storage that is asked for.
        dtype, precision
            As for `Model`; `torch_dtype` is dtype. "auto": bfloat16 where every matrix of the files is, else float32.
        config : Config, optional
            In the place of the folder's config.json.
        revision, local_files_only
            Of the hub.
        **fields
            Fields of the configuration that go before those of config.json: `rope_theta=…`, `sliding_window=…`.

        Raises
        ------
        FileNotFoundError
            When the files are not there.
        ConfigError, CheckpointError
            When they are not what they should be; the message names file and tensor.
        TypeError
            For a field that neither the family nor the file has.

        Warns
        -----
        UserWarning
            When config.json ties a head that the file has of its own, and that differs from the embedding: it counts,
            and the model's config no longer ties. When an untied head is not there: it starts as the embedding.
        """
        dtype = fields.pop("torch_dtype", None) or dtype
        folder = hub.located(source, revision, local_files_only)
        if base := base_of(folder):
            model = cls.from_pretrained(base, dtype, precision, config=config, local_files_only=local_files_only,
                                        **fields)  # fmt: skip
            model.load_adapter(folder)
            return model
        if config is None:
            config = (Config._from_gguf(folder, **fields) if hub.is_gguf(source)
                      else Config._from_files(*locate_in(folder), **fields))
        elif fields:
            raise TypeError(f"config= and {next(iter(fields))}=: give one of them, or config.replace(…)")
        else:
            config = _valid(config)
        model = cls.__new__(cls)
        with checkpoint.open(folder) as files:
            dtype = _dtype_of(files) if dtype_word(dtype) == "auto" else dtype
            model._declare(config, dtype, precision)
            if config.tie_word_embeddings and has_own_head(files, model._model):
                model._declare(config.replace(tie_word_embeddings=False), dtype, precision)
            found = places(files, model._model, model.config)
            model._take()
            model._name_or_path = os.fspath(source)
            with writing(model._model):
                for name, view in model._parameters.items():
                    read_into(files, found[name][0], view, found[name][1])
        if holds_adapter(folder):
            model.load_adapter(folder)
        return model

    def save_pretrained(self, directory, dtype="float32", max_shard_size="5GB", names="llmc"):
        """Write config.json and safetensors that transformers opens; bfloat16 halves them.

        Files appear whole or not at all, each in the place of its predecessor. Weights into which adapters are merged
        are written so. `names="authors"` writes tensors as the code of the family's authors has them, under its names;
        most families have no others. From here on the model lies there: an adapter of it names that folder as its base.

        Raises
        ------
        ConfigError
            When adapters are attached: `save_adapter` writes them, `merge_and_unload` makes them part of the weights.
        OSError
            When the place cannot be written to, or is full; what was there stays.
        """
        self._write(directory, dtype, max_shard_size, names)
        self._name_or_path = os.fspath(directory)

    def _write(self, directory, dtype="float32", max_shard_size="5GB", names="llmc"):
        """The same, of a copy beside the model."""
        dtype = dtype_word(dtype)
        if dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype={shown(dtype)}: weights are saved as 'float32', 'bfloat16' or 'float16'")
        one_of(names, "names", ("llmc", "authors"))
        self.adapters.refuse_unmerged("save_pretrained")
        os.makedirs(directory, exist_ok=True)
        tensors = Readable(self._parameters)
        if names == "authors":
            tensors = InAuthorsNames(tensors, self.config, {name: at[1] for name, at in self._model.layout().items()})
        checkpoint.write(directory, tensors, dtype=dtype, max_shard_size=max_shard_size)
        config = copy.deepcopy(self.config)
        config.dtype = dtype
        config.save_pretrained(directory)

    def save_gguf(self, path, tokenizer=None, dtype="float32"):
        """Write one GGUF file with the tokenizer in it, which llama.cpp and transformers open.

        Parameters
        ----------
        path : path
            It appears whole or not at all.
        tokenizer : Tokenizer, optional
            By default that of the folder or file that the model lies in.
        dtype : "float32", "float16", "bfloat16" or "q8_0"
            Of matrices; vectors stay float32. "q8_0": 32 numbers of a row share a scale; other rows stay float32.

        Raises
        ------
        ConfigError
            When adapters are attached (merge first), when there is no tokenizer, or when such a file has no word for
            the family, its positions or the tokenizer's splitting.
        OSError
            When the place cannot be written to, or is full; what was there stays.
        """
        from llmc.weights.gguf_saving import save_gguf, tokenizer_beside

        self.adapters.refuse_unmerged("save_gguf")
        save_gguf(os.fspath(path), self.config, Readable(self._parameters), self._model.shapes(),
                  tokenizer or tokenizer_beside(self._name_or_path), dtype)

    # --- parameters --------------------------------------------------------------------------------------------------
    def state_dict(self):
        """{Hugging Face name: writable view}; a tied head stands under both names.

        What is shown is what is stored: float32, or `ml_dtypes.bfloat16`; of int8, float32 copies that are read-only.
        Tensors of adapters stand beside the base's, with `lora_` in their names.
        """
        return dict(Readable(self._stored_tensors()))

    def _stored_tensors(self):
        """The state dict as it is stored."""
        views = dict(self._parameters)
        if self.config.tie_word_embeddings:
            views[f"{self._model.head_name}.weight"] = views[f"{self._model.embedding_name}.weight"]
        for name in self.adapters:
            views |= self.adapters.parameters(name)
        return views

    def load_state_dict(self, tensors):
        """Overwrite every parameter with the array of its name in `tensors`; those of adapters too, if any is there.

        Tensors of torch are taken as they are, in any floating-point dtype, with gradients or without.

        Raises
        ------
        CheckpointError, ShapeError
            When a name is missing or surplus, or a shape differs; nothing is changed.
        ConfigError
            While adapters are merged, whose base is kept to be put back.
        """
        self.adapters.refuse_while_merged("load_state_dict")
        views = dict(self._parameters)
        if any(".lora_" in name for name in tensors):
            views = {name: view for name, view in self._stored_tensors().items() if name not in self._tied()}
        assign(self._model, views, tensors, self._tied(), self.config)

    def trained(self):
        """{name: view} of what a training changes: the parameters, or the tensors of the adapters that train.

        Where adapters are attached and none trains, of those that are active.
        """
        names = self.adapters.trained()
        views = {name: view for adapter in names for name, view in self.adapters.parameters(adapter).items()}
        return views if self.adapters else dict(self._parameters)

    def _tied(self):
        head, embedding = f"{self._model.head_name}.weight", f"{self._model.embedding_name}.weight"
        return {head: embedding} if self.config.tie_word_embeddings else {}

    def num_parameters(self):
        """Numbers in all parameters, a tied head counted once."""
        return self._model.parameter_count

    # --- passes ------------------------------------------------------------------------------------------------------
    def __call__(self, ids, attention_mask=None, position_ids=None, logits_to_keep=0):
        """The logits.

        Parameters
        ----------
        ids : (B, T) or (T,) integers
        attention_mask : (B, T) of 0 and 1, optional
        position_ids : (B, T) integers, optional
            By default counted along the mask, so that padding on the left changes nothing. Documents packed into a row
            (0, 1, 2 … again and again, without a mask) are a DataError: each would see those before it.
        logits_to_keep : int
            Only the last n positions; 0: all.

        Returns
        -------
        (B, T, V) float32
        """
        run = self._run_for(ids)
        run.forward(ids, attention_mask=attention_mask, position_ids=position_ids, logits_to_keep=logits_to_keep)
        return run.logits.copy()

    def loss(self, ids, labels=None, attention_mask=None):
        """The mean loss, a float; labels shift inside, -100 is ignored, None means the ids without padding."""
        run = self._run_for(ids)
        if labels is not None:
            loss = run.forward(ids, labels=labels, attention_mask=attention_mask)
            if (np.asarray(labels)[..., 1:] == IGNORE).all():
                warn("labels count nothing: they are -100, but for a first token that nothing predicts; the loss is 0")
            return loss
        return run._forward_on_ids(ids, attention_mask)

    def logprobs(self, ids, attention_mask=None):
        """The logarithm of the probability of each token, given those before it; the logits are never all formed.

        Parameters
        ----------
        ids : (B, T) or (T,) integers
        attention_mask : (B, T) of 0 and 1, optional

        Returns
        -------
        (B, T - 1) float32
            Of the tokens from the second on; 0 for padding, and for a token that only padding would predict.
        """
        run = self._run_for(ids)
        run._forward_on_ids(ids, attention_mask)
        return -run._core.losses[:, :-1]

    def resize_token_embeddings(self, new_num_tokens):
        """Give the embedding and the head this many rows: new ones are the mean of the old, surplus ones go.

        A tied pair stays tied, adapters stay attached, `config.vocab_size` follows. The model's memory is another one
        after it: views taken before are no longer the model's, runs and optimizers are made anew.

        Parameters
        ----------
        new_num_tokens : int

        Raises
        ------
        ConfigError
            When the configuration does not allow it; while adapters are merged, or when one has rows of its own for the
            embedding or the head. Nothing is changed.
        BusyError
            When another thread uses the model.
        """
        rows = whole(new_num_tokens, "new_num_tokens", 1)
        self.adapters.refuse_while_merged("resize_token_embeddings")
        self.adapters.require_no_rows("resize_token_embeddings")
        if rows != self.config.vocab_size:
            self._become(self.config.replace(vocab_size=rows))

    def _untie(self):
        """Give the model a head apart from its embedding, which starts as it."""
        head, embedding = next(iter(self._tied().items()))
        self._become(self.config.replace(tie_word_embeddings=False))
        warn(f"{head} is no longer tied to {embedding}: one of them is merged into, so "
             f"tie_word_embeddings is False from here on")

    def _become(self, config):
        """Be a model of another configuration with the numbers of this one, for which what was made of it is void."""
        other = type(self).__new__(type(self))
        other._declare(config, self.dtype, self.precision)
        other._take()
        with writing(self._model):
            carry(self._parameters | {head: self._parameters[tied] for head, tied in self._tied().items()},
                  other._parameters)
        self.adapters.move(other._model, other._parameters, other.config, other._tied())
        self.__dict__.update(other.__dict__ | {"adapters": self.adapters, "_name_or_path": self._name_or_path})

    def _exact_logits(self, ids):
        """The logits by float32 products: others would round more than merging does."""
        run = Run(self, *ids.shape, float32=True)
        run.forward(ids)
        return run.logits.copy()

    def _run_for(self, ids):
        return Run(self, *as_ids(ids, self.config.vocab_size).shape)  # refused before memory is taken

    def run(self, batch, length, keep=None, backward=False, dropout=False, seed=0, gradients=None):
        """Record a plan and take its memory.

        Parameters
        ----------
        batch, length : int
            The most rows and tokens of a pass.
        keep : "all", list of globs over module paths, or None
            Hook points to keep for `input`, `output` and `grad`. Attention patterns (`….self_attn.pattern`) are kept
            only when named.
        backward : bool
            Gradients are wanted.
        dropout : bool
            Dropout happens, keyed by `seed`.
        gradients : Run, optional
            Share that run's parameter gradients.

        Returns
        -------
        Run
        """
        return Run(self, batch, length, keep, backward, dropout, seed, gradients)

    # --- looking -----------------------------------------------------------------------------------------------------
    def estimate(self, batch=1, length=None, train=False, keep=None, dropout=None, generate=0):
        """Memory and FLOPs of a pass, before anything is taken.

        Parameters
        ----------
        batch, length : int
            length: by default the trained context.
        train : bool
            Forward, backward and AdamW; otherwise forward alone.
        generate : int
            Positions a generation may reach: its cache is counted.

        Returns
        -------
        dict
            Bytes by kind (`parameters, gradients, optimizer, activations, cache, packed`), their sum `memory`, and
            `flops`.
        """
        from llmc.run import _keep

        keep_all, globs = _keep(keep)
        length = self.config.max_position_embeddings if length is None else length
        core_estimate = self._model.estimate(
            whole(batch, "batch", 1), whole(length, "length", 1), bool(train),
            bool(train if dropout is None else dropout),
            globs, keep_all, whole(generate, "generate"),
        )  # fmt: skip
        sizes = {kind: core_estimate[kind] for kind in ("parameters", "gradients")}
        sizes["optimizer"] = core_estimate["optimizer"]
        sizes["activations"], sizes["cache"], sizes["packed"] = core_estimate["activations"], core_estimate["cache"], 0
        flops = core_estimate["forward_flops"] + core_estimate["backward_flops"]
        return {**sizes, "memory": sum(sizes.values()), "flops": flops}

    def summary(self):
        """A table: module path, kind, weight shape, parameters, forward FLOPs of one token, bytes.

        Tensors of adapters stand below the module they belong to; the note counts the base's parameters.
        """
        return tree.summary(self)

    def __repr__(self):
        return tree.text(self)

    def __reduce_ex__(self, protocol):
        raise TypeError("a Model cannot be copied or pickled, for its parameters are the core's: write it with "
                        "save_pretrained, and open it again with Model.from_pretrained")

    # --- for the passes ----------------------------------------------------------------------------------------------
    @property
    def _position_limit(self):
        """Learned positions there are; None where positions are computed, or where there are none."""
        return self.config.max_position_embeddings if self._spec["position"] == "learned" else None

    def _say_beyond_context(self, length, what):
        """Warn where `what` has a length that the model was not trained on, though it can be computed."""
        context = self.config.max_position_embeddings
        if length > context and self._position_limit is None:
            warn(f"{what}: beyond the context of {context} tokens that this model was trained on "
                 f"(max_position_embeddings), so what it says there may be worth little")

    def _frequencies(self, length):
        """(inverse frequencies (R, D/2), factors (R,)) of a pass over `length` positions; two None without rope."""
        if not self.config._has_rope:
            return None, None
        key = length if rope.grows(self.config) else 0
        if key not in self._cached_frequencies:
            pairs = [rope.inverse_frequencies(self.config, length, i) for i in range(self._spec["rotaries"])]
            real = np.double if self._core.info()["real"] == "double" else np.single
            self._cached_frequencies = {key: tuple(np.array(each, dtype=real) for each in zip(*pairs))}
        return self._cached_frequencies[key]


def _dtype_of(files):
    """How the weights of a checkpoint are stored without loss in the fewest bytes: bfloat16, or float32."""
    matrices = {str(files.dtype(name)) for name in files.names() if len(files.shape(name)) > 1}
    return "bfloat16" if matrices == {"bfloat16"} else "float32"


def _valid(config):
    if not isinstance(config, Config):
        raise TypeError(f"a llmc.Config is needed, not {type(config).__name__}")
    config.validate()
    return config
