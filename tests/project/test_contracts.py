"""docs/reference/contracts.md against the code on both sides of each border."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import hyper_parameters
import pytest
from chalicelib import config, failures, finishing, names, run_lock, runs
from chalicelib.errors import DroptuneError, RequestError

from tests.project.pages import REFERENCE, ROOT, first_words, json_fences, section, tables, text, words
from tests.project.test_docs import ROUTES, http_error_codes

PAGE = text(REFERENCE / "contracts.md")
RESOURCES: dict[str, Any] = json.loads(text(ROOT / "state_machine" / "resources.json"))
CODE = re.compile(r"[A-Z]\w+")


class Recorder:
    """A DynamoDB table, or a Step Functions client, that remembers what it is given."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.updated: set[str] = set()
        self.inputs: list[dict[str, Any]] = []

    def get_item(self, **_: Any) -> dict[str, Any]:
        return {}

    def put_item(self, **request: Any) -> None:
        self.items.append(request["Item"])

    def update_item(self, **request: Any) -> None:
        self.updated |= set(request.get("ExpressionAttributeNames", {}).values())

    def start_execution(self, **request: Any) -> None:
        self.inputs.append(json.loads(request["input"]))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The Lambda code in the environment that the template makes, on tables that only remember."""
    variables = RESOURCES["Globals"]["Function"]["Environment"]["Variables"]
    rendered = re.sub(r"\${\w+(?:Seconds|Jobs|Count)}", "1", variables["DROPTUNE_CONFIG"]["Fn::Sub"])
    monkeypatch.setenv("DROPTUNE_CONFIG", rendered)
    monkeypatch.setenv("STATE_MACHINE_ARN", "arn:aws:states:us-east-1:000000000000:stateMachine:droptune-retrain")
    recorded = Recorder()
    for name in ("datasets_table", "runs_table"):
        monkeypatch.setattr(config, name, lambda: recorded)
    monkeypatch.setattr(config, "client", lambda _: recorded)
    return recorded


def keys(document: Any, prefix: str = "") -> set[str]:
    """The names of all members of nested objects, as `config.mail.from`."""
    if not isinstance(document, dict):
        return set()
    return {prefix + key for key in document} | {
        path for key, value in document.items() for path in keys(value, f"{prefix}{key}.")
    }


def execution_input() -> dict[str, Any]:
    document: dict[str, Any]
    (document,) = json_fences(section(PAGE, "Execution input of the state machine"))
    return document


class TestTheExecutionInput:
    def test_it_is_what_the_lambda_code_sends(self, recorder: Recorder) -> None:
        # GIVEN the template's environment
        # WHEN a run is started
        run_lock.start_execution("pets", "pets-1", "2026-11-22T15:00:00Z")
        # THEN the input has the page's members, the configuration's included
        (sent,) = recorder.inputs
        assert keys(execution_input()) == keys(sent)

    def test_the_state_machine_asks_for_nothing_else(self) -> None:
        # GIVEN the state machine's references to its configuration
        definition = text(ROOT / "state_machine" / "retrain.asl.json")
        references = set(re.findall(r"\$config((?:\.\w+)+)", definition))
        # WHEN compared with the page THEN each is there
        assert references
        assert {f"config{reference}" for reference in references} <= keys(execution_input())


class TestTheStack:
    def test_parameters_and_their_defaults(self) -> None:
        # GIVEN the template's parameters WHEN the table is read THEN it holds these and no others
        parameters, _ = tables(section(PAGE, "Stack parameters and outputs"))
        told = {words(row[0])[0]: row[1].strip("`") for row in parameters}
        assert told == {
            name: str(parameter.get("Default", "")) or ("empty" if "Default" in parameter else "")
            for name, parameter in RESOURCES["Parameters"].items()
        }

    def test_outputs(self) -> None:
        # GIVEN the template's outputs WHEN the table is read THEN it holds these and no others
        _, outputs = tables(section(PAGE, "Stack parameters and outputs"))
        assert sorted(first_words(outputs)) == sorted(RESOURCES["Outputs"])


def told_attributes(table: str) -> list[str]:
    """The code spans of a table's line, behind its name."""
    (line,) = [line for line in section(PAGE, "DynamoDB").splitlines() if line.startswith(f"`<stack>-{table}`")]
    return words(line)[1:]


class TestDynamoDB:
    @pytest.mark.parametrize("name", ["datasets", "runs", "idempotency"])
    def test_keys_and_indexes(self, name: str) -> None:
        # GIVEN a table of the template
        (properties,) = [
            resource["Properties"]
            for resource in RESOURCES["Resources"].values()
            if resource.get("Properties", {}).get("TableName") == {"Fn::Sub": f"${{AWS::StackName}}-{name}"}
        ]
        told = told_attributes(name)
        # WHEN its line is read THEN the key comes first, and the index and the TTL are told
        assert [key["AttributeName"] for key in properties["KeySchema"]] == told[:1]
        for index in properties.get("GlobalSecondaryIndexes", []):
            assert {index["IndexName"], *(key["AttributeName"] for key in index["KeySchema"])} <= set(told)
        if "TimeToLiveSpecification" in properties:
            assert properties["TimeToLiveSpecification"]["AttributeName"] in told

    def test_attributes_of_datasets(self) -> None:
        # GIVEN every update of the table in the Lambda code
        written = {"dataset"}
        for expression in update_expressions("datasets_table"):
            written |= set(re.findall(r"(?:\b(?:SET|REMOVE|ADD) |, )#?([a-z_]+)", expression))
        # WHEN its line is read THEN it tells these attributes and no others
        assert set(told_attributes("datasets")) == written

    def test_attributes_of_runs(self, recorder: Recorder) -> None:
        # GIVEN a run that is started, and finished with all there is to tell
        run_lock.start_execution("pets", "pets-1", "2026-11-22T15:00:00Z")
        finishing.finish(
            {"run": "pets-1", "dataset": "pets", "status": "FAILED", "accuracy": 0.5}
            | dict.fromkeys(("verdict", "dataset_version", "model_version", "report_key", "error"), "x")
        )
        # WHEN its line is read
        told = set(told_attributes("runs"))
        # THEN it tells what was written and no others (`by-start` and `run` are no attributes; the last are of `error`)
        assert {word for word in told if re.fullmatch(r"[a-z_]+", word)} - {"run"} == (
            set(recorder.items[0]) | recorder.updated
        )
        assert set(runs.FIELDS) <= told


