"""SageMaker's tuning strategies and parameter ranges in Optuna's terms."""

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from droptune.local_cloud.sagemaker.errors import ValidationException

Range = dict[str, Any]

# A Parzen estimator needs some trials to learn from: Optuna's default of 10 random ones would leave
# nothing to be modelled in a tuning job of 8.
_MAX_STARTUP_TRIALS = 10
_STARTUP_SHARE = 3
# With ScalingType Auto the choice is ours; from two orders of magnitude on, a logarithmic scale.
_AUTO_LOGARITHMIC_RATIO = 100
# The median rule compares with earlier trials at the same epoch; it needs a few of them, and the very
# first epoch says little.
_MEDIAN_STARTUP_TRIALS = 3
_MEDIAN_WARMUP_EPOCHS = 1


class SearchSpace:
    """The `ParameterRanges` of a tuning job.

    A ReverseLogarithmic range is searched as the logarithm of 1 - x.
    """

    def __init__(self, ranges: Range) -> None:
        """
        Raises:
            ValidationException: a range is empty, is no number, or does not suit its scaling type.
        """
        self._distributions: dict[str, BaseDistribution] = {}
        self._to_text: dict[str, Callable[[Any], str]] = {}
        self._from_text: dict[str, Callable[[str], Any]] = {}
        for entry in ranges.get("ContinuousParameterRanges", []):
            self._add_continuous(entry)
        for entry in ranges.get("IntegerParameterRanges", []):
            low, high, logarithmic = _bounds(entry, int)
            distribution = IntDistribution(low, high, log=logarithmic)
            self._add(entry["Name"], distribution, str, int)
        for entry in ranges.get("CategoricalParameterRanges", []):
            self._add(entry["Name"], CategoricalDistribution(entry["Values"]), str, str)
        if ranges.get("AutoParameters"):
            raise ValidationException("AutoParameters are not supported by the local SageMaker. Give ranges.")
        if not self._distributions:
            raise ValidationException("A tuning job needs at least one range to search.")

    @property
    def names(self) -> list[str]:
        return list(self._distributions)

    @property
    def grid(self) -> dict[str, list[str]]:
        """The values of each parameter, in a space of categorical parameters."""
        return {
            name: [str(choice) for choice in distribution.choices]
            for name, distribution in self._distributions.items()
            if isinstance(distribution, CategoricalDistribution)
        }

    @property
    def is_categorical(self) -> bool:
        return len(self.grid) == len(self._distributions)

    def suggest(self, trial: optuna.Trial) -> dict[str, str]:
        """The trial's hyper-parameters, as the strings that a training job receives."""
        values: dict[str, str] = {}
        for name, distribution in self._distributions.items():
            values[name] = self._to_text[name](_suggest(trial, name, distribution))
        return values

    def finished_trial(self, values: dict[str, str], objective: float) -> optuna.trial.FrozenTrial | None:
        """An earlier trial's strings and result for this study; None if they lie outside this space."""
        parameters = {}
        for name, distribution in self._distributions.items():
            if name not in values:
                return None
            try:
                parameters[name] = self._from_text[name](values[name])
            except ValueError:
                return None
            if not _contains(distribution, parameters[name]):
                return None
        return optuna.create_trial(params=parameters, distributions=self._distributions, value=objective)

    def _add_continuous(self, entry: Range) -> None:
        low, high, logarithmic = _bounds(entry, float)
        if entry.get("ScalingType") == "ReverseLogarithmic":
            distribution = FloatDistribution(1 - high, 1 - low, log=True)
            self._add(entry["Name"], distribution, lambda value: repr(1 - value), lambda text: 1 - float(text))
        else:
            self._add(entry["Name"], FloatDistribution(low, high, log=logarithmic), repr, float)

    def _add(
        self,
        name: str,
        distribution: BaseDistribution,
        to_text: Callable[[Any], str],
        from_text: Callable[[str], Any],
    ) -> None:
        if name in self._distributions:
            raise ValidationException(f"The hyperparameter {name} has more than one range.")
        self._distributions[name] = distribution
        self._to_text[name] = to_text
        self._from_text[name] = from_text


def _bounds(entry: Range, number: Callable[[str], Any]) -> tuple[Any, Any, bool]:
    """Lower and upper bound, and whether the scale is logarithmic."""
    name = entry["Name"]
    try:
        low, high = number(entry["MinValue"]), number(entry["MaxValue"])
    except ValueError as error:
        raise ValidationException(f"The range of hyperparameter {name} is invalid: {error}") from error
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValidationException(
            f"The range of hyperparameter {name} is invalid: MinValue {entry['MinValue']} has to be at most "
            f"MaxValue {entry['MaxValue']}, and both finite."
        )
    scaling = entry.get("ScalingType", "Auto")
    if scaling == "Logarithmic" and low <= 0:
        raise ValidationException(
            f"The range of hyperparameter {name} is invalid: logarithmic scaling needs values greater than 0."
        )
    if scaling == "ReverseLogarithmic" and (number is int or low < 0 or high >= 1):
        raise ValidationException(
            f"The range of hyperparameter {name} is invalid: reverse logarithmic scaling needs continuous "
            "values x with 0 <= x < 1."
        )
    auto = scaling == "Auto" and low > 0 and high / low >= _AUTO_LOGARITHMIC_RATIO
    return low, high, scaling == "Logarithmic" or auto


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return bool(distribution.low <= value <= distribution.high)


def sampler(strategy: str, space: SearchSpace, max_jobs: int, seed: int | None) -> optuna.samplers.BaseSampler:
    """Bayesian and Hyperband: a tree-structured Parzen estimator (running trials count as bad ones, so
    that parallel trials differ); Random: uniform in the scaled range; Grid: every combination once."""
    if strategy == "Random":
        return optuna.samplers.RandomSampler(seed=seed)
    if strategy == "Grid":
        return optuna.samplers.GridSampler(space.grid, seed=seed)
    startup = min(_MAX_STARTUP_TRIALS, max(2, max_jobs // _STARTUP_SHARE))
    return optuna.samplers.TPESampler(n_startup_trials=startup, constant_liar=True, seed=seed)


def pruner(config: dict[str, Any]) -> optuna.pruners.BasePruner:
    """Hyperband's own; the median rule for `TrainingJobEarlyStoppingType: Auto`; else none.

    Resources are counted in values of the objective metric, that is epochs.
    """
    if config["Strategy"] == "Hyperband":
        limits = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig", {})
        return optuna.pruners.HyperbandPruner(
            min_resource=limits.get("MinResource", 1), max_resource=limits.get("MaxResource", "auto")
        )
    if config.get("TrainingJobEarlyStoppingType", "Off") == "Auto":
        return optuna.pruners.MedianPruner(_MEDIAN_STARTUP_TRIALS, _MEDIAN_WARMUP_EPOCHS)
    return optuna.pruners.NopPruner()
