"""A synthetic dataset in the organisers' layout of a year: real machines' grammar, made-up sounds."""

from asdray.dcase.synth.dataset import SynthReport, done_path, synthesise, unfinished_path

__all__ = ["SynthReport", "done_path", "synthesise", "unfinished_path"]