def update_expressions(table: str) -> Iterator[str]:
    """The text of every UpdateExpression that the Lambda code gives to a table, by itself or in a transaction."""
    for file in sorted((ROOT / "chalice_app" / "chalicelib").glob("*.py")):
        for node in ast.walk(ast.parse(text(file))):
            given: dict[str | None, ast.expr] = {}
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"config.{table}().update_item":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
            elif isinstance(node, ast.Dict) and any(
                ast.unparse(value) == f"config.{table}().name" for value in node.values
            ):
                given = {
                    str(ast.literal_eval(key)): value for key, value in zip(node.keys, node.values, strict=True) if key
                }
            if given:
                expression = given["UpdateExpression"]
                constants = [part.value for part in ast.walk(expression) if isinstance(part, ast.Constant)]
                assert constants, ast.unparse(node)
                yield from map(str, constants)


class TestTheContainers:
    def test_hyper_parameters_and_their_defaults(self) -> None:
        # GIVEN the parser's table WHEN the page's is read THEN names and defaults are the same
        (table,) = tables(section(PAGE, "Hyper-parameters of `train.py`"))
        told = {words(row[0])[0]: row[2].strip("`") for row in table}
        assert told == {
            name: str(default).lower() for name, default in asdict(hyper_parameters.HyperParameters()).items()
        }

    def test_error_codes_of_the_data(self) -> None:
        # GIVEN the codes of every JobError in the training code
        raised: set[str] = set()
        for file in (ROOT / "training_code").glob("*.py"):
            for node in ast.walk(ast.parse(text(file))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("JobError") and node.args:
                    raised |= {
                        str(part.value)
                        for part in ast.walk(node.args[0])
                        if isinstance(part, ast.Constant) and CODE.fullmatch(str(part.value))
                    }
        # WHEN the list is read
        told = {word for word in words(section(PAGE, "Error codes of the data")) if CODE.fullmatch(word)}
        # THEN it holds these and no others
        assert told == raised

    def test_error_codes_of_the_workflow(self) -> None:
        # GIVEN the codes that the workflow's functions find
        found = {code for _, code, _ in failures.KNOWN_CAUSES} | {
            failures.explain("States.Timeout", "", "Tune", "pets-1")["code"]
        }
        found |= {error.__name__ for error in DroptuneError.__subclasses__() if error is not RequestError}
        data = {word for word in words(section(PAGE, "Error codes of the data")) if CODE.fullmatch(word)}
        # WHEN the list is read THEN it holds these and no others, but for those of the data
        told = {word for word in words(section(PAGE, "Error codes of the workflow")) if CODE.fullmatch(word)}
        assert told == found - data

    @pytest.mark.parametrize(
        ("job", "files"),
        [
            ("Decode", ["decode.py", "features.py", "weights.py"]),
            ("Prepare", ["prepare.py"]),
            ("Evaluate", ["evaluate.py"]),
        ],
    )
    def test_variables_of_processing_jobs(self, job: str, files: list[str]) -> None:
        # GIVEN the variables that an entry point reads, and its own modules that read some
        source = "".join(text(ROOT / "training_code" / file) for file in files)
        read = set(re.findall(r"(?:environment_\w+|os\.environ\.get)\(\"([A-Z_]+)\"", source))
        # WHEN its sentence is read
        sentence = re.search(
            rf"{job} reads (.*?)(?: Prepare reads| Evaluate reads|\n)", section(PAGE, "Container contract")
        )
        assert sentence
        # THEN it names these and no others
        assert {word for word in words(sentence[1]) if re.fullmatch(r"[A-Z_]+", word)} == read


class TestTheApi:
    def test_routes(self) -> None:
        # GIVEN the application's routes WHEN the table is read THEN they are the same
        (table,) = tables(section(PAGE, "HTTP API"))
        assert {word.partition("?")[0] for word in first_words(table)} == ROUTES

    def test_error_codes(self) -> None:
        # GIVEN the application's codes WHEN the list is read THEN it holds these with their statuses
        told = re.findall(r"`(\w+)` (\d{3})", section(PAGE, "HTTP API"))
        assert {code: int(status) for code, status in told} == http_error_codes()

    def test_a_run(self) -> None:
        # GIVEN the members of a run WHEN the sentence is read THEN it names these
        sentence = re.search(r"^A run: `{(.*)}`", section(PAGE, "HTTP API"), re.MULTILINE)
        assert sentence
        assert tuple(re.findall(r"\"(\w+)\"", sentence[1])) == runs.FIELDS


def test_dataset_names() -> None:
    # GIVEN the form of a dataset's name WHEN the table is read THEN it is the code's
    assert f"`^{names.DATASET.pattern}$`" in section(PAGE, "Names")
