"""Other words for options, as other tools have them, and the options that are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asdray.dcase.years import nearest

MEANT: Mapping[str, tuple[str, ...]] = {
    "accumulate_grad_batches": ("accumulate",),
    "amp": ("precision",),
    "backend": ("backends",),
    "bs": ("batch_size",),
    "clip_grad": ("gradient_clip",),
    "criterion": ("loss",),
    "dataset": ("dcase",),
    "datasets": ("dcase",),
    "fmax": ("f_max",),
    "fmin": ("f_min",),
    "fp16": ("precision",),
    "grad_accum": ("accumulate",),
    "grad_clip": ("gradient_clip",),
    "gradient_accumulation_steps": ("accumulate",),
    "gradient_clip_val": ("gradient_clip",),
    "grid": ("space",),
    "hop": ("hop_length",),
    "hop_size": ("hop_length",),
    "k": ("n_neighbors",),
    "logger": ("loggers",),
    "loss_fn": ("loss",),
    "lr": ("learning_rate",),
    "lr_scheduler": ("schedule",),
    "max_epochs": ("epochs",),
    "max_steps": ("steps",),
    "mixup": ("mixup_probability",),
    "model": ("frontend", "recipes"),
    "models": ("recipes",),
    "n_epochs": ("epochs",),
    "n_trials": ("num_samples",),
    "nfft": ("n_fft",),
    "num_epochs": ("epochs",),
    "num_trials": ("num_samples",),
    "optim": ("optimizer",),
    "optimiser": ("optimizer",),
    "parameters": ("space",),
    "params": ("space",),
    "scheduler": ("schedule",),
    "search_space": ("space",),
    "tracker": ("loggers",),
    "trackers": ("loggers",),
    "warmup_steps": ("warmup",),
    "wd": ("weight_decay",),
    "win_length": ("n_fft",),
    "year": ("dcase",),
    "years": ("dcase",),
}
"""Word -> the options that may be meant by it."""


def nearest_option(path: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """``"; did you mean 'train.learning_rate'?"`` for an unknown option; ``""`` if no option is close.

    >>> nearest_option("train.lr", ["train.epochs", "train.learning_rate"])
    "; did you mean 'train.learning_rate'?"

    Args:
        path: dotted path of the unknown option.
        known: paths of the options at the same place.
        elsewhere: paths of other options, which are meant only by their last name, or by another word for it.
    """
    known = list(known)
    last = path.rpartition(".")[2].lower().replace("-", "_")
    meant = MEANT.get(last, ())
    for choices, names in ((known, meant), (elsewhere, (last, *meant))):
        for name in names:
            if found := next((one for one in choices if one.rpartition(".")[2] == name), None):
                return f"; did you mean {found!r}?"
    return nearest(path, known)
