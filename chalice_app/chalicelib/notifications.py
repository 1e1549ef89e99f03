"""The mail: what a run brought, in words a person reads in a minute.

A mail is a subject and a list of blocks (headings, paragraphs, tables); `mail_format` writes the
blocks as plain text and as HTML, so that both say the same.
"""

from typing import Any

from chalicelib import config, costs, dataset_versions, evaluations, history, names
from chalicelib.mail_format import Block, Command, Heading, Link, Paragraph, Table, to_html, to_text

LISTED_FILES = 10
LISTED_CLASSES = 3
# The states that a person knows from the documentation; the others are short, and part of the whole.
TIMED_STATES = frozenset({"Settle", "Decode", "Prepare", "Tune", "Retrain", "Evaluate", "Release"})


def write_mail(run: dict[str, Any]) -> dict[str, str]:
    """Compose the mail of a run that ended.

    Args:
        run: ``run``, ``dataset``, ``status``, ``execution_arn``, ``config``, and where the run
            got that far ``verdict``, ``dataset_version``, ``model_version`` and ``error``.

    Returns ``{"subject", "text", "html"}``.
    """
    evaluation = evaluations.load_evaluation(run["dataset"], run["run"])
    doctor = _doctors_findings(run)
    subject = subject_of(run, evaluation)
    blocks = [
        *_verdict(run, evaluation),
        *(_numbers(evaluation) if evaluation else []),
        *(_mistakes(evaluation) if evaluation else []),
        *(_data(doctor) if doctor else []),
        *(_quarantine(evaluation) if evaluation else []),
        *_effort(run),
        *_next_steps(run, evaluation, doctor),
    ]
    return {"subject": subject, "text": to_text(blocks), "html": to_html(subject, blocks)}


def subject_of(run: dict[str, Any], evaluation: dict[str, Any] | None) -> str:
    """The mail's subject: dataset, verdict, accuracy; one line of at most 150 characters."""
    dataset = run["dataset"]
    if run["status"] == "FAILED":
        message = " ".join(run["error"]["message"].split())
        line = f"{dataset}: the run failed: {message}"
        return line if len(line) <= 150 else line[:149] + "…"
    if run["verdict"] == "unchanged":
        return f"{dataset}: nothing has changed since version {run['dataset_version']}"
    accuracy = f", accuracy {evaluation['accuracy']:.2f}" if evaluation else ""
    outcome = "is live" if run["verdict"] == "promoted" else "was not promoted"
    return f"{dataset}: model {run['model_version']} {outcome}{accuracy}"


def send_refusal(key: str, settings: dict[str, Any]) -> None:
    """Mail, now, that an upload belongs to no dataset, and what to do.

    Args:
        key: the S3 key of the upload.
        settings: the ``config`` of an execution's input.
    """
    send(*refusal(key), settings)


def send(subject: str, blocks: list[Block], settings: dict[str, Any]) -> None:
    """Mail the owner now, where there is an address.

    Args:
        subject: the mail's subject.
        blocks: what it says.
        settings: the ``config`` of an execution's input.
    """
    mail = settings["mail"]
    if not (mail["from"] and mail["to"]):
        return
    config.client("sesv2").send_email(
        FromEmailAddress=mail["from"],
        Destination={"ToAddresses": mail["to"]},
        Content={
            "Simple": {
                "Subject": {"Data": subject, "Charset": "UTF-8"},
                "Body": {
                    "Text": {"Data": to_text(blocks), "Charset": "UTF-8"},
                    "Html": {"Data": to_html(subject, blocks), "Charset": "UTF-8"},
                },
            }
        },
    )


