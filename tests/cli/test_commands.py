"""The command line itself: help, exit codes, the one shape of errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from droptune.cli import main
from droptune.client import Cloud, translated
from droptune.errors import ApiError, DroptuneError, NotRunning

COMMANDS = ["up", "down", "status", "env", "drop", "watch", "runs", "predict", "mail", "report"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DROPTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("pets/cat/1.jpg", "pets/dog/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    return tmp_path / "pets"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    # WHEN help is asked for
    code = main(["--help"])

    # THEN each command is there, and where to start
    text = capsys.readouterr().out
    assert code == 0
    assert all(f" {command} " in text for command in COMMANDS)
    assert "Start here" in text
    assert "Exit codes" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_global_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([command, "--help"])
    text = capsys.readouterr().out
    assert code == 0
    assert f"Usage: droptune {command}" in text
    assert "--json" in text
    assert "--state-dir" in text
    assert max(map(len, text.splitlines())) <= 80


def test_help_does_not_wait_for_aws_clients() -> None:
    # WHEN help is printed in a fresh interpreter
    code = "import sys; from droptune.cli import main; main(['--help']); print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    # THEN none of the heavy packages was imported
    modules = result.stdout.splitlines()[-1]
    for heavy in ("'boto3'", "'botocore'", "'httpx'", "'torch'", "'sagemaker'", "'PIL'"):
        assert heavy not in modules


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nonsense"], "UsageError"),
        (["drop"], "UsageError"),
        (["up", "--port", "x"], "UsageError"),
        (["up", "--port", "70000"], "UsageError"),
        (["runs", "--limit", "0"], "UsageError"),
        (["predict"], "UsageError"),
        (["drop", "/no/such/path"], "NoSuchPath"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_wrong_arguments_exit_with_2(arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    # WHEN the arguments cannot be used
    plain = main(arguments)
    human = capsys.readouterr()
    as_json = main([*arguments, "--json"])
    machine = capsys.readouterr()

    # THEN both forms say what is wrong and what to do
    assert plain == as_json == 2
    assert human.out == ""
    assert human.err.startswith("error: ")
    assert "next step: " in human.err
    document = json.loads(machine.out)["error"]
    assert document["code"] == code
    assert document["message"]
    assert document["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["env"],
        ["runs"],
        ["watch"],
        ["watch", "pets-1"],
        ["predict", "x.jpg"],
        ["report", "pets-1"],
        ["data"],
        ["settings", "pets"],
        ["drop"],
    ],
    ids=" ".join,
)
def test_commands_exit_with_3_while_nothing_runs(
    arguments: list[str], photos: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN a home in which nothing was ever started
    if arguments == ["drop"]:
        arguments = ["drop", str(photos)]

    # WHEN a command needs the system
    code = main([*arguments, "--json"])

    # THEN it says so, and how to start it, and leaves the home alone
    document = json.loads(capsys.readouterr().out)["error"]
    assert code == 3
    assert document["code"] == "NotRunning"
    assert "droptune up" in document["hint"]
    assert not home.exists()


def test_status_of_nothing_exits_with_3(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 3
    assert "not running" in capsys.readouterr().out
    assert main(["status", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["running"] is False
    assert document["home"] == str(home)


def test_down_of_nothing_is_harmless(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"running": False, "home": str(home)}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_global_options_work_before_and_after_the_command(
    before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN options that name another home
    options = ["--json", "--state-dir", str(tmp_path / "other")]

    # WHEN they stand before or after the command
    code = main([*options, "status"] if before else ["status", *options])

    # THEN they count, and more than the environment variable
    assert code == 3
    assert json.loads(capsys.readouterr().out)["home"] == str(tmp_path / "other")


def test_mail_works_while_nothing_runs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # GIVEN one mail in the mailbox
    path = home / "mail" / "new" / "1.a"
    path.parent.mkdir(parents=True)
    path.write_text("Subject: [pets] promoted\nFrom: a@example.com\nTo: b@example.com\n\n0.87 [of] 55\n")
    os.utime(path, (1, 1))

    # WHEN mails are listed and read
    assert main(["mail", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert main(["mail", "--last"]) == 0
    text = capsys.readouterr().out
    assert main(["mail"]) == 0
    table = capsys.readouterr().out
    missing = main(["mail", "2", "--json"])

    # THEN they are there, word for word
    assert listed == {
        "subject": "[pets] promoted",
        "from": "a@example.com",
        "to": ["b@example.com"],
        "date": "1970-01-01T00:00:01+00:00",
        "text": "0.87 [of] 55\n",
        "html_length": 0,
        "path": str(path),
    }
    assert "Subject: [pets] promoted" in text
    assert "0.87 [of] 55" in text
    assert "[pets] promoted" in table
    assert missing == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "UnknownMail"


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("droptune.commands.system.status", interrupt)
    assert main(["status"]) == 130


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("droptune.commands.system.status", fail)
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_a_closed_pipe_ends_without_a_traceback(tmp_path: Path) -> None:
    # GIVEN a reader that is gone before the first line
    read, write = os.pipe()
    os.close(read)

    # WHEN a command prints into it
    command = [sys.executable, "-m", "droptune.cli", "status", "--json", "--state-dir", str(tmp_path)]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)

    # THEN it ends quietly
    assert (result.stderr, result.returncode) == ("", 1)


def test_errors_of_aws_clients_become_ours(ministack: str, environment_of: Callable[..., dict[str, str]]) -> None:
    # GIVEN a client for a bucket that is not there, and one for a port that nobody listens on
    cloud = Cloud(environment_of(ministack, ministack))
    nobody = Cloud(environment_of("http://127.0.0.1:9", "http://127.0.0.1:9"))

    # WHEN they fail
    def failure(call: object) -> DroptuneError | None:
        assert callable(call)
        with pytest.raises(Exception) as caught:  # noqa: PT011
            call()
        return translated(caught.value)

    missing = failure(lambda: cloud.s3.get_object(Bucket="absent", Key="x"))
    refused = failure(lambda: nobody.s3.list_buckets())

    # THEN each has a code, a cause and a next step
    assert missing is not None
    assert (missing.code, missing.exit_code) == ("NoSuchBucket", 1)
    assert isinstance(refused, NotRunning)
    assert translated(ValueError("x")) is None


def test_the_users_own_aws_configuration_takes_no_part(
    ministack: str,
    environment_of: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # GIVEN a shell with a profile that is not there, a proxy, and a configuration of other endpoints
    configuration = tmp_path / "config"
    configuration.write_text("[default]\nregion = eu-central-1\nendpoint_url = http://127.0.0.1:9\n")
    for name, value in {
        "AWS_PROFILE": "absent",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": str(configuration),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)

    # WHEN a command's client lists the buckets
    cloud = Cloud(environment_of(ministack, ministack))
    buckets = cloud.s3.list_buckets()["Buckets"]

    # THEN it asked the local cloud
    assert cloud.bucket in {bucket["Name"] for bucket in buckets}


def test_a_404_of_the_api_is_not_found() -> None:
    assert ApiError("x", hint="y", status=404).exit_code == 4
    assert ApiError("x", hint="y", status=503).exit_code == 1
