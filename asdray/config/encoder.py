"""The frontend that reads a pretrained audio encoder: one pass of the network, several embeddings.

Example::

    frontend:
      name: encoder
      network: beats
      weights: BEATs_iter3
      layers: [4, 12]
      poolings: [mean, {name: rdp, gamma: [4, 8], tokens: bands}]

writes six embeddings per clip, among them ``L4_mean`` and ``L12_bands_rdp_8``. Backends name one of them in
their option ``embedding``, so that poolings and layers are compared without another extraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from asdray.config.base import Positive, refuse_repeats
from asdray.config.frontend_base import FrontendConfig, InputFile
from asdray.config.pooling import Mean, PoolingConfig, Poolings
from asdray.config.weights import MADE_UP, Network, how_to_get, is_path, known_weights, weights_path
from asdray.dcase.years import SAMPLE_RATE


class NetworkFacts(NamedTuple):
    """Facts of a network that planning needs.

    Attributes:
        n_layers: blocks whose outputs can be chosen, from 1.
        bands: frequency bands of the token grid; 1 for a network whose tokens have no frequency axis.
        has_cls: True if the network has a token for the whole clip.
        shortest: samples at 16 kHz; fewer give no token.
    """

    n_layers: int
    bands: int
    has_cls: bool
    shortest: int


NETWORKS: dict[str, NetworkFacts] = {
    "beats": NetworkFacts(12, 8, False, 2800),
    "eat": NetworkFacts(12, 8, True, 400),
    "eat_large": NetworkFacts(24, 8, True, 400),
    "ast": NetworkFacts(12, 12, True, 400),
    "clap": NetworkFacts(1, 1, False, 400),
    "aisfx": NetworkFacts(1, 1, False, 18_205),
    "beats_made_up": NetworkFacts(12, 8, False, 2800),
    "eat_made_up": NetworkFacts(12, 8, True, 400),
}


def file_name(weights: str) -> str:
    """The name of the file of ``weights``, which enters hashes in place of its path."""
    return PurePosixPath(weights_path(weights)).name


def weights_file(network: Network, weights: str, kind: str, option: str) -> InputFile:
    """The file of ``weights``, an `InputFile` of ``kind`` that ``option`` names."""
    path = weights_path(weights)
    if is_path(weights):
        hint = "a relative path starts at the data folder, and `asdray encoders` lists names of known files"
        return InputFile(kind, option, path, hint=hint, network=network)
    known = known_weights(weights)
    return InputFile(kind, option, path, known.sha256, how_to_get(known), network)


def without_layer(network: Network, layer: int) -> str:
    """The sentence about a layer that a network does not have."""
    n_layers = NETWORKS[network].n_layers
    choices = "last or 1" if n_layers == 1 else f"last, or 1 to {n_layers}"
    return f"network {network!r} has no layer {layer}: choose {choices}"


def with_cls_token() -> str:
    """The published networks that have a CLS token, for a message."""
    made_up = MADE_UP.values()
    return ", ".join(name for name, found in NETWORKS.items() if found.has_cls and name not in made_up)


def check_poolings(network: Network, poolings: Sequence[PoolingConfig]) -> None:
    """Raises ValueError if a network has no bands or no class token, where a pooling needs them."""
    facts = NETWORKS[network]
    for pooling in poolings:
        if pooling.per_band and facts.bands == 1:
            raise ValueError(
                f"poolings: {pooling.label} pools each frequency band, but the tokens of network "
                f"{network!r} have no bands: leave out tokens: bands"
            )
        if pooling.name == "cls" and not facts.has_cls:
            raise ValueError(
                f"poolings: network {network!r} has no CLS token (networks with one: {with_cls_token()})"
            )


def check_frame_multiple(network: Network, frame_multiple: int) -> None:
    """Raises ValueError for another value than the default of a network that is not EAT."""
    if frame_multiple != 16 and not network.startswith("eat"):
        raise ValueError(f"frame_multiple is an option of eat and eat_large, not of {network!r}")


def check_weights(network: Network, weights: str) -> None:
    """Raises ValueError for an unknown name, or the name of another network's weights."""
    if not is_path(weights) and (known := known_weights(weights)).network != network:
        raise ValueError(f"weights: {known.name} are weights of network {known.network!r}, not {network!r}")


