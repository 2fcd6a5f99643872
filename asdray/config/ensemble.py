"""The ensembles of a sweep file: which trials' scores are made one, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from asdray.config.base import Config
from asdray.config.ranking import MEANS, averaged
from asdray.dcase.years import nearest

Combine = Literal["zscore", "rank"]


class Ensemble(Config):
    """A leaderboard row beside those of the trials; ``of: seeds`` is a row per system and backend."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=50)]
    of: Literal["seeds", "top"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """``seeds``: of every row, all its seeds; ``top``: the ``k`` best rows; or rows by name: a recipe or a
    system, with ``/<backend>`` behind it if not all of them are meant: ``dis_baseline/knn``."""
    combine: Combine = "zscore"
    """See `asdray.evaluation.ensemble`. ``zscore`` needs training scores alone; ``rank`` is transductive."""
    seeds: Literal["each", "all"] | None = None
    """``each``: an ensemble per seed, of the rows' trials of that seed, and a mean over them; ``all``: one of
    all trials. Null is ``each``; of ``seeds``, ``all``."""
    k: Annotated[int, Field(ge=2)] | None = None
    rank_by: str | None = None
    """What makes the best ones: a ``<dcase>-dev`` column, ``dev_amean`` (null) or ``dev_hmean``."""

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> Ensemble:
        if self.of == "top" and self.k is None:
            raise ValueError("'of: top' needs 'k', how many of the best rows to take")
        for option in ("k", "rank_by"):
            if self.of != "top" and getattr(self, option) is not None:
                raise ValueError(f"{option!r} is for 'of: top' alone")
        if self.of == "seeds" and self.seeds == "each":
            raise ValueError("'of: seeds' is over all seeds: leave 'seeds' out")
        return self

    @property
    def per_seed(self) -> bool:
        """Whether there is an ensemble for every seed."""
        return self.of != "seeds" and self.seeds != "all"

    @property
    def chosen_by(self) -> str | None:
        """The column or mean that chooses the members; None where they are named."""
        return (self.rank_by or "dev_amean") if self.of == "top" else None

    def check(self, columns: Sequence[str], n_seeds: int) -> None:
        """Checks it against the sweep that it stands in.

        Args:
            columns: the leaderboard's, ``<dcase>-<subset>``.

        Raises:
            ValueError: it chooses by what is not there, or by eval columns; seeds of which there is one.
        """
        if self.of == "seeds" and n_seeds < 2:
            raise ValueError("'of: seeds' needs two seeds at least")
        if self.chosen_by is None:
            return
        known = [*(c for c in columns if c.endswith("-dev")), *(m for m in MEANS if m.startswith("dev_"))]
        known = [name for name in known if name in columns or averaged(name, columns)]
        if self.chosen_by in known:
            return
        if self.chosen_by in columns or self.chosen_by in MEANS:
            raise ValueError(
                f"rank_by {self.chosen_by!r}: the eval subset must not choose what is reported on it; choose "
                f"by dev columns (one of: {', '.join(known) or 'none in this sweep'})"
            )
        near = nearest(self.chosen_by, known)
        raise ValueError(f"cannot choose by {self.chosen_by!r}{near} (one of: {', '.join(known)})")
