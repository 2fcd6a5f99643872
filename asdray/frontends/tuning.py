"""The trained part of a pretrained encoder: which tensors learn, at which depth, and in which mode.

The depth of a parameter counts blocks from the one whose tokens are used: 0 for this block, 1 for the block
before, and so on; what lies before the first block counts as one more.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from asdray.config.tuning import Full, Last, Lora, Tuning
from asdray.frontends.encoders.base import EncoderNetwork
from asdray.frontends.lora import LoraLinear, add_lora


def tune(network: EncoderNetwork, tuning: Tuning, layer: int) -> None:
    """Decides which parameters of a network with weights learn; adds those of LoRA, with random values.

    Args:
        layer: number of the block whose tokens are used; no parameter of later blocks learns.
    """
    for parameter, depth in [*depths(network, layer)]:
        match tuning:
            case Full():
                learns = depth >= 0
            case Last():
                learns = 0 <= depth < tuning.blocks
            case _:
                learns = False
        parameter.requires_grad_(learns)
        if learns:  # values of the file's pages are shared with other processes
            parameter.data = parameter.data.clone()
    if isinstance(tuning, Lora):
        layers = [network.targets[name] for name in tuning.targets or ()]
        for block in network.stack[:layer]:
            add_lora(block, layers, tuning.rank, tuning.alpha, tuning.dropout)


def depths(network: EncoderNetwork, layer: int) -> Iterator[tuple[nn.Parameter, int]]:
    """Every parameter and its depth; negative for parameters that the layer's tokens do not depend on."""
    n_layers = len(network.stack)
    numbers = {id(p): n for n, block in enumerate(network.stack, 1) for p in block.parameters()}
    numbers |= {
        id(p): n_layers if layer == n_layers else n_layers + 1
        for module in network.after
        for p in module.parameters()
    }
    for parameter in network.parameters():
        yield parameter, layer - numbers.get(id(parameter), 0)


def set_mode(network: EncoderNetwork, *, learning: bool, dropouts: bool) -> None:
    """Training or evaluation mode of a network whose parameters `tune` has decided about.

    Batch norms that do not learn keep their published statistics.

    Args:
        learning: True while the network is trained.
        dropouts: True for the network's own dropouts while it is trained; those of LoRA are active anyway.
    """
    network.train(learning and dropouts)
    for module in network.modules():
        if isinstance(module, LoraLinear):
            module.dropout.train(learning)
        elif isinstance(module, _BatchNorm):
            module.train(learning and _learns(module))


def frozen_state(network: EncoderNetwork) -> dict[str, Tensor]:
    """The tensors of the state dict that training leaves as they are."""
    learnt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if (value.requires_grad if isinstance(value, nn.Parameter) else _learns(module))
    }
    return {name: value for name, value in network.state_dict().items() if name not in learnt}


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters(recurse=False))