def check_length(network: Network, n_samples: int) -> None:
    """Raises ValueError if a clip of ``n_samples`` gives no token of a network."""
    shortest = NETWORKS[network].shortest
    if n_samples < shortest:
        raise ValueError(
            f"clips of {n_samples / SAMPLE_RATE:g} s are too short for network {network!r}, which needs "
            f"{shortest / SAMPLE_RATE:g} s: choose a longer audio.duration"
        )


class Encoder(FrontendConfig):
    """A pretrained encoder whose tokens are pooled into embeddings; nothing is trained.

    Example: ``frontend: {name: encoder, network: beats, weights: BEATs_iter3, poolings: [mean]}``
    """

    name: Literal["encoder"] = "encoder"
    network: Network
    """``beats``, ``eat`` (EAT base, and SSLAM), ``eat_large``, ``aisfx``; ``ast`` and ``clap`` need the extra
    ``transformers``: ``pip install 'asdray[transformers]'``. ``beats_made_up`` and ``eat_made_up``, narrow
    and with weights drawn at random, are for synthetic data only: see ``asdray benchmark --synthetic``."""
    weights: Annotated[str, Field(min_length=1)]
    """A name that ``asdray encoders`` lists, or the path of a file; a relative path starts at the data
    folder. The file's name and the hash of its content, not its folder, decide which results are reused. The
    name alone chooses the trial's folder: other weights of the same file name overwrite the earlier results
    there. Give the second file another name to keep both."""
    layers: Literal["last"] | tuple[Positive, ...] = "last"
    """Blocks whose output tokens are pooled, from 1; one number, a list, or ``last``."""
    poolings: Poolings = (Mean(),)
    """Poolings over the tokens, by name or as objects; a list of values stands for one pooling per value.
    Every pooling of every layer is one embedding of the same extraction."""
    frame_multiple: Literal[16, 32] = 16
    """EAT only: spectra are padded with zeros to a multiple of so many frames of 10 ms. ASDKit has 32."""
    clamp_min: float | None = None
    """Lower limit of token values before pooling; null for none. Source: arXiv 2603.04605, 0.1 for EAT."""
    spike: Annotated[float, Field(gt=0)] | None = None
    """Token values above s become s + tanh(x - s) before pooling; null for none. The paper suppresses values
    above 0.5 by tanh (arXiv 2603.04605, for EAT); the formula is a reading of its words."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the network's matrix products. ``bf16`` has 8 significant bits, and is faster on GPUs
    and on CPUs with AVX-512 or AMX. Filter banks and poolings have 32 bits."""

    hashed_as: ClassVar = {"weights": file_name}
    learns: ClassVar[bool] = False
    has_one_seed: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = (*FrontendConfig.modules, "asdray.frontends.encoder")

    @field_validator("layers", mode="before")
    @classmethod
    def _list_of_layers(cls, layers: Any) -> Any:
        if isinstance(layers, str) and layers != "last":
            raise ValueError(f"{layers!r} is no layer: choose a number from 1, a list of numbers, or last")
        return [layers] if isinstance(layers, int) else layers

    @model_validator(mode="after")
    def _network_has_them(self) -> Encoder:
        facts = NETWORKS[self.network]
        refuse_repeats(self.layer_numbers, "layers")
        for layer in self.layers if self.layers != "last" else ():
            if layer > facts.n_layers:
                raise ValueError(f"layers: {without_layer(self.network, layer)}")
        check_poolings(self.network, self.poolings)
        check_frame_multiple(self.network, self.frame_multiple)
        check_weights(self.network, self.weights)
        return self

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The numbers of the layers that are pooled."""
        return (NETWORKS[self.network].n_layers,) if self.layers == "last" else self.layers

    @property
    def has_made_up_weights(self) -> bool:  # type: ignore[override]
        """True for a network whose weights are drawn at random."""
        return self.network in MADE_UP.values()

    @property
    def embeddings(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the embeddings, ``L<layer>_<pooling>``; backends score the first unless told otherwise."""
        return tuple(f"L{layer}_{p.label}" for layer in self.layer_numbers for p in self.poolings)

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The file of the weights."""
        return (weights_file(self.network, self.weights, "encoder", "weights"),)

    def check(self, n_samples: int) -> None:
        """Raises ValueError if a clip of ``n_samples`` gives no token of the network."""
        check_length(self.network, n_samples)