def refusal(key: str) -> tuple[str, list[Block]]:
    """Subject and blocks of the mail about an upload that belongs to no dataset."""
    dataset, _, path = key.removeprefix(names.DATASETS_PREFIX).partition("/")
    if path:
        subject = f"{dataset[:60]}: this cannot be the name of a dataset"
        cause = (
            f"The upload {key} was left where it is, but nothing was started: '{dataset}' cannot be "
            "the name of a dataset. A name has 1 to 32 small letters, digits and hyphens, and begins "
            "and ends with a letter or a digit."
        )
        step = "Upload the folder again under such a name, for example datasets/holiday-photos/."
    else:
        subject = f"{dataset[:60]}: this upload belongs to no dataset"
        cause = (
            f"The upload {key} was left where it is, but nothing was started: it lies directly below "
            "datasets/, so it belongs to no dataset."
        )
        step = "Upload it again to datasets/<dataset>/<class>/, or an archive to datasets/<dataset>/."
    return subject, [
        Paragraph(cause),
        Heading("What to do"),
        Paragraph(step),
        Paragraph("You get this mail once, however many files were uploaded there."),
    ]


def _verdict(run: dict[str, Any], evaluation: dict[str, Any] | None) -> list[Block]:
    dataset = run["dataset"]
    if run["status"] == "FAILED":
        error = run["error"]
        # Whether an older model serves is the API's to say: a run may also fail in its release.
        return [
            Paragraph(f"The run on dataset {dataset} failed. {error['message']}"),
            Heading("What to do"),
            Paragraph(error["hint"]),
            Paragraph("No upload was changed or lost. A model that was live before the run stays live."),
        ]
    if run["verdict"] == "unchanged":
        return [
            Paragraph(
                f"The files of dataset {dataset} are those of version {run['dataset_version']}, which a run has "
                "learned from already. So nothing was trained, and nothing was released."
            )
        ]
    champion = evaluation and evaluation.get("champion")
    if run["verdict"] == "promoted" and champion:
        text = f"Model {run['model_version']} replaced model {champion['version']} and is live."
    elif run["verdict"] == "promoted":
        text = f"Model {run['model_version']} is the first model of dataset {dataset}, and it is live."
    else:
        version = champion["version"] if champion else "that serves"
        text = (
            f"Model {run['model_version']} is not better than the live model on the same test images, "
            f"so model {version} stays live."
        )
    return [Paragraph(text)]


def _numbers(evaluation: dict[str, Any]) -> list[Block]:
    low, high = evaluation["accuracy_interval"]
    rows = [
        ["Accuracy", f"{evaluation['accuracy']:.3f} (95 % interval {low:.2f} to {high:.2f})"],
        ["Right within 3 guesses", f"{evaluation['top_3_accuracy']:.3f}"],
        ["Macro F1", f"{evaluation['macro_f1']:.3f}"],
        ["Always the largest class", f"{evaluation['majority_accuracy']:.3f}"],
        ["Test images", f"{evaluation['test_images']} in {len(evaluation['classes'])} classes"],
    ]
    champion = evaluation.get("champion")
    if champion:
        rows.insert(1, [f"Model {champion['version']}, same images", f"{champion['accuracy']:.3f}"])
    return [Heading("How good it is"), Table(rows)]


def _mistakes(evaluation: dict[str, Any]) -> list[Block]:
    pairs = [
        [f"{pair['true']} taken for {pair['predicted']}", "once" if pair["count"] == 1 else f"{pair['count']} times"]
        for pair in evaluation["confused_pairs"][:LISTED_CLASSES]
    ]
    weak = sorted((row for row in evaluation["per_class"] if row["recall"] < 1), key=lambda row: row["recall"])
    worst = [
        [f"{row['label']}", f"{row['recall']:.0%} of its {row['images']} test images found"]
        for row in weak[:LISTED_CLASSES]
    ]
    if not pairs and not worst:
        return []
    return [Heading("Where it fails most"), Table(pairs + worst)]


def _doctors_findings(run: dict[str, Any]) -> dict[str, Any] | None:
    # A run that failed in Prepare or before has no page of the doctor's, and an unchanged one nothing new on it.
    if "dataset_version" not in run or run.get("verdict") == "unchanged":
        return None
    return dataset_versions.read_document(run["dataset"], run["dataset_version"], dataset_versions.DOCTOR)


