"""A tiny formatted year and systems small enough to train in seconds, for the tests of train and extract."""

from __future__ import annotations

from pathlib import Path

from trees import build_tree

from asdray.config.frontend import Autoencoder, Discriminative, FftBranch, StftBranch
from asdray.config.losses import AdaCos
from asdray.config.system import Audio, System
from asdray.config.train import Train
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset

DCASE = "dcase2023"
MACHINES = ("ToyCar", "fan", "bandsaw")
"""Two of dev, one of eval; 6 training and 4 test clips each, of 0.5 s and a little more."""

EPOCHS = 4

DIS = System(
    frontend=Discriminative(
        branches=(
            FftBranch(channels=4, kernels=(32, 16, 4), strides=(16, 8, 2), hidden=1, embedding_dim=5),
            StftBranch(n_fft=256, hop_length=128, channels=(4, 8), embedding_dim=6),
        ),
        loss=AdaCos(trainable=True),
    ),
    train=Train(epochs=EPOCHS, batch_size=8),
    audio=Audio(duration=0.4),
)
AE = System(
    frontend=Autoencoder(n_mels=16, n_fft=256, hop_length=128, hidden=(8, 8), bottleneck=3),
    train=Train(epochs=EPOCHS, batch_size=16),
    audio=Audio(duration=0.4),
)


def build_year(data: Path) -> None:
    """Writes and formats the year below ``data``."""
    build_tree(data, DCASE, list(MACHINES), {"source": 4, "target": 2}, n_samples=8000)
    format_dataset(data, DCASE)


def trial_of(system: System, seed: int = 0, machines: tuple[str, ...] = MACHINES) -> Trial:
    """A trial of a tiny system."""
    return Trial(DCASE, "dis" if system.frontend.scope == "all" else "ae", system, seed, machines)
