"""optimum, which exports models of the transformers library: the network is dressed up as one.

It takes a torch module that has a `config`, and a description of inputs and outputs that has to be written; what it
does then is `torch.onnx.export(dynamo=False)`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from optimum.exporters.onnx import OnnxConfig, export
from optimum.utils import NormalizedConfig
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from harness.exporters.networks import INPUT, Network, Weights
from harness.exporters.rival_main import export_all
from harness.exporters.torch_twin import in_torch


class Dressed(PreTrainedModel):
    """A network as transformers has them."""

    config_class = PretrainedConfig

    def __init__(self, network: nn.Module) -> None:
        super().__init__(PretrainedConfig())
        self.network = network

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[batch, height, width, channels] to answers by name."""
        return {"probability": self.network(image)}


class Ends(OnnxConfig):
    """What goes in and comes out."""

    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    inputs: ClassVar = {"image": {0: "batch"}}
    outputs: ClassVar = {"probability": {0: "batch"}}

    def generate_dummy_inputs(self, framework: str = "pt", **options: object) -> dict[str, torch.Tensor]:
        """What torch traces with."""
        return {"image": torch.zeros(2, *INPUT)}


def way(network: Network, weights: Weights) -> Callable[[Path], None]:
    torch.set_num_threads(1)
    model = Dressed(in_torch(network, weights)).eval()

    def write(path: Path) -> None:
        export(model, Ends(model.config, task="image-classification"), path)

    return write


if __name__ == "__main__":
    export_all(way)