def _data(doctor: dict[str, Any]) -> list[Block]:
    left_out, joined, suspected = (len(doctor[name]) for name in ("quarantined", "duplicates", "suspected_labels"))
    return [
        Heading(f"The data: version {doctor['version']}"),
        Paragraph(
            f"{_count(doctor['images'], 'usable image')} in {_count(len(doctor['classes']), 'class')}. "
            f"The data doctor left out {_count(left_out, 'file')}, and found {_count(joined, 'group')} of images that "
            f"look the same and {_count(suspected, 'label')} that may be wrong."
        ),
    ]


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number or 'no'} {noun if number == 1 else plural}"


def _quarantine(evaluation: dict[str, Any]) -> list[Block]:
    files = evaluation["quarantined"][:LISTED_FILES]
    if not files:
        return []
    count = evaluation["quarantined_count"]
    blocks: list[Block] = [
        Heading(f"{count} {'file was' if count == 1 else 'files were'} left out"),
        Table([[entry["file"], f"{entry['reason']} {entry['hint']}"] for entry in files]),
    ]
    if count > len(files):
        blocks.append(Paragraph(f"The report lists more of the {count}."))
    return blocks


def _effort(run: dict[str, Any]) -> list[Block]:
    states = [state for state in history.list_states(run["execution_arn"]) if state["ended_at"]]
    if not states:
        return []
    rows = [
        [state["name"], _duration(seconds)]
        for state in states
        if state["name"] in TIMED_STATES and (seconds := (state["ended_at"] - state["started_at"]).total_seconds()) >= 1
    ]
    whole = (states[-1]["ended_at"] - states[0]["started_at"]).total_seconds()
    blocks: list[Block] = [Heading("Time and cost"), Table([*rows, ["All in all", _duration(whole)]])]
    instances = run["config"]["instances"]
    uses = costs.list_uses(run["run"], instances)
    priced = [use.usd for use in uses if use.usd is not None]
    unpriced = sorted({use.instance for use in uses if use.usd is None})
    if priced:
        parts = ", ".join(f"{use.state} {_duration(use.seconds)} of {use.instance}" for use in uses)
        blocks.append(
            Paragraph(
                f"At AWS list prices (us-east-1, {costs.PRICES_AS_OF}) the jobs' time costs "
                f"{_usd(sum(priced))}: {parts}. This is an estimate, not a bill; on your own machine it costs nothing."
            )
        )
    if unpriced:
        blocks.append(Paragraph(f"No price is known here for {', '.join(unpriced)}."))
    hourly = costs.USD_PER_HOUR.get(instances["endpoint"])
    if hourly and run.get("verdict") == "promoted":
        blocks.append(
            Paragraph(f"On AWS the endpoint costs about ${hourly:.3f} an hour more, for as long as it is up.")
        )
    return blocks


def _next_steps(run: dict[str, Any], evaluation: dict[str, Any] | None, doctor: dict[str, Any] | None) -> list[Block]:
    api = run["config"]["api_url"]
    dataset, run_id = run["dataset"], run["run"]
    blocks: list[Block] = [Heading("Go on")]
    if run["status"] != "FAILED":
        curl = "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg'"
        blocks.append(Command("Predict a photo", f"{curl} {api}/predict/{dataset}"))
    if evaluation:
        blocks.append(Link("The report, with the worst mistakes", f"{api}/runs/{run_id}/report"))
    if doctor:
        page = f"{api}/datasets/{dataset}/versions/{doctor['version']}/doctor"
        blocks.append(Link("What the data doctor found, with pictures", page))
    blocks.append(Link("This run", f"{api}/runs/{run_id}"))
    blocks.append(Link(f"All models of {dataset}", f"{api}/models/{dataset}"))
    return blocks


def _usd(amount: float) -> str:
    return f"about ${amount:.2f}" if amount >= 0.01 else "less than $0.01"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
