"""What a configuration does with files: config.json, generation_config.json, and GGUF files."""

import os

from llmc.config import rope
from llmc.config.fields import FIELDS
from llmc.config.json_files import check_writable, locate, read_json
from llmc.errors import ConfigError
from llmc.system import hub
from llmc.system.atomic import write_json

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class OnDisk:
    """The part of `Config` that reads and writes; a base of it alone."""

    def save_pretrained(self, directory):
        """Write config.json, and generation_config.json where there was one; both appear whole or not at all.

        Parameters
        ----------
        directory : str or os.PathLike
            Made if it is not there.

        Raises
        ------
        ConfigError
            When the configuration is impossible, or a field cannot be written as JSON.
        OSError
            When the folder cannot be written.
        """
        self.validate()
        files = {"config.json": self.to_dict()}
        if self._generation is not None:
            files["generation_config.json"] = self._generation
        for name, fields in files.items():
            check_writable(name, fields)
        os.makedirs(directory, exist_ok=True)
        for name, fields in files.items():
            write_json(os.path.join(directory, name), fields)

    @classmethod
    def from_pretrained(cls, source, revision=None, local_files_only=False):
        """Read a configuration.

        Parameters
        ----------
        source : str or os.PathLike
            A folder with config.json (and perhaps generation_config.json, whose eos, bos and pad ids then count for
            generation, as in transformers), the path of a config.json or of a .gguf file, or the name of a repository
            on the hub.
        revision : str, optional
            Branch, tag or commit on the hub.
        local_files_only : bool
            Take a hub name from the cache and ask no network.

        Returns
        -------
        Config

        Raises
        ------
        FileNotFoundError
            When there is no such file, or the hub has none or cannot be reached.
        CheckpointError
            When the file is not JSON.
        ConfigError
            When what it says is impossible, or llmc does not do it.
        """
        if hub.is_gguf(source):
            return cls._from_gguf(os.fspath(source))
        return cls._from_files(*locate(os.fspath(source), revision, local_files_only))

    @classmethod
    def _from_gguf(cls, path, **given):
        """From a GGUF file, whose fields come after those given."""
        from llmc.config import gguf_fields

        window = given.get("sliding_window")
        fields, divisors = gguf_fields.read_fields(path, window)
        config = cls._filled(path, fields, given)
        if divisors is not None:
            gguf_fields.check_divisors(config, divisors, path)
        return config

    @classmethod
    def _from_files(cls, path, beside, **given):
        """From config.json and generation_config.json (or None), where fields that are given go before the file's."""
        config = cls._filled(path, read_json(path), given)
        if beside is not None:
            config._read_generation(beside)
        return config

    @classmethod
    def _filled(cls, path, fields, given):
        """Of the fields of a file, and those that go before them."""
        try:
            config = cls._of_fields(fields)
            config._require_known(given, "Model.from_pretrained")
            config = config.replace(**given)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if config._has_rope:
            rope.warn(config)
        return config

    def _read_generation(self, path):
        generation = read_json(path)
        for name in generation.keys() & set(IDS):
            try:
                generation[name] = FIELDS[name][0](generation[name], name)
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from None
        self.__dict__["_generation"] = generation
