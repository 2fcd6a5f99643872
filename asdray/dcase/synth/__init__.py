"""A synthetic dataset in the organisers' layout of a year: names and lists as released, invented sounds."""

from asdray.dcase.synth.dataset import SynthReport, synthesise

__all__ = ["SynthReport", "synthesise"]
