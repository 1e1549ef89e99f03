"""The console's files and how they are answered, without a browser."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chalicelib import console, trainings
from chalicelib.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]
NODE = Path(sys.executable).parent / "node"
SCRIPTS = sorted(console.FOLDER.glob("*.js"))
MAX_BYTES = 200_000


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket of the stack on AWS, as the policy names it."""
    monkeypatch.setattr(console, "_bucket_origin", lambda: "https://droptune-1-us-east-1.s3.us-east-1.amazonaws.com")


def node(program: str) -> Any:
    """What a JavaScript module prints, as JSON."""
    done = subprocess.run(
        [str(NODE), "--input-type=module", "--eval", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_names_files_that_are_there() -> None:
    # GIVEN the page
    answer = console.page("/api/", {})
    # WHEN its links are read
    links = re.findall(r"(?:href|src)=\"(console/[^\"]+)\"", answer.body)
    # THEN each is a file that a browser may keep for ever
    assert links
    for link in links:
        _, version, name = link.split("/")
        found = console.asset(version, name, {})
        assert found.status_code == 200
        assert found.headers["Cache-Control"] == console.KEEP
        assert found.headers["X-Content-Type-Options"] == "nosniff"


def test_every_import_is_a_file() -> None:
    for script in SCRIPTS:
        imported = re.findall(r"^import .* from \"\./(.+)\";$", script.read_text(), re.MULTILINE)
        assert {name for name in imported if not (console.FOLDER / name).is_file()} == set(), script.name


def test_the_page_may_load_nothing_from_elsewhere() -> None:
    # GIVEN the page's policy
    policy = console.page("/api/", {}).headers["Content-Security-Policy"]
    assert isinstance(policy, str)
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    # THEN it is strict, but for uploads to the bucket
    assert parts["default-src"] == "'self'"
    assert parts["connect-src"] == "'self' https://droptune-1-us-east-1.s3.us-east-1.amazonaws.com"
    assert "unsafe" not in policy
    # AND no file asks for more
    for path in console.FOLDER.iterdir():
        found = set(re.findall(r"https?://[^\s\"'`)]+", path.read_text())) - {"http://www.w3.org/2000/svg"}
        assert not {address for address in found if re.match(r"https?://\w", address)}, path.name


def test_an_unchanged_file_is_not_sent_again() -> None:
    # GIVEN an answer
    first = console.asset(console.version(), "main.js", {})
    tag = first.headers["ETag"]
    # WHEN it is asked for with its tag, as it is or as a proxy weakened it
    for given in (tag, f'"other", W/{tag}'):
        again = console.asset(console.version(), "main.js", {"if-none-match": str(given)})
        # THEN nothing is sent
        assert (again.status_code, again.body) == (304, "")
    assert console.asset(console.version(), "main.js", {"if-none-match": '"other"'}).status_code == 200


def test_an_old_page_gets_todays_files_and_keeps_none() -> None:
    answer = console.asset("0123456789abcdef", "main.js", {})
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..", "../console.py", ""])
def test_other_files_are_not_given(name: str) -> None:
    with pytest.raises(NotFound):
        console.asset(console.version(), name, {})


def test_without_its_slash_the_page_redirects() -> None:
    # GIVEN an address on AWS without the slash, from which relative links would leave the stage
    answer = console.page("/api", {})
    # THEN the browser is sent to `api/` beside it
    assert (answer.status_code, answer.headers["Location"]) == (302, "api/")


def test_a_signed_link_is_a_redirect_or_json() -> None:
    assert console.link_answer("https://x/y", {}).headers["Location"] == "https://x/y"
    assert console.link_answer("https://x/y", {"accept": "application/json"}).body == {"url": "https://x/y"}


def test_the_console_stays_small() -> None:
    assert sum(path.stat().st_size for path in console.FOLDER.iterdir()) < MAX_BYTES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_strangers_words_are_never_html(script: Path) -> None:
    # GIVEN a script WHEN it is read THEN nothing in it makes HTML or code of a text
    source = script.read_text()
    found = re.findall(
        r"innerHTML\s*[+]?=(?!=)|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source
    )
    assert not found
    assert not re.search(r"localStorage|document\.cookie", source)


def test_every_state_of_the_workflow_has_a_stage() -> None:
    # GIVEN the tasks of the state machine
    definition = json.loads((ROOT / "state_machine" / "retrain.asl.json").read_text())
    tasks = {name for name, state in definition["States"].items() if state["Type"] == "Task"}
    # WHEN the console's stages are read THEN they hold these and no others
    stages = node(
        f"import {{ STAGES }} from {str(console.FOLDER / 'stages.js')!r}; console.log(JSON.stringify(STAGES))"
    )
    assert {state for states in stages.values() for state in states} == tasks


def states(*names: str, last: str = "SUCCEEDED") -> list[dict[str, Any]]:
    """States that have passed one after the other, but for the last."""
    return [
        {
            "name": name,
            "status": last if name == names[-1] else "SUCCEEDED",
            "started_at": f"2026-11-22T15:00:{second:02}.000Z",
            "ended_at": None if name == names[-1] and last == "RUNNING" else f"2026-11-22T15:00:{second + 1:02}.000Z",
        }
        for second, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    ("status", "passed", "expected"),
    [
        ("RUNNING", states("Settle"), {"Settle": "active", "Decode": "waiting", "Finish": "waiting"}),
        ("RUNNING", states("Settle", "Decode", last="RUNNING"), {"Settle": "done", "Decode": "active"}),
        (
            "RUNNING",
            states("Settle", "Decode", "Explain", last="RUNNING"),
            {"Decode": "failed", "Explain": "active", "Prepare": "skipped", "Mail": "waiting"},
        ),
        (
            "FAILED",
            states("Settle", "Decode", "Explain", "Mail", "SendMail", "Finish"),
            {"Settle": "done", "Decode": "failed", "Tune": "skipped", "Mail": "done"},
        ),
        ("SUCCEEDED", states("Settle", "Finish"), {"Settle": "done", "Tune": "skipped", "Finish": "done"}),
        ("ABORTED", states("Settle", "Tune", last="FAILED"), {"Tune": "failed", "Retrain": "skipped"}),
        ("SUCCEEDED", states("Settle", "Something", "Mail"), {"Something": "done", "Mail": "done"}),
    ],
    ids=["waiting", "running", "failing", "failed", "unchanged", "aborted", "unknown-state"],
)
def test_stages_of_a_run(status: str, passed: list[dict[str, Any]], expected: dict[str, str]) -> None:
    # GIVEN a run WHEN its stages are found THEN each has its status
    program = (
        f"import {{ stagesOf }} from {str(console.FOLDER / 'stages.js')!r};"
        f"console.log(JSON.stringify(stagesOf({json.dumps({'status': status, 'states': passed})})))"
    )
    found = {stage["name"]: stage["status"] for stage in node(program)}
    assert found | expected == found


PLANS: dict[str, tuple[list[str], str, list[str]]] = {
    "folder of classes": (["pets/cat/1.jpg", "pets/dog/1.png"], "pets", ["cat/1.jpg", "dog/1.png"]),
    "classes alone": (["cat/1.jpg", "dog/1.jpg"], "", ["cat/1.jpg", "dog/1.jpg"]),
    "one class": (["cat/1.jpg"], "", ["cat/1.jpg"]),
    "splits": (["My Pets!/train/cat/1.jpg"], "my-pets", ["train/cat/1.jpg"]),
    "a split alone": (["train/cat/1.jpg"], "", ["train/cat/1.jpg"]),
    "archive": (["Pets 2026.zip"], "pets-2026", ["Pets 2026.zip"]),
    "archive in a folder": (["pets/a.tar.gz"], "pets", ["a.tar.gz"]),
    "labels": (["pets/labels.csv", "pets/images/1.jpg"], "pets", ["labels.csv", "images/1.jpg"]),
    "what is no data": (["pets/cat/.x.jpg", "pets/cat/Thumbs.db", "pets/__MACOSX/1.jpg", "pets/_READY"], "pets", []),
    "what is no image": (["pets/cat/a.txt", "pets/cat/b.zip", "pets/cat/c.jpg"], "pets", ["cat/c.jpg"]),
}


@pytest.mark.parametrize("case", sorted(PLANS))
def test_what_is_uploaded_of_a_choice(case: str) -> None:
    # GIVEN chosen files
    given, name, paths = PLANS[case]
    # WHEN the upload is planned
    program = (
        f"import {{ plan }} from {str(console.FOLDER / 'files.js')!r};"
        f"const entries = {json.dumps(given)}.map((path) => ({{ path, file: "
        "{ name: path.split('/').at(-1), size: 5, type: '' } }));"
        "const { name, files } = plan(entries);"
        "console.log(JSON.stringify({ name, files: files.map(({ path, type }) => [path, type]) }))"
    )
    planned = node(program)
    # THEN the folder around them names the dataset, and the API would sign exactly these
    from chalicelib import upload_links

    assert (planned["name"], [path for path, _ in planned["files"]]) == (name, paths)
    for path, content_type in planned["files"]:
        assert upload_links._check("pets", {"path": path, "content_type": content_type})


def test_epochs_are_read_from_what_a_training_prints() -> None:
    # GIVEN the lines of a training that was resumed, with one that is not finite and the best printed again
    line = "epoch={}; train:loss={}; train:accuracy=0.9; validation:loss=0.5; validation:accuracy=0.8; "
    lines = ["Starting.", line.format(1, 0.7), line.format(2, "nan"), "Resuming after epoch 1.", line.format(2, "inf")]
    lines += [line.format(10, 1e-05), line.format(1, 0.7), "epoch=11; train:lo"]
    # WHEN they are read
    epochs = trainings.read_epochs(lines)
    # THEN each epoch is there once, in its order, and what is no number is null
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 10, 11]
    assert [epoch["train:loss"] for epoch in epochs] == [0.7, None, 1e-05, None]
    assert epochs[0]["validation:accuracy"] == 0.8
