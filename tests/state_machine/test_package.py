"""The template and the zip: linted, the same every time, and complete."""

import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest

from droptune import packaging
from droptune.errors import OperationFailed
from droptune.packaging import Package, package
from tests.state_machine.definition import CONFIG, FILE, ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The package of this tree."""
    return package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def template(built: Package) -> dict[str, Any]:
    """Its template."""
    document: dict[str, Any] = json.loads(built.template.read_text())
    return document


def functions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The properties of every Lambda function."""
    return {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def test_cfn_lint_finds_nothing(built: Package) -> None:
    # GIVEN the template, with its SAM transform
    # WHEN Amazon's linter reads it
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--regions", "us-east-1", "--", str(built.template)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # THEN it has nothing to say
    assert (done.returncode, done.stdout) == (0, "")


def test_the_same_tree_makes_the_same_bytes(built: Package, tmp_path: Path) -> None:
    again = package(tmp_path)
    assert again.code.read_bytes() == built.code.read_bytes()
    assert again.template.read_bytes() == built.template.read_bytes()
    assert again.content_hash == built.content_hash


def test_an_unchanged_tree_is_not_packaged_twice(built: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a package that is there, and no Chalice
    def no_chalice(*_: Any) -> None:
        raise AssertionError("packaged again")

    monkeypatch.setattr(packaging, "_run_chalice", no_chalice)
    # WHEN it is asked for again
    # THEN it is given as it is
    assert package(built.template.parent) == built


def test_a_broken_application_is_refused_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN an application that Chalice cannot load
    app = tmp_path / "app"
    app.mkdir()
    shutil.copytree(packaging.APP / ".chalice", app / ".chalice", ignore=shutil.ignore_patterns("deployments"))
    (app / "app.py").write_text("import no_such_module\n")
    (app / "requirements.txt").write_text("")
    monkeypatch.setattr(packaging, "APP", app)
    monkeypatch.setattr(packaging, "ROOT", tmp_path)
    for name in ("RESOURCES", "__file__"):
        copy = tmp_path / Path(getattr(packaging, name)).name
        copy.write_text(Path(getattr(packaging, name)).read_text())
        monkeypatch.setattr(packaging, name, copy)
    for name, file in packaging.DEFINITIONS.items():
        shutil.copy(file, tmp_path)
        monkeypatch.setitem(packaging.DEFINITIONS, name, tmp_path / file.name)
    # WHEN it is packaged
    with pytest.raises(OperationFailed) as caught:
        package(tmp_path / "out")
    # THEN the error names the cause, and no half a package looks whole
    assert "no_such_module" in str(caught.value.why)
    assert not (tmp_path / "out" / "content-hash").exists()


def test_a_library_that_differs_from_its_pin_is_refused(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("jmespath==0.0.1\n")
    with pytest.raises(OperationFailed, match=r"jmespath .* is installed, but the Lambda code needs 0\.0\.1"):
        packaging._required_distributions(requirements)


def test_compiled_code_is_refused(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy\n".replace("numpy", f"numpy=={__import__('numpy').__version__}"))
    with pytest.raises(OperationFailed, match="compiled code"):
        packaging._required_distributions(requirements)


def test_the_zip_needs_nothing_but_boto3(built: Package, tmp_path: Path) -> None:
    # GIVEN the zip's content, and beside it only what the Lambda runtime brings
    code, runtime = tmp_path / "code", tmp_path / "runtime"
    with zipfile.ZipFile(built.code) as archive:
        archive.extractall(code)
    runtime.mkdir()
    site_packages = Path(boto3.__file__).parent.parent
    for name in ("boto3", "botocore", "s3transfer", "dateutil", "six.py", "urllib3"):
        (runtime / name).symlink_to(site_packages / name)
    program = textwrap.dedent(f"""
        import sys
        sys.path += [{str(code)!r}, {str(runtime)!r}]
        import app
        # These the function imports when a request needs them.
        import fastjsonschema, multipart
        foreign = [n for n, m in sys.modules.items() if (getattr(m, "__file__", None) or "").startswith({str(ROOT)!r})]
        assert not foreign, foreign
        print(*sorted(n for n in ("app", "settle", "on_upload", "write_mail", "finish") if callable(getattr(app, n))))
    """)
    # WHEN an isolated interpreter without site-packages imports the handlers
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # THEN they are all there
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["app", "finish", "on_upload", "settle", "write_mail"]


def test_the_zip_is_small_and_pure(built: Package) -> None:
    assert built.code.stat().st_size <= 15_000_000
    with zipfile.ZipFile(built.code) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.endswith((".so", ".dylib", ".pyd", ".pyc"))]
    assert not {"torch", "sagemaker", "boto3", "numpy"} & {name.split("/")[0] for name in names}


def test_the_state_machines_are_deployed_byte_for_byte(template: dict[str, Any]) -> None:
    assert packaging.DEFINITIONS["StateMachine"] == FILE
    assert set(packaging.DEFINITIONS.values()) == set(FILE.parent.glob("*.asl.json"))
    for name, file in packaging.DEFINITIONS.items():
        properties = template["Resources"][name]["Properties"]
        assert properties["DefinitionString"] == file.read_text()
        assert "DefinitionSubstitutions" not in properties


def test_every_function_has_a_role_and_a_log_of_its_own(template: dict[str, Any]) -> None:
    for name, properties in functions(template).items():
        assert properties["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
        assert template["Resources"][f"{name}Logs"]["Properties"]["LogGroupName"]["Fn::Sub"] == (
            f"/aws/lambda/{properties['FunctionName']['Fn::Sub']}"
        )
        assert properties["Timeout"] <= 900
    assert "replaced-by" not in json.dumps(template)


def test_no_role_allows_every_action(template: dict[str, Any]) -> None:
    roles = [r["Properties"] for r in template["Resources"].values() if r["Type"] == "AWS::IAM::Role"]
    assert len(roles) == len(functions(template)) + 4
    for role in roles:
        assert "ManagedPolicyArns" not in role
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                assert all("*" not in action for action in ([actions] if isinstance(actions, str) else actions))


def test_the_environment_holds_the_config_of_the_contract(template: dict[str, Any]) -> None:
    # GIVEN the functions' environment, its parameters filled with numbers where they are numbers
    text = template["Globals"]["Function"]["Environment"]["Variables"]["DROPTUNE_CONFIG"]["Fn::Sub"]
    for name, parameter in template["Parameters"].items():
        text = text.replace(f"${{{name}}}", str(parameter.get("Default", "x")))
    config = json.loads(text)
    # THEN it has the members of the contract; the API's address is added by the function
    assert {*config, "api_url"} == set(CONFIG)
    for member in ("roles", "functions", "instances", "tuning", "mail"):
        assert set(config[member]) == set(CONFIG[member])
    # AND each function that it names is deployed
    deployed = {properties["FunctionName"]["Fn::Sub"] for properties in functions(template).values()}
    assert {arn.rpartition(":function:")[2] for arn in config["functions"].values()} <= deployed


def test_parameters_and_outputs_are_those_of_the_contract(template: dict[str, Any]) -> None:
    contract = (ROOT / "docs" / "reference" / "contracts.md").read_text()
    section = contract.partition("## Stack parameters and outputs")[2]
    parameters, _, outputs = section.partition("Outputs:")
    assert all(f"`{name}`" in parameters for name in template["Parameters"])
    assert {name for name in template["Outputs"] if f"`{name}`" in outputs} == {
        word.strip("`.") for word in outputs.replace(",", " ").split() if word.startswith("`")
    }


def test_every_path_and_method_reaches_the_function(template: dict[str, Any]) -> None:
    paths = template["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]["paths"]
    assert {"/", "/{proxy+}", "/health", "/runs/{id}"} <= set(paths)
    for methods in paths.values():
        assert set(methods) == set(packaging.HTTP_METHODS)
