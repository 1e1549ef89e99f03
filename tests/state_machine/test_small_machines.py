"""The machines beside the workflow: a release by hand, and predictions in the background."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonata  # type: ignore[import-untyped]
import pytest

from droptune.packaging import DEFINITIONS
from tests.state_machine.definition import CONFIG, STATES, evaluate
from tests.state_machine.test_definition import expressions

MACHINES = {name: file for name, file in DEFINITIONS.items() if name != "StateMachine"}
RELEASE: dict[str, Any] = json.loads(DEFINITIONS["ReleasesMachine"].read_text())["States"]
PREDICTIONS: dict[str, Any] = json.loads(DEFINITIONS["PredictionsMachine"].read_text())["States"]
# What a release by hand does otherwise: it may find its model made, and a person is told by the release itself.
OF_ITS_OWN = {"Next", "Catch", "Comment", "Assign", "Choices"}


@pytest.mark.parametrize("file", MACHINES.values(), ids=list(MACHINES))
def test_statelint_finds_nothing(file: Path) -> None:
    # GIVEN a state machine WHEN Amazon's linter reads it THEN it has nothing to say
    command = [sys.executable, "-m", "statelint", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", MACHINES.values(), ids=list(MACHINES))
def test_every_expression_parses_and_every_next_state_is_there(file: Path) -> None:
    definition = json.loads(file.read_text())
    assert definition["QueryLanguage"] == "JSONata"
    for expression in expressions(definition):
        jsonata.Jsonata.jsonata(expression)
    wanted = {match for state in definition["States"].values() for match in nexts(state)}
    assert wanted <= set(definition["States"])
    assert wanted | {definition["StartAt"]} == set(definition["States"])


def nexts(state: dict[str, Any]) -> set[str]:
    """The states that may come after one."""
    branches = [state, *state.get("Choices", []), *state.get("Catch", [])]
    return {str(branch[key]) for branch in branches for key in ("Next", "Default") if key in branch}


@pytest.mark.parametrize("name", sorted(set(RELEASE) & set(STATES) - {"Begin", "Succeeded", "Failed"}))
def test_a_release_by_hand_takes_the_steps_of_a_run(name: str) -> None:
    # GIVEN a state of both machines
    ours, theirs = (
        {key: value for key, value in states[name].items() if key not in OF_ITS_OWN} for states in (RELEASE, STATES)
    )
    if name == "CreateModel":
        # The image that the model was registered with, which a later stack may have changed.
        theirs["Arguments"] = theirs["Arguments"] | {
            "PrimaryContainer": theirs["Arguments"]["PrimaryContainer"] | {"Image": "{% $model.image %}"}
        }
    # THEN it asks for the same, as patiently
    assert ours == theirs
    conditions = [[choice["Condition"] for choice in states[name].get("Choices", [])] for states in (RELEASE, STATES)]
    assert conditions[0] == conditions[1]


def test_what_fails_a_release_leads_back() -> None:
    # GIVEN the states from the update of the endpoint on
    for name in ("Verify", "Approve"):
        # WHEN one fails THEN the model before serves again
        assert [catch["Next"] for catch in RELEASE[name]["Catch"]] == ["ChooseRestore"]
    assert "updateEndpoint" in RELEASE["Restore"]["Resource"]
    assert RELEASE["Restore"]["Next"] == "Failed"


def test_every_batch_is_labelled_once() -> None:
    # GIVEN what was listed WHEN the map is made THEN it has a number for each batch
    for batches in (1, 2, 2000):
        assert evaluate(PREDICTIONS["LabelBatches"]["Items"], batches=batches) == list(range(batches))
    step = PREDICTIONS["LabelBatches"]["ItemProcessor"]["States"]["LabelBatch"]
    payload = evaluate(step["Arguments"], {"input": 7}, prediction={"id": "p"}, config=CONFIG)["Payload"]
    assert payload == {"step": "label", "prediction": {"id": "p"}, "batch": 7}


@pytest.mark.parametrize(
    ("outcome", "failure", "told"),
    [
        ({"images": 2, "failed": 0}, {}, {"images": 2, "failed": 0}),
        ({}, {"Error": "ModelUnavailable", "Cause": "c"}, {"error": "ModelUnavailable", "cause": "c"}),
        ({}, {"Error": "States.Timeout"}, {"error": "States.Timeout", "cause": ""}),
    ],
    ids=["well", "badly", "without a cause"],
)
def test_the_mail_tells_how_it_ended(outcome: Any, failure: Any, told: Any) -> None:
    payload = evaluate(
        PREDICTIONS["WriteMail"]["Arguments"], prediction={"id": "p"}, outcome=outcome, failure=failure, config=CONFIG
    )["Payload"]
    assert payload["outcome"] == told
