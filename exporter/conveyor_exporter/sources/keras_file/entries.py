"""Owns what a file says of one model or layer whatever it is: its class, which must be Keras' own, and its name."""

import re

from conveyor_exporter.errors import ModelFileRefused
from conveyor_exporter.sources.keras_file.json_text import Object, as_text, quoted

INPUT = "InputLayer"

_KERAS_MODULE = re.compile(r"keras(\.[a-z0-9_]+)*")


def class_name_of(entry: Object, title: str) -> str:
    """Return the class of a model or layer; refuse one that is not Keras' own, whatever it is called."""
    class_name = as_text(entry.get("class_name"), f"the class of {title}")
    module, registered = entry.get("module"), entry.get("registered_name")
    own = module is None or (isinstance(module, str) and _KERAS_MODULE.fullmatch(module))
    if not own or registered not in (None, class_name):
        raise ModelFileRefused(
            f"{title} is of a custom class ({quoted(module)}, {quoted(registered or class_name)}), whose code is not "
            "in the file and would not be run. Only Keras' own layers can be read."
        )
    return class_name


def layer_name_of(entry: Object) -> str:
    """Return a layer's own name; the first versions of Keras 2 kept it in the config alone."""
    config = entry.get("config")
    return as_text(
        entry.get("name") or (config.get("name") if isinstance(config, dict) else None) or entry.get("class_name"),
        "a layer's name",
    )
