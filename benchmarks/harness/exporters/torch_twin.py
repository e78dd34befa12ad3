"""A network as a torch user writes it. Imports nothing of ours, so that every environment with torch can."""

from typing import Any

import torch
from torch import nn

from harness.exporters.networks import INPUT, Network, Weights

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(1)}


class ChannelsFirst(nn.Module):
    """What a torch user writes in front of a network that takes pictures as they lie in memory."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[batch, height, width, channels] to [batch, channels, height, width]."""
        return inputs.permute(0, 3, 1, 2)


def in_torch(network: Network, weights: Weights) -> nn.Module:
    """The network with its weights, channels first inside."""
    parts: list[nn.Module] = [ChannelsFirst()]
    probe = parts[0](torch.zeros(1, *INPUT))  # what reaches each layer, of which only the shape counts
    image: torch.Size | None = None  # the shape in front of a Flatten
    for (kind, options), arrays in zip(network, weights, strict=True):
        image = probe.shape if kind == "Flatten" else image
        tensors = [torch.from_numpy(array) for array in arrays]
        added = _layer(kind, options, tensors, probe.shape, image)
        if "activation" in options:
            added.append(ACTIVATIONS[options["activation"]]())
        image = None if kind == "Dense" else image
        parts += added
        probe = nn.Sequential(*added).eval()(probe).detach()
    return nn.Sequential(*parts).eval()


def _layer(
    kind: str, options: dict[str, Any], weights: list[torch.Tensor], shape: torch.Size, image: torch.Size | None
) -> list[nn.Module]:
    """One layer, for inputs of this shape; `image` is what was flattened in front of a Dense."""
    match kind:
        case "Conv2D":
            return _convolution(options, weights, shape)
        case "BatchNormalization":
            part = nn.BatchNorm2d(shape[1], eps=1e-3)
            part.weight.data, part.bias.data, part.running_mean.data, part.running_var.data = weights
            return [part]
        case "Dense":
            kernel = weights[0]
            part = nn.Linear(*kernel.shape)
            if image:  # rows in (height, width, channels) order to torch's (channels, height, width)
                _, channels, height, width = image
                kernel = kernel.reshape(height, width, channels, -1).permute(2, 0, 1, 3).reshape(kernel.shape)
            part.weight.data, part.bias.data = kernel.T.contiguous(), weights[1]
            return [part]
        case "MaxPooling2D":
            return [nn.MaxPool2d(options["pool_size"])]
        case "GlobalAveragePooling2D":
            return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        case "Flatten":
            return [nn.Flatten()]
        case "ReLU":
            return [nn.ReLU()]
    raise ValueError(f"{kind} has no twin in torch yet; write it here.")


def _convolution(options: dict[str, Any], weights: list[torch.Tensor], shape: torch.Size) -> list[nn.Module]:
    size, stride = options["kernel_size"], options.get("strides", 1)
    part = nn.Conv2d(shape[1], options["filters"], size, stride, bias=len(weights) > 1)
    part.weight.data = weights[0].permute(3, 2, 0, 1).contiguous()
    if part.bias is not None:
        part.bias.data = weights[1]
    if options.get("padding") != "same":
        return [part]
    total = max(0, (-(-shape[2] // stride) - 1) * stride + size - shape[2])
    return [nn.ZeroPad2d((total // 2, total - total // 2, total // 2, total - total // 2)), part]
