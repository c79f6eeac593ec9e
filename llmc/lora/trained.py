"""Trained: what of a model trains, the base or adapters, and its files in a checkpoint of a training."""

from llmc import checkpoint
from llmc.errors import ConfigError
from llmc.lora import adapter_files
from llmc.lora.lora_config import LoraConfig


class Trained:
    """The part of a Model that a training reads and writes."""

    def _trained_adapters(self):
        """The adapters that train, or those that are active when none does."""
        return [name for name in self._active if self._trains(name)] or list(self._active)

    def _trained_parameters(self):
        """{name: view} of what trains."""
        if not self._adapters:
            return dict(self._parameters)
        return {name: view for adapter in self._trained_adapters()
                for name, view in self._model.adapter_parameters(adapter).items()}

    def _save_trained(self, directory):
        """Write the model, or the adapters that train, into a folder."""
        if not self._adapters or self._merged:
            self.save_pretrained(directory)
            return
        for name in self._trained_adapters():
            self.save_adapter(directory, name)

    def _load_trained(self, directory):
        """Take over what `_save_trained` wrote.

        Raises
        ------
        ConfigError
            When an adapter's config is not that of its namesake here.
        CheckpointError, ShapeError, FileNotFoundError
            When files are damaged, missing, or of another model.
        """
        if not self._adapters:
            with checkpoint.open(directory) as tensors:
                self.load_state_dict(tensors)
            return
        read = {}
        for name in self._trained_adapters():
            folder, adapter = adapter_files.find(directory, name), self._adapters[name]
            _compare(folder, name, LoraConfig.from_pretrained(folder), self._saved_config(name))
            shapes = adapter.shapes(self._model.linears(), self._model.shapes())
            arrays = adapter_files.load(folder, shapes, self._beside())
            read[name] = {adapter.keys(name)[key]: array for key, array in arrays.items()}
        with self._writing():
            for name, arrays in read.items():
                tensors = self._model.adapter_parameters(name)
                for tensor, array in arrays.items():
                    tensors[tensor][...] = array


def _compare(folder, name, theirs, ours):
    there, here = theirs.to_dict(), ours.to_dict()
    for field in here:
        if field not in ("base_model_name_or_path", "peft_version", "revision") and there.get(field) != here[field]:
            raise ConfigError(f"{folder}: {field} of adapter {name!r} was {there.get(field)!r}, now it is "
                              f"{here[field]!r}; set it back, or train without resume_from_checkpoint")
