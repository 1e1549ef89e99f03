"""The documentation as a contract: its links, commands and tables say what the code says."""

import json
import os
import re
import runpy
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import app as chalice_application
import chalice.app
import psutil
import pytest
from chalicelib import dataset_settings, datasets, http_errors, prediction_requests, runs, storage, upload_links
from chalicelib.errors import RequestError
from typer.main import get_command

from droptune.cli import app, main
from droptune.cli_output import INTERRUPTED
from droptune.client import Cloud
from droptune.commands.runs import RUN_FIELDS
from droptune.errors import DroptuneError, NotRunning
from droptune.local_cloud.lifecycle import Service, Status
from droptune.local_cloud.sagemaker import __main__ as sagemaker_server
from droptune.local_cloud.sagemaker import errors as sagemaker_errors
from droptune.local_cloud.sagemaker import protocol
from droptune.local_cloud.sagemaker.images import load_images
from droptune.watching import RunView, State, Trial
from tests.project.pages import (
    PAGES,
    README,
    REFERENCE,
    ROOT,
    anchors,
    code,
    fences,
    first_words,
    headings,
    json_fences,
    links,
    named,
    section,
    tables,
    text,
    words,
)

COMMAND = text(REFERENCE / "command.md")
HTTP_API = text(REFERENCE / "http-api.md")
SAGEMAKER = text(REFERENCE / "local-sagemaker.md")
# typer's types of commands are private.
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
# `droptune [--option VALUE] word rest`, to the end of the shell command.
CALL = re.compile(r"(?<![\w.-])droptune(?:[ ]+--[a-z-]+[ ]+\S+)*[ ]+([a-z]+)\b([^\n|;)#,]*)")
AT = datetime(2026, 11, 22, tzinfo=UTC)


class TestEveryPage:
    @pytest.mark.parametrize("page", PAGES, ids=named)
    def test_links_lead_somewhere(self, page: Path) -> None:
        # GIVEN a page's relative links
        # WHEN each is followed
        broken = [
            target
            for target, file, fragment in links(page)
            if not file.exists() or (fragment and fragment not in anchors(text(file)))
        ]
        # THEN the file is there, and the heading too
        assert not broken

    def test_the_readme_leads_everywhere(self) -> None:
        # GIVEN the front page
        reached, waiting = set(), [README]
        # WHEN all links between pages are followed
        while waiting:
            page = waiting.pop()
            if page in reached or page not in PAGES:
                continue
            reached.add(page)
            waiting += [file for _, file, _ in links(page)]
        # THEN no page was missed
        assert set(PAGES) - reached == set()

    @pytest.mark.parametrize("page", PAGES, ids=named)
    def test_commands_exist_with_their_options(self, page: Path) -> None:
        # GIVEN everything that a page writes as code
        for word, rest in CALL.findall("\n".join(code(text(page)))):
            # WHEN it calls the command
            # THEN the command knows the word and its options
            assert word in COMMANDS, f"droptune {word}"
            known = {option for parameter in COMMANDS[word].params for option in parameter.opts}
            options = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest))
            assert options <= known | {"--help"}, f"droptune {word}{rest}"

    @pytest.mark.parametrize("page", PAGES, ids=named)
    def test_make_knows_its_verbs(self, page: Path) -> None:
        # GIVEN the Makefile's verbs
        verbs = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
        # WHEN a page names some
        named_verbs = set(re.findall(r"^make ([a-z]+)", "\n".join(code(text(page))), re.MULTILINE))
        # THEN they are among them
        assert named_verbs <= verbs

    @pytest.mark.parametrize("page", PAGES, ids=named)
    def test_json_examples_are_json(self, page: Path) -> None:
        # GIVEN a page WHEN its examples are parsed THEN each is a JSON document
        for example in fences(text(page), "json"):
            json.loads(example)


def paths(document: Any, prefix: str = "") -> set[str]:
    """The names of all members, as `states[].name`; members whose names are data are not entered."""
    if isinstance(document, list):
        return {path for item in document for path in paths(item, f"{prefix}[]")}
    if not isinstance(document, dict) or prefix.endswith(("classes", "hyper_parameters")):
        return set()
    return {f"{prefix}.{key}" for key in document} | {
        path for key, value in document.items() for path in paths(value, f"{prefix}.{key}")
    }


def json_form(title: str) -> Any:
    (example,) = json_fences(section(COMMAND, title))
    return example


