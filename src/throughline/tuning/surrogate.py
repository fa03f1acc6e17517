"""What points that nobody has measured may be worth: a Gaussian process with length scales that are given.

A search has some tens of noisy probes, too few to learn from them how alike neighbours are, and settings come on grids
whose steps are chosen to matter. So two steps of an ordered setting are one length scale, and another category is two
thirds of one away: docs/log.md has what that finds beside scales that are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughline.tuning.probe import Settings
from throughline.tuning.space import Dimension, SpaceSpec, encode

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Steps of an ordered setting for one length scale.
_STEPS = 2.0
# Distance between two categories: a correlation of 0.8.
_APART = 0.67
# Standard deviations of the prediction that are hoped for (GP-UCB, Srinivas et al. 2010).
_HOPE = 0.6
# Variance of a probe's noise, of the spread of all values.
_NOISE = 0.05


class Surrogate:
    """Ranks points of a space by an upper confidence bound of their utility.

    Args:
        space: Whose points they are.
    """

    def __init__(self, space: SpaceSpec) -> None:
        self._space = space
        self._places = {each.key: [encode(value) for value in each.values] for each in space.dimensions}

    def promise(
        self, known: Sequence[Settings], utilities: Sequence[float], points: Sequence[Settings]
    ) -> npt.NDArray[np.float64]:
        """Returns for each point what it is worth at its best, in standard deviations of the known utilities.

        Args:
            known: At least one measured point.
            utilities: What each is worth; more is better.
            points: Points to rank.
        """
        import numpy as np
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF

        values = np.asarray(utilities, dtype=np.float64)
        values = (values - values.mean()) / (values.std() or 1.0)
        model = GaussianProcessRegressor(RBF(1.0), alpha=_NOISE, optimizer=None)
        model.fit([self._coordinates(each) for each in known], values)
        mean, deviation = model.predict([self._coordinates(each) for each in points], return_std=True)
        found: npt.NDArray[np.float64] = mean + _HOPE * deviation
        return found

    def _coordinates(self, settings: Settings) -> list[float]:
        """A point in units of the length scale; a setting that means nothing beside the others is a category too."""
        found: list[float] = []
        for each in self._space.dimensions:
            place = self._places[each.key].index(encode(settings[each.key])) if each.key in settings else None
            found += _axis(each, place)
        return found


def _axis(dimension: Dimension, place: int | None) -> list[float]:
    if dimension.kind == "ordered":
        absent = 0.0 if place is not None else _APART
        return [(place if place is not None else (len(dimension.values) - 1) / 2) / _STEPS, absent]
    # Any two of them are equally far.
    return [_APART / 2**0.5 * (index == place) for index in range(len(dimension.values))]
