"""AST and CLAP, whose networks come from the package ``transformers``; an optional extra of asdray.

Weights are read from a file like any other encoder's: nothing is downloaded and no remote code runs. Clips
that are longer than a network's window are cut into windows; the last one ends with the clip.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asdray.audio import kaldi
from asdray.frontends.encoders.base import EncoderNetwork, Tokens


class HubNetwork(EncoderNetwork):
    """The base of networks from ``transformers``, which knows the names that its versions gave to tensors.

    Args:
        config: the package's configuration; None for the published network's.
    """

    model: nn.Module

    def fill(self, state: Mapping[str, Tensor]) -> list[str]:
        """See `EncoderNetwork.fill`."""
        messages = _transformers(self.name).utils.logging
        before = messages.get_verbosity(), messages.is_progress_bar_enabled()
        messages.set_verbosity_error()
        messages.disable_progress_bar()
        model: Any = self.model
        try:
            self.model, found = type(model).from_pretrained(
                None,
                config=model.config,
                state_dict=self.renamed(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        finally:
            messages.set_verbosity(before[0])
            if before[1]:
                messages.enable_progress_bar()
        self.eval()
        return [
            *(f"tensor {name!r} is missing" for name in sorted(found["missing_keys"])),
            *(
                f"tensor {name!r} has the shape {list(theirs)} instead of {list(ours)}"
                for name, theirs, ours in sorted(found["mismatched_keys"])
            ),
            *(f"tensor {name!r} is unknown" for name in sorted(found["unexpected_keys"])),
        ]


class Ast(HubNetwork):
    """Audio Spectrogram Transformer: 12 blocks of width 768; overlapping patches, 12 bands, a row per 100 ms.

    Layer 12 includes the final norm, the others do not. CLS is the mean of the class and distillation tokens,
    and of windows of 10.24 s.

    Source: arXiv 2104.01778; ``MIT/ast-finetuned-audioset-10-10-0.4593``.
    """

    name: ClassVar[str] = "ast"
    # Under the names that the package has given them in turn.
    targets: ClassVar = {
        "q": "attention.(attention.query|q_proj)",
        "k": "attention.(attention.key|k_proj)",
        "v": "attention.(attention.value|v_proj)",
        "out": "attention.(output.dense|o_proj)",
        "fc1": "intermediate.dense|mlp.fc1",
        "fc2": r"(?<!attention\.)output.dense|mlp.fc2",
    }
    mean: ClassVar[float] = -4.2677393
    std: ClassVar[float] = 4.5689974

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        package = _transformers(self.name)
        self.model = package.ASTModel(config or package.ASTConfig())
        options: Any = self.model.config
        self.n_layers, self.width = options.num_hidden_layers, options.hidden_size
        self.bands = (options.num_mel_bins - options.patch_size) // options.frequency_stride + 1
        self.window = options.max_length
        self.has_cls, self.shortest = True, kaldi.FRAME

    @property
    def stack(self) -> Sequence[nn.Module]:
        """The blocks."""
        lists = (module for module in self.model.modules() if isinstance(module, nn.ModuleList))
        return [*next(found for found in lists if len(found) == self.n_layers)]

    @property
    def after(self) -> Sequence[nn.Module]:
        """The final norm."""
        return [self.model.get_submodule("layernorm")]

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the classifier."""
        return {
            name.removeprefix("audio_spectrogram_transformer."): value
            for name, value in state.items()
            if not name.startswith("classifier.")
        }

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` at 16 kHz -> ``(B, windows * 1024, 128) float32``, normalised.

        Raises:
            ValueError: clips shorter than a frame of 25 ms.
        """
        self.check_length(waves)
        with torch.no_grad():
            frames = kaldi.fbank(waves, window="hanning")
            if frames.shape[1] < self.window:
                frames = F.pad(frames, (0, 0, 0, self.window - frames.shape[1]))
            return windows(frames, self.window).flatten(1, 2).sub(self.mean).div_(2 * self.std)

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Spectra ``(B, windows * 1024, 128)`` -> tokens ``(B, windows * 101, 12, 768)`` and CLS.

        Raises:
            ValueError: a layer that does not exist.
        """
        self.check_layers(layers)
        parts = spectrum.unflatten(1, (-1, self.window)).flatten(0, 1)
        found = self.model(parts, output_hidden_states=True)
        outputs = (*found.hidden_states[: self.n_layers], found.last_hidden_state)
        return {layer: self._tokens(outputs[layer].float(), len(spectrum)) for layer in set(layers)}

    def _tokens(self, x: Tensor, n_clips: int) -> Tokens:
        """``(B * windows, 2 + 12 * 101, D)``, times fastest -> tokens of clips."""
        grid = x[:, 2:].unflatten(1, (self.bands, -1)).transpose(1, 2)
        cls = x[:, :2].mean(1).unflatten(0, (n_clips, -1)).mean(1)
        return Tokens(grid.unflatten(0, (n_clips, -1)).flatten(1, 2), cls)


class Clap(HubNetwork):
    """LAION's CLAP: the projected vector of each window of 10 s is the one layer, 512 dimensions.

    A shorter clip is repeated as often as it fits, then followed by silence. The published network's fusion
    of random crops, which it uses for longer clips alone, is left out.

    Source: arXiv 2211.06687; ``laion/clap-htsat-fused``.
    """

    name: ClassVar[str] = "clap"
    first_layer: ClassVar[int] = 1
    targets: ClassVar = {
        "q": "self.query",
        "k": "self.key",
        "v": "self.value",
        "out": "attention.output.dense",
        "fc1": "intermediate.dense",
        "fc2": r"(?<!attention\.)output.dense",
    }
    rate: ClassVar[int] = 48_000
    window: ClassVar[int] = 480_000
    n_fft: ClassVar[int] = 1024
    hop: ClassVar[int] = 480

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        package = _transformers(self.name)
        self.model = package.ClapAudioModelWithProjection(config or package.ClapAudioConfig())
        options: Any = self.model.config
        self.n_layers, self.width, self.bands, self.has_cls = 1, options.projection_dim, 1, False
        self.shortest = kaldi.FRAME

    @classmethod
    def renamed(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the text model, and the fusion of crops."""
        unused = ("text_model.", "text_projection.", "logit_scale")
        fusion = (
            "audio_model.audio_encoder.patch_embed.fusion_model.",
            "audio_model.audio_encoder.patch_embed.mel_conv2d.",
        )
        return {name: value for name, value in state.items() if not name.startswith(unused + fusion)}

    def spectrum(self, waves: Tensor) -> Tensor:
        """Clips ``(B, n) float32`` at 16 kHz -> ``(B, windows * 1001, 64) float32``, log-mel power in dB."""
        from torchaudio.functional import resample

        self.check_length(waves)
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False):
            waves = resample(waves.float(), self.sample_rate, self.rate)
            if waves.shape[1] < self.window:
                waves = waves.repeat(1, self.window // waves.shape[1])
                waves = F.pad(waves, (0, self.window - waves.shape[1]))
            parts = windows(waves, self.window).flatten(0, 1)
            hann = torch.hann_window(self.n_fft, device=waves.device)
            bins = torch.stft(parts, self.n_fft, self.hop, window=hann, return_complex=True)
            powers = torch.addcmul(bins.real.square(), bins.imag, bins.imag).transpose(1, 2)
            decibels = (powers @ _clap_filters(waves.device)).clamp_min_(1e-10).log10_().mul_(10)
            return decibels.unflatten(0, (len(waves), -1)).flatten(1, 2)

    def forward(self, spectrum: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Spectra ``(B, windows * 1001, 64)`` -> ``(B, windows, 1, 512)``.

        Raises:
            ValueError: a layer that does not exist.
        """
        self.check_layers(layers)
        parts = spectrum.unflatten(1, (-1, self.window // self.hop + 1)).flatten(0, 1)
        vectors = self.model(parts[:, None]).audio_embeds.float()
        return {1: Tokens(vectors.unflatten(0, (len(spectrum), -1))[:, :, None], None)}


def windows(x: Tensor, size: int) -> Tensor:
    """``(B, n, ...)`` -> ``(B, windows, size, ...)``, one after another, the last one ending at n >= size."""
    n = x.shape[1]
    starts = [min(start, n - size) for start in range(0, n, size)]
    return torch.stack([x[:, start : start + size] for start in starts], dim=1)


@functools.lru_cache(maxsize=16)
def _clap_filters(device: torch.device) -> Tensor:
    """Mel filters ``(513, 64)`` between 50 and 14,000 Hz: triangles of height 1, HTK's scale."""
    from torchaudio.functional import melscale_fbanks

    with torch.device("cpu"):
        return melscale_fbanks(Clap.n_fft // 2 + 1, 50.0, 14_000.0, 64, Clap.rate).to(device)


def _transformers(name: str) -> ModuleType:
    """The package.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"the encoder {name!r} needs the package transformers ({error}): "
            "pip install 'asdray[transformers]'"
        ) from None
    return transformers