class TestTheCommandPage:
    def test_the_generated_part_is_fresh(self) -> None:
        # GIVEN the page's generator
        rewritten = runpy.run_path(str(ROOT / "docs" / "generate_command_reference.py"))["rewritten"]
        # WHEN it writes the page anew
        # THEN nothing changes; if this fails: make docs
        assert rewritten(COMMAND) == COMMAND

    def test_every_exit_code_is_told(self) -> None:
        # GIVEN the exit codes of the errors
        classes: list[type[Any]] = [DroptuneError, *_subclasses(DroptuneError)]
        codes = {0, INTERRUPTED} | {known.exit_code for known in classes}
        # WHEN the table is read
        (table,) = tables(section(COMMAND, "Exit codes"))
        # THEN it holds these and no others
        assert {int(row[0]) for row in table} == codes

    def test_every_command_has_a_json_form(self) -> None:
        # GIVEN the headings of the JSON forms WHEN compared with the commands THEN they are the same
        told = [
            word.removesuffix(" --json") for title in headings(section(COMMAND, "JSON forms")) for word in words(title)
        ]
        assert sorted(told) == sorted(COMMANDS)

    def test_every_variable_that_is_read_is_told(self) -> None:
        # GIVEN the variables that the operator's side reads
        read: set[str] = set()
        for file in (ROOT / "droptune").rglob("*.py"):
            read |= set(re.findall(r"os\.environ(?:\.get\(|\[)\"([A-Z_]+)\"", text(file)))
        # WHEN the table is read
        (table,) = tables(section(COMMAND, "Environment variables"))
        # THEN it holds these and no others
        assert set(first_words(table)) == read

    def test_forms_of_the_system(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # GIVEN a home whose gateway "runs" (it is this process) WHEN it is described
        status = Status(True, "", [Service("gateway", 1, 2, True)], "", "", "", "")
        own = {"pid": os.getpid(), "started_at": psutil.Process().create_time(), "port": 1}
        settings = {"gateway_port": 1, "api_port": 2, "sagemaker_port": 3, "smtp_port": 4}
        for name, document in (
            ("settings", settings),
            ("deployment", {"outputs": {"Bucket": "b"}}),
            ("services", {"gateway": own}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
        environment = _printed(capsys, tmp_path, "env")
        down = _printed(capsys, tmp_path / "none", "down")
        # THEN the examples have the same members
        assert paths(json_form("`up --json`, `status --json`")) == paths(asdict(status))
        assert paths(json_form("`env --json`")) == paths(environment)
        assert paths(json_form("`down --json`")) == paths(down)

    def test_forms_of_runs(self) -> None:
        # GIVEN a run as the API shows it, with one stage and one trial WHEN the commands show it
        run: Any = dict.fromkeys(runs.FIELDS)
        trial = Trial("t-001-x", "Completed", {}, "m", 0.5, AT, AT)
        view = RunView(run, (State("Settle", "succeeded", AT, AT),), (trial,), True)
        # THEN the examples have the same members
        assert paths(json_form("`watch --json`")) == paths(view.document())
        assert paths(json_form("`runs --json`")) == paths([dict.fromkeys(RUN_FIELDS)])

    def test_forms_of_what_talks_to_the_cloud(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # GIVEN a cloud that takes everything
        head = {"ResponseMetadata": {"HTTPHeaders": {"date": "Sun, 22 Nov 2026 15:00:00 GMT"}}}
        s3 = SimpleNamespace(upload_file=lambda *_, **__: None, head_bucket=lambda **_: head)
        cloud = Cloud({"DROPTUNE_BUCKET": "b", "DROPTUNE_API_URL": "http://127.0.0.1:9"})
        cloud.__dict__["s3"] = SimpleNamespace(**vars(s3), close=lambda: None)
        answer = {"predictions": [{"label": "cat", "score": 1.0}], "model_version": 1}
        monkeypatch.setattr(cloud, "predict", lambda *_: answer)
        monkeypatch.setattr(cloud, "report", lambda _: b"<html>")
        monkeypatch.setattr(Cloud, "connect", lambda _: cloud)
        image = tmp_path / "pets" / "cat" / "1.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"an image")
        # WHEN the commands talk to it
        drop = _printed(capsys, tmp_path, "drop", str(tmp_path / "pets"))
        predict = _printed(
            capsys, tmp_path, "predict", str(image), str(tmp_path / "none.jpg"), "--dataset", "pets", code=1
        )
        report = _printed(capsys, tmp_path, "report", "pets-1")
        # THEN the examples have the same members
        assert paths(json_form("`drop --json`")) == paths(drop)
        assert paths(json_form("`predict --json`")) == paths(predict)
        assert paths(json_form("`report --json`")) == paths(report)

    def test_forms_of_datasets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # GIVEN an API that answers as its page says
        answers = {
            title: json_fences(section(HTTP_API, f"`GET /datasets{title}`"))[0]
            for title in ("", "/{name}", "/{name}/versions", "/{name}/versions/{v}")
        }
        cloud = Cloud({"DROPTUNE_BUCKET": "b", "DROPTUNE_API_URL": "http://127.0.0.1:9"})
        monkeypatch.setattr(cloud, "datasets", lambda: answers[""]["datasets"])
        monkeypatch.setattr(cloud, "dataset", lambda _: answers["/{name}"])
        monkeypatch.setattr(cloud, "versions", lambda *_: answers["/{name}/versions"]["versions"])
        monkeypatch.setattr(cloud, "version", lambda *_: answers["/{name}/versions/{v}"])
        monkeypatch.setattr(Cloud, "connect", lambda _: cloud)
        # WHEN the commands show it THEN the examples have the same members
        forms = [
            _printed(capsys, tmp_path, "data"),
            _printed(capsys, tmp_path, "data", "pets"),
            _printed(capsys, tmp_path, "data", "pets", "--version", "3"),
        ]
        examples = json_fences(section(COMMAND, "`data --json`"))
        assert [paths(example) for example in examples] == [paths(form) for form in forms]
        assert paths(json_form("`settings --json`")) == paths(_printed(capsys, tmp_path, "settings", "pets"))

    def test_forms_of_mails_and_errors(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # GIVEN a mailbox with one mail
        (tmp_path / "mail" / "new").mkdir(parents=True)
        (tmp_path / "mail" / "new" / "1.host").write_text("Subject: Hello\nFrom: a@b\nTo: c@d\n\nText\n")
        # WHEN it is listed
        mails = _printed(capsys, tmp_path, "mail")
        # THEN the examples have the same members
        assert paths(json_form("`mail --json`")) == paths(mails)
        assert json_form("Error")["error"]["hint"] == NotRunning().document()["error"]["hint"]
        assert paths(json_form("Error")) == paths(NotRunning().document())


def _printed(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str, code: int = 0) -> Any:
    assert main(["--json", "--state-dir", str(home), *arguments]) == code
    return json.loads(capsys.readouterr().out)


def _subclasses(parent: type[Any]) -> list[type[Any]]:
    return [known for child in parent.__subclasses__() for known in (child, *_subclasses(child))]


ROUTES = {f"{method} {path}" for path, methods in chalice_application.app.routes.items() for method in methods}


def http_error_codes() -> dict[str, int]:
    """The codes of the API's errors with their statuses."""
    codes = {known.__name__: known.status for known in _subclasses(RequestError)}
    for name, (ours, _) in http_errors.CHALICE_ERRORS.items():
        # Two of Chalice's refusals are words and no classes; ours of that code has the status then.
        codes.setdefault(ours, getattr(getattr(chalice.app, name, None), "STATUS_CODE", 0))
    return codes | {"InternalError": 500}


class TestTheHttpApiPage:
    def test_every_route_is_told(self) -> None:
        # GIVEN the application's routes WHEN the page's are read THEN they are the same
        told = [title.strip("`") for title in headings(HTTP_API) if title.startswith("`")]
        overview, *_ = tables(HTTP_API)
        assert sorted(told) == sorted(first_words(overview)) == sorted(ROUTES)

    @pytest.mark.parametrize("route", sorted(ROUTES))
    def test_a_route_has_a_curl_line_an_answer_and_its_errors(self, route: str) -> None:
        # GIVEN a route's section
        method, path = route.split()
        below = section(HTTP_API, f"`{route}`")
        # WHEN its example is read
        (line,) = [line for block in fences(below, "sh") for line in block.splitlines() if line.startswith("curl ")]
        # THEN it calls this route
        address = re.search(r"\$DROPTUNE_API_URL([^\"? ]*)", line)
        assert address
        assert re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), address[1])
        assert ("--data-binary" in line) == (method == "POST")
        # AND answers with JSON, but for redirects and pages
        without = path.endswith(("/report", "/doctor")) or path in {"/", "/docs", "/console/{version}/{name}"}
        assert len(json_fences(below)) == (0 if without else 1)
        # AND its errors are among the API's
        named_errors = re.search(r"^Errors: (.*?)(?:\n\n|\Z)", below, re.MULTILINE | re.DOTALL)
        assert path == "/health" or named_errors
        assert set(words(named_errors[1] if named_errors else "")) <= set(http_error_codes())

    def test_every_error_is_told(self) -> None:
        # GIVEN the codes of the application WHEN the table is read THEN it holds these with their statuses
        (table,) = tables(section(HTTP_API, "Errors"))
        assert {words(row[0])[0]: int(row[1]) for row in table} == http_error_codes()

    def test_a_run_has_the_members_of_the_code(self) -> None:
        # GIVEN the examples of runs
        (listing,) = json_fences(section(HTTP_API, "`GET /runs`"))
        (one,) = json_fences(section(HTTP_API, "`GET /runs/{id}`"))
        # WHEN compared with what the API shows THEN the members are the same
        assert tuple(listing["runs"][0]) == runs.FIELDS
        assert tuple(one) == (*runs.FIELDS, "states")

    def test_limits_are_those_of_the_code(self) -> None:
        # GIVEN the rows of the parameters WHEN read THEN they name the code's limits and defaults
        assert f"1 to {prediction_requests.MAX_TOP_K}; default {prediction_requests.DEFAULT_TOP_K}" in HTTP_API
        assert f"1 to {runs.MAX_LIMIT}; default {runs.DEFAULT_LIMIT}" in HTTP_API
        assert f"{storage.LINK_SECONDS // 60} minutes" in section(HTTP_API, "`GET /runs/{id}/report`")
        for listing in ("`GET /datasets`", "`GET /datasets/{name}/versions`"):
            assert f"1 to {datasets.MAX_LIMIT}; default {datasets.DEFAULT_LIMIT}" in section(HTTP_API, listing)
        assert f"from 1 to {dataset_settings.MAX_SECONDS}" in section(HTTP_API, "`PUT /datasets/{name}/settings`")

    def test_uploads_are_those_of_the_code(self) -> None:
        # GIVEN the kinds of files that are signed WHEN the table is read THEN it tells their types and sizes
        below = section(HTTP_API, "`POST /datasets/{name}/uploads`")
        members, kinds = tables(below)
        assert f"1 to {upload_links.MAX_FILES} of them" in below
        assert first_words(members) == ["path", "content_type"]
        for (paths_told, types, size), kind in zip(
            kinds, (upload_links.IMAGE, upload_links.ARCHIVE, upload_links.LABELS, upload_links.MARKER), strict=True
        ):
            assert tuple(words(types)) == kind.content_types
            assert size.startswith(f"{kind.min_bytes} to {kind.max_bytes}")
            assert all(
                upload_links._kind_of(path if path == "_READY" else f"a{path}") == kind for path in words(paths_told)
            )


class TestTheLocalSageMakerPage:
    def test_every_operation_is_told(self) -> None:
        # GIVEN what the server registered (its modules are imported with it) WHEN the table is read
        (table,) = tables(section(SAGEMAKER, "Operations"))
        # THEN it holds these and no others
        assert sorted(word for row in table for word in words(row[1])) == sorted(protocol.OPERATIONS)

    def test_every_option_is_told(self) -> None:
        # GIVEN the server's options
        parser = sagemaker_server._parser()
        known = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        # WHEN the table is read THEN it holds these and no others
        (table,) = tables(section(SAGEMAKER, "Options"))
        assert set(first_words(table)) == known
        assert f"default {parser.get_default('stop_grace')}" in section(SAGEMAKER, "Options")

    def test_every_error_of_its_own_is_told(self) -> None:
        # GIVEN the classes of errors WHEN the table is read THEN it names their codes
        classes: list[type[Any]] = [sagemaker_errors.SageMakerError, *_subclasses(sagemaker_errors.SageMakerError)]
        (table,) = tables(section(SAGEMAKER, "Errors"))
        assert {known.code for known in classes} <= set(first_words(table))

    def test_the_images_file_is_one(self, tmp_path: Path) -> None:
        # GIVEN the page's example, with a folder that is here
        (example,) = json_fences(section(SAGEMAKER, "The images file"))
        (tmp_path / "images.json").write_text(
            json.dumps({name: entry | {"program": str(tmp_path)} for name, entry in example.items()})
        )
        # WHEN the server reads it THEN it takes every member that the table tells
        image = load_images(tmp_path / "images.json")["droptune-training"]
        (table,) = tables(section(SAGEMAKER, "The images file"))
        assert set(first_words(table)) >= set(example["droptune-training"])
        assert image.train == ("train.py",)
