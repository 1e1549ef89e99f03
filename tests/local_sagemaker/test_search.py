"""Ranges and strategies in Optuna's terms, and metrics in a log."""

import optuna
import pytest

from droptune.local_cloud.sagemaker.job_logs import LineReader, MetricReader
from droptune.local_cloud.sagemaker.search import SearchSpace, pruner, sampler

RANGES = {
    "ContinuousParameterRanges": [
        {"Name": "rate", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Auto"},
        {"Name": "momentum", "MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"},
    ],
    "IntegerParameterRanges": [{"Name": "layers", "MinValue": "1", "MaxValue": "4"}],
    "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["sgd", "adam"]}],
}


def test_an_earlier_trial_comes_back_as_it_was():
    # GIVEN a study and the strings of one of its trials
    space = SearchSpace(RANGES)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    values = space.suggest(study.ask())
    # WHEN it is added to another study
    trial = space.finished_trial(values, 0.5)
    # THEN its parameters are the ones that were drawn
    assert trial is not None
    assert trial.value == 0.5
    assert trial.params["optimizer"] == values["optimizer"]
    assert 1 - trial.params["momentum"] == pytest.approx(float(values["momentum"]), rel=1e-12)


@pytest.mark.parametrize(
    "change", [{"layers": "5"}, {"layers": "many"}, {"optimizer": "lion"}, {"rate": "1"}, {"momentum": "0.1"}]
)
def test_a_trial_outside_the_ranges_is_left_out(change):
    # GIVEN an earlier trial that this space could not have drawn
    values = {"rate": "0.01", "momentum": "0.9", "layers": "2", "optimizer": "sgd"}
    space = SearchSpace(RANGES)
    assert space.finished_trial(values, 0.5) is not None
    # WHEN it is offered
    # THEN it is refused
    assert space.finished_trial(values | change, 0.5) is None
    assert space.finished_trial({}, 0.5) is None


def test_scales_follow_the_scaling_type():
    # GIVEN many values of a logarithmic and of a reverse logarithmic range
    space = SearchSpace(RANGES)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [space.suggest(study.ask()) for _ in range(200)]
    # WHEN they are counted by order of magnitude
    small = sum(float(values["rate"]) < 0.001 for values in drawn)
    close_to_one = sum(float(values["momentum"]) > 0.99 for values in drawn)
    # THEN each order has about its share: one of three, and one of 2.7
    assert 40 < small < 95
    assert 45 < close_to_one < 105


def test_a_seed_makes_a_search_repeatable():
    # GIVEN two studies with the same seed and one with another
    def draw(seed):
        space = SearchSpace(RANGES)
        study = optuna.create_study(sampler=sampler("Bayesian", space, 8, seed))
        return [space.suggest(study.ask()) for _ in range(4)]

    # WHEN each draws four trials
    # THEN the first two agree
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"Strategy": "Hyperband"}, optuna.pruners.HyperbandPruner),
        ({"Strategy": "Random", "TrainingJobEarlyStoppingType": "Auto"}, optuna.pruners.MedianPruner),
        ({"Strategy": "Bayesian"}, optuna.pruners.NopPruner),
    ],
)
def test_pruners(config, kind):
    # GIVEN a tuning job's configuration
    # WHEN its pruner is chosen
    # THEN it is Optuna's of that kind
    assert type(pruner(config)) is kind


def test_lines_are_read_once_and_whole(tmp_path):
    # GIVEN a log that does not exist yet
    log = tmp_path / "log"
    reader = LineReader(log)
    assert reader.read() == []
    # WHEN it grows in the middle of lines
    with log.open("ab") as file:
        for part, expected in ((b"one\ntw", ["one"]), (b"o\r\n", ["two"]), (b"\xff!", [])):
            file.write(part)
            file.flush()
            # THEN each line comes once, when it is whole
            assert reader.read() == expected
    assert reader.read(final=True) == ["\N{REPLACEMENT CHARACTER}!"]
    assert reader.read(final=True) == []


def test_the_last_finite_value_of_a_metric_counts(tmp_path):
    # GIVEN a log with several values, of which some are not finite and one is no number
    log = tmp_path / "log"
    definitions = [
        {"Name": "accuracy", "Regex": "accuracy=([0-9.eE+-]+|nan|inf);"},
        {"Name": "loss", "Regex": "loss=([0-9.eE+-]+|nan|inf);"},
    ]
    reader = MetricReader(definitions, log)
    log.write_text("loss=2; accuracy=0.5;\nloss=--; accuracy=1e-1;\nloss=nan;\n")
    # WHEN it is read
    found = reader.read(final=True)
    # THEN values come in order, and a metric that ended in nan has no final value
    assert [entry for entry in found if entry[1] == entry[1]] == [
        ("accuracy", 0.5),
        ("loss", 2.0),
        ("accuracy", 0.1),
    ]
    assert {name: value for name, (value, _) in reader.final.items()} == {"accuracy": 0.1}
