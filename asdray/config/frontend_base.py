"""The base of all frontends' configurations: the options, and all that planning asks of a frontend."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from asdray.config.base import Config
from asdray.config.plugin_fault import wrong
from asdray.config.plugin_members import check_lists_of_names

if TYPE_CHECKING:
    from asdray.config.clustering import Clustering

ClassPart = Literal["machine", "section", "attributes", "domain"]
CLASS_PARTS: tuple[ClassPart, ...] = typing.get_args(ClassPart)


class InputFile(NamedTuple):
    """A file that a training reads besides audio: embeddings, or weights of an encoder.

    Attributes:
        kind: a noun for the content, such as ``embeddings``: with the sha256 of the content it enters the
            training's signature. Taken are ``stage``, ``system``, ``dcase``, ``seed``, ``unit``, ``data``.
        option: the option of the frontend that holds the path, for error messages.
        path: absolute, or relative to the data folder; ``~`` is the home folder.
        sha256: of the content, if the configuration names a published file; else None.
        hint: how to get the file, for error messages.
        network: of an encoder, if the file holds its weights; a sweep compares the two before Ray starts.
    """

    kind: str
    option: str
    path: str
    sha256: str | None = None
    hint: str = ""
    network: str | None = None


class FrontendConfig(Config):
    """The base of every frontend's configuration: its options, and all that planning asks of a frontend.

    Planning imports no torch; `asdray.frontends.base.FrontendModule` is the part that computes.

    Example:
        A frontend of one option, trained on all machines together::

            class Mine(FrontendConfig):
                name: Literal["mine"] = "mine"
                weights: str
                scope: ClassVar = "all"

                def input_files(self, dcase, machine, seed):
                    return (InputFile("encoder", "weights", self.weights),)

    Attributes:
        scope: the training data of one model: ``all`` machines together, or one ``machine``.
        own_scores: names of the anomaly scores that the frontend computes itself.
        embeddings: names of the embeddings, the most useful one first. Backends choose by name.
        scored_embedding: True if backends score the embedding.
        learns: True if the frontend is trained.
        holds_out: True if training holds data out for a validation loss.
        has_one_seed: True if all seeds give the same result.
        takes_any_length: True if clips may have any length.
        reads_audio: False if embeddings come from the input file of kind ``embeddings`` instead of audio.
        test_classes: the parts of a class (machine, section, attributes, domain) whose values among the test
            clips training may read; empty for none. Modules from plugins do not get the values.
        classes_from: the clips whose attributes and domains make the classes, ``train`` or ``train+test``;
            empty without classes.
        reads_supplemental: True if training reads the machines' supplemental clips, which follow the training
            clips; a column ``supplemental`` is then ``machine`` or ``noise`` for these and empty for others.
        has_made_up_weights: True if a pretrained network has weights that are drawn at random, for synthetic
            data only.
        clustering: the clustering of another system's embeddings whose clusters are classes, or None.
        modules: modules that a worker imports before its first task, to save the seconds that it takes.
    """

    name: str
    scope: ClassVar[Literal["all", "machine"]] = "machine"
    own_scores: ClassVar[tuple[str, ...]] = ()
    embeddings: ClassVar[tuple[str, ...]] = ("embedding",)
    scored_embedding: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    holds_out: ClassVar[bool] = False
    has_one_seed: ClassVar[bool] = False
    takes_any_length: ClassVar[bool] = True
    reads_audio: ClassVar[bool] = True
    test_classes: ClassVar[tuple[ClassPart, ...]] = ()
    classes_from: ClassVar[Literal["", "train", "train+test"]] = ""
    reads_supplemental: ClassVar[bool] = False
    has_made_up_weights: ClassVar[bool] = False
    clustering: ClassVar[Clustering | None] = None
    modules: ClassVar[tuple[str, ...]] = (
        "torchaudio",
        "asdray.audio.cache",
        "asdray.frontends.checkpoint",
        "asdray.frontends.compute",
    )

    @classmethod
    def check_class(cls) -> None:
        """Raises PluginError for a plugin's class whose lists of names or scope have another form."""
        check_lists_of_names(cls, ("own_scores", "embeddings"))
        if not isinstance(cls.scope, property) and cls.scope not in ("all", "machine"):
            raise wrong(cls, cls, f"scope = {cls.scope!r}", "'all' or 'machine'", "choose one of them")

    @property
    def loss_kind(self) -> str:
        """The names of the losses that are minimised; values of different kinds cannot be compared."""
        return self.name

    @property
    def label(self) -> str:
        """The frontend in the words of an error message."""
        return f"frontend {self.name!r}"

    def input_files(self, dcase: str, machine: str, seed: int) -> tuple[InputFile, ...]:
        """The files that training reads for a machine besides its audio, each of another kind."""
        return ()

    def check(self, n_samples: int) -> None:
        """Raises ValueError if the frontend cannot take clips of ``n_samples`` samples."""
