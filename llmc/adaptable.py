"""Adaptable: what peft's users ask of a model, handed on to its adapters."""


class Adaptable:
    """The methods of a Model that are about its adapters, in peft's words; the rest is the Model's.

    Adapters that are active are added to what their linears give, all of them; those that train get gradients besides.
    While there is any adapter, the base is frozen.
    """

    # --- coming and going --------------------------------------------------------------------------------------------
    def add_adapter(self, config, adapter_name="default", seed=0):
        """Put a new adapter beside the base; the first is active at once, and trains.

        Parameters
        ----------
        config : LoraConfig
        adapter_name : str
        seed : int
            Of the numbers A starts with; with the module's path it decides them.

        Raises
        ------
        ConfigError, UnknownNameError
            When the name is taken, or the config means nothing here, or what cannot be adapted; nothing is changed.
        """
        self.adapters.add(config, adapter_name, seed)

    def load_adapter(self, directory, adapter_name="default", is_trainable=False):
        """Read an adapter that `save_adapter` or peft wrote; the first is active at once.

        Parameters
        ----------
        directory : path or str
            With adapter_config.json and adapter_model.safetensors or .bin, in it or in its folder `adapter_name`; or a
            name on the hub.
        adapter_name : str
            What it will be called here.
        is_trainable : bool
            Whether it gets gradients while it is active.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        CheckpointError, ShapeError
            When it is damaged, not finite, or of another base; the message names tensors and shapes.
        ConfigError, UnknownNameError
            When it computes what llmc does not, or the name is taken. Nothing is changed in any case.
        """
        self.adapters.load(directory, adapter_name, is_trainable)

    def save_adapter(self, directory, adapter_name="default", safe_serialization=True):
        """Write an adapter as peft reads it: the default one into `directory` itself, others into its folder `name`.

        Parameters
        ----------
        directory : path or str
        adapter_name : str
        safe_serialization : bool
            True: adapter_model.safetensors; False: adapter_model.bin, torch's format.

        Raises
        ------
        UnknownNameError
            When there is no such adapter.
        NonFiniteError
            When a number of it is not finite; nothing is written.
        OSError
            When the place cannot be written to; what was there stays.
        """
        self.adapters.save(directory, adapter_name, safe_serialization, self._name_or_path)

    def delete_adapter(self, adapter_name):
        """Forget an adapter. If it was the active one, the first that is left becomes active."""
        self.adapters.delete(adapter_name)

    # --- which are active --------------------------------------------------------------------------------------------
    def set_adapter(self, adapter_name, inference_mode=False):
        """Make one adapter active, or several, whose branches add up.

        Parameters
        ----------
        adapter_name : str or list of str
        inference_mode : bool
            Leave them frozen; otherwise they train.

        Raises
        ------
        UnknownNameError
            When there is no such adapter; the message lists the nearest.
        ConfigError
            When two of them have their own copy of one parameter.
        """
        self.adapters.set(adapter_name, inference_mode)

    def active_adapters(self):
        """The names of the adapters that count while adapters are enabled."""
        return self.adapters.active()

    def disable_adapters(self):
        """Compute as the base, until `enable_adapters`; what was merged is unmerged."""
        self.adapters.disable()

    def enable_adapters(self):
        """Let the active adapters count again."""
        self.adapters.enable()

    # --- merging -----------------------------------------------------------------------------------------------------
    def merge_adapter(self, adapter_names=None):
        """Add the active adapters, or those named, to the weights; others that are active with them stay so.

        What is overwritten is kept for `unmerge_adapter`. The model's outputs stay what they are: into float32 weights
        but for rounding; for weights stored as bfloat16 the share of the change that rounding loses is printed. Of an
        adapter that is not active, the outputs become those of the named ones alone. A head that is tied to the
        embedding no longer is when one of the two is merged into: that is said, and runs and optimizers are made anew.

        Parameters
        ----------
        adapter_names : list of str, optional

        Raises
        ------
        ConfigError
            When they are merged already or disabled; when weights are stored as int8; when the logits of a float32
            model would differ by more than 1e-4 (of logits above 8 by more than their largest / 8 times that). Nothing
            is changed.
        NonFiniteError
            When a merged weight is not finite; nothing is changed.
        """
        self.adapters.merge(adapter_names, self._exact_logits, self._untie)

    def unmerge_adapter(self):
        """Put back the base's weights, to the bit; the adapters count as before."""
        self.adapters.unmerge()

    def merge_and_unload(self):
        """Merge the active adapters, forget all adapters, and return the model, now plain."""
        self.adapters.unload(self._exact_logits, self._untie)
        return self

    # --- combining and looking ---------------------------------------------------------------------------------------
    def add_weighted_adapter(self, adapters, weights, adapter_name, combination_type="svd", svd_rank=None,
                             svd_clamp=None, density=None, majority_sign_method="total", seed=0):  # fmt: skip
        """Make a new adapter that is a weighted combination of others; it is neither active nor trained at first.

        Parameters
        ----------
        adapters : list of str
        weights : list of float
            One each; negative ones subtract.
        adapter_name : str
            Of the new adapter.
        combination_type : str
            "linear", "cat": the exact sum of the weighted deltas (s B A); the rank is the sum of ranks. "svd": its best
            approximation at `svd_rank`. "ties", "dare_linear", "dare_ties", "magnitude_prune", with or without "_svd":
            the deltas are thinned, and with ties a sign is elected, as in their papers; the best approximation at
            `svd_rank` is kept, and a warning says how much that is if it is under 99 %. "peft_linear": sums of
            sqrt(w s) A and of sqrt(w s) B, with the cross terms that peft's "linear" has.
        svd_rank : int, optional
            By default the largest rank among the adapters.
        svd_clamp : float, optional
            Clip what the SVD gives at this quantile.
        density : float
            Share of each delta that is kept, above 0 and at most 1.
        majority_sign_method : "total" or "frequency"
            The sign of the sum of the deltas, or of the sum of their signs.
        seed : int
            Of what is dropped at random.

        Raises
        ------
        UnknownNameError, ConfigError
            When an adapter is not there, the name is taken, or the arguments are not possible; nothing is changed.
        """
        self.adapters.mix(adapters, weights, adapter_name, combination_type=combination_type, svd_rank=svd_rank,
                          svd_clamp=svd_clamp, density=density, majority_sign_method=majority_sign_method, seed=seed)

    def print_trainable_parameters(self):
        """Print peft's line, and a table of what got an adapter."""
        self.adapters.print_trainable()
