"""Weight files of pretrained encoders that asdray knows: network, licence, size, hash, and where to get them.

``weights`` of an encoder is a path, or the name of an entry of `KNOWN_WEIGHTS`, whose file lies in
``<data>/encoders``. A name saves typing; signatures hold the sha256 of the content in either case.

Conventions: sizes are bytes. None for a size or a hash means that no source on record states one.

>>> from asdray.config.weights import known_weights, weights_path
>>> known_weights("BEATs_iter3").network
'beats'
>>> weights_path("BEATs_iter3"), weights_path("~/models/mine.pt")
('encoders/BEATs_iter3.pt', '~/models/mine.pt')
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from asdray.dcase.years import nearest

Network = Literal["beats", "eat", "eat_large", "ast", "clap", "aisfx", "beats_made_up", "eat_made_up"]

MADE_UP: dict[str, Network] = {"beats": "beats_made_up", "eat": "eat_made_up"}
"""Network -> the same network, narrow, with weights that `asdray.frontends.encoders.made_up` draws at random.
They stand for a published file where only synthetic data are used: they know nothing of sound."""

WHEEL_MEMBER = "aisfx/models/checkpoint.pth"
"""The weight file inside the wheel of the package aisfx."""


class KnownWeights(NamedTuple):
    """A published weight file.

    Attributes:
        file: name of the file in ``<data>/encoders``.
        sha256: of the file's content.
        url: a mirror of the file; empty if none is known.
        wheel: the requirement and the sha256 of a Python wheel that holds the file; None for most.
        source: where the file was published, in words.
    """

    name: str
    network: Network
    file: str
    size: int | None
    sha256: str | None
    licence: str
    source: str
    url: str = ""
    wheel: tuple[str, str] | None = None

    @property
    def can_be_fetched(self) -> bool:
        """True if ``asdray encoders fetch`` can get the file by itself."""
        return bool(self.url or self.wheel)


_UNILM = "links in microsoft/unilm, folder beats; the links are dead, so ask a colleague for the file"
_HUB = "https://huggingface.co"

KNOWN_WEIGHTS = (
    KnownWeights(
        "BEATs_iter3",
        "beats",
        "BEATs_iter3.pt",
        361_499_833,
        "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34",
        "MIT",
        "a release of merlresearch/noise-aware-audio-ssl",
        "https://github.com/merlresearch/noise-aware-audio-ssl/releases/download/v1.0.0/BEATs_iter3.pt",
    ),
    KnownWeights(
        "BEATs_iter3_plus_AS2M",
        "beats",
        "BEATs_iter3_plus_AS2M.pt",
        361_499_833,
        "d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34",
        "MIT",
        "the Hugging Face dataset Bencr/beats-checkpoints",
        f"{_HUB}/datasets/Bencr/beats-checkpoints/resolve/main/BEATs_iter3_plus_AS2M.pt",
    ),
    KnownWeights(
        "BEATs_iter3_finetuned_on_AS2M_cpt1",
        "beats",
        "BEATs_iter3_finetuned_on_AS2M_cpt1.pt",
        363_145_291,
        "379369a41d0b3749f746cdcea8036de506cb3aedecce84de7db0a75fda2a4fe7",
        "MIT",
        _UNILM,
    ),
    KnownWeights(
        "BEATs_iter3_finetuned_on_AS2M_cpt2",
        "beats",
        "BEATs_iter3_finetuned_on_AS2M_cpt2.pt",
        363_145_291,
        "08374f1cbd49143900b351bc81cd307de386a11f8e609eb3862634e992068b55",
        "MIT",
        _UNILM,
    ),
    KnownWeights(
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1",
        "beats",
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt1.pt",
        363_145_291,
        "7f9362028ac6e5c049e8dc314d87e90e4f82a15a8e472deb56af55d7f9b34d6a",
        "MIT",
        _UNILM,
    ),
    KnownWeights(
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2",
        "beats",
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
        363_145_291,
        "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c",
        "MIT",
        "the Hugging Face model THUdyh/Ola_speech_encoders",
        f"{_HUB}/THUdyh/Ola_speech_encoders/resolve/main/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
    ),
    KnownWeights(
        "EAT_epoch10",
        "eat",
        "EAT-base_epoch10_pt.pt",
        None,
        None,
        "MIT",
        "a drive of the authors, linked in cwx-worst-one/EAT: the file that ASDKit uses",
    ),
    KnownWeights(
        "EAT_epoch30",
        "eat",
        "EAT-base_epoch30_pretrain.safetensors",
        359_905_840,
        "8623072d09aac4f3ad1168b4fed3a24e4f68fe1da25b9fe733375efb237e5f48",
        "MIT",
        "the Hugging Face model worstchan/EAT-base_epoch30_pretrain",
        f"{_HUB}/worstchan/EAT-base_epoch30_pretrain/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "EAT_epoch30_finetuned",
        "eat",
        "EAT-base_epoch30_finetune_AS2M.safetensors",
        None,
        None,
        "MIT",
        "the Hugging Face model worstchan/EAT-base_epoch30_finetune_AS2M",
        f"{_HUB}/worstchan/EAT-base_epoch30_finetune_AS2M/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "EAT_large_epoch20",
        "eat_large",
        "EAT-large_epoch20_pretrain.safetensors",
        None,
        None,
        "MIT",
        "the Hugging Face model worstchan/EAT-large_epoch20_pretrain",
        f"{_HUB}/worstchan/EAT-large_epoch20_pretrain/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "SSLAM",
        "eat",
        "SSLAM_pretrain.safetensors",
        None,
        "8ec670adb241c710422ddd894ff1bade142ef0b25cf1ee68577aa45f89432298",
        "MIT",
        "the Hugging Face model ta012/SSLAM_pretrain",
        f"{_HUB}/ta012/SSLAM_pretrain/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "AST",
        "ast",
        "ast-finetuned-audioset-10-10-0.4593.safetensors",
        None,
        None,
        "BSD-3-Clause",
        "the Hugging Face model MIT/ast-finetuned-audioset-10-10-0.4593",
        f"{_HUB}/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "CLAP",
        "clap",
        "clap-htsat-fused.safetensors",
        None,
        None,
        "Apache-2.0",
        "the Hugging Face model laion/clap-htsat-fused",
        f"{_HUB}/laion/clap-htsat-fused/resolve/main/model.safetensors",
    ),
    KnownWeights(
        "aisfx",
        "aisfx",
        "aisfx.pth",
        24_900_277,
        "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
        "CC-BY-4.0",
        "the wheel of the Python package aisfx",
        wheel=("aisfx==0.1.2", "bfe219950715af179e9a1653e7117cc1852baef267cd6596c42cad74afe1d194"),
    ),
)
"""Every known file. Hashes were stated by others; only the hash of aisfx was computed from the file."""

_BY_NAME = {known.name: known for known in KNOWN_WEIGHTS}
_BY_SHA256 = {known.sha256: known for known in KNOWN_WEIGHTS if known.sha256}


def is_path(weights: str) -> bool:
    """True if ``weights`` is a path, which has a separator or the ending of a weight file."""
    return "/" in weights or weights.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))


def known_weights(name: str) -> KnownWeights:
    """The entry with a name.

    Raises:
        ValueError: an unknown name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    raise ValueError(
        f"unknown weights {name!r}{nearest(name, list(_BY_NAME))} (known: {', '.join(_BY_NAME)}; or the path "
        "of a file: one with a / or the ending .pt, .pth, .ckpt, .bin or .safetensors)"
    )


def name_of_weights(sha256: str) -> str | None:
    """The name of published weights with this hash; None for other content."""
    known = _BY_SHA256.get(sha256)
    return known.name if known else None


def weights_path(weights: str) -> str:
    """The path of ``weights``: absolute, below ``~``, or relative to the data folder.

    Raises:
        ValueError: an unknown name.
    """
    return weights if is_path(weights) else f"encoders/{known_weights(weights).file}"


def how_to_get(known: KnownWeights) -> str:
    """One line that says how to get a file that is missing."""
    if known.can_be_fetched:
        return f"get it with `asdray encoders fetch {known.name}`"
    return f"asdray knows no mirror ({known.source}): put the file there yourself"
