"""Labels files: a CSV (`path,label[,split]`) or a SageMaker augmented manifest that labels images.

The manifest's format is that of Ground Truth's image classification:
https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import archives

SPLITS = ("train", "valid", "test")
DELIMITERS = (",", ";", "\t")
CLASSIFICATION = "groundtruth/image-classification"
DRIVE = re.compile(r"[A-Za-z]:")
# A file whose every row is wrong would bury the others in the list.
MAX_BAD_ROWS = 100

CSV_HINT = "Its first line must name the columns path and label (and split, if you like); save it as UTF-8."
MANIFEST_HINT = 'Each line must be one JSON document with "source-ref" and a label attribute with its "-metadata".'


@dataclass(frozen=True)
class Quarantined:
    """A file that is left out: its key, why ("reason"), and what to do about it ("hint")."""

    file: str
    reason: str
    hint: str


@dataclass(frozen=True)
class Row:
    """One line's statement: its number (from 1), the file's key, the class, the split or None."""

    number: int
    key: str
    label: str
    split: str | None


@dataclass
class LabelsFile:
    """A labels file, read. `scope` is the archive that it lies in, or empty: the whole dataset."""

    key: str
    scope: str
    rows: list[Row] = field(default_factory=list)
    # Number, what is wrong, next step.
    bad_rows: list[tuple[int, str, str]] = field(default_factory=list)
    # Why it is no labels file at all.
    unusable: Quarantined | None = None


@dataclass
class Assigned:
    """What the labels files of a version say, together."""

    # By the file's key: class and own split.
    labels: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    # Files that two rows label differently, by key.
    contradicted: dict[str, Quarantined] = field(default_factory=dict)
    # What is wrong with the labels files themselves; `unusable` are those that label nothing.
    quarantined: list[Quarantined] = field(default_factory=list)
    unusable: list[Quarantined] = field(default_factory=list)
    # By scope, the first labels file there.
    names: dict[str, str] = field(default_factory=dict)

    def governs(self, source: str) -> bool:
        """Whether images of `source` (an archive or a file of the dataset) need a row to be used."""
        return source in self.names or "" in self.names

    def unnamed(self, record: dict[str, Any]) -> Quarantined:
        name = self.names.get(record["source"]) or self.names[""]
        return Quarantined(
            record["key"],
            f"The file is not named in {name}, which labels the images here.",
            f"Add a row for it to {name}, or leave it out for good.",
        )


class _BadRowError(ValueError):
    """A row that says nothing usable. The text goes on from "The file's row 7 …"."""


class _BadFileError(ValueError):
    """No labels file. The text goes on from "The file …"."""


def read(key: str, source: str, content: bytes, location: str) -> LabelsFile:
    """Reads the labels file `key`, which lies in the archive `source` (or is `source` itself).

    `location` is the dataset's S3 address, `s3://<bucket>/datasets/<dataset>/`, which S3 URIs in a manifest
    must begin with. Nothing is raised: what is wrong becomes `bad_rows` or `unusable`.
    """
    labels = LabelsFile(key, scope="" if key == source else source)
    folder = PurePosixPath(key).parent
    is_csv = key.lower().endswith(".csv")
    hint = CSV_HINT if is_csv else MANIFEST_HINT
    try:
        text = _decoded(content)
        for number, found in _csv_rows(text) if is_csv else _manifest_rows(text):
            try:
                file, label, split = _csv_row(found, folder) if is_csv else _manifest_row(found, folder, location)
                labels.rows.append(Row(number, file, label, split))
            except _BadRowError as error:
                labels.bad_rows.append((number, str(error), hint))
        # Any text may be called .manifest; a CSV has shown by its first line what it is.
        if not is_csv and not labels.rows:
            raise _BadFileError("names no image")
    except _BadFileError as error:
        first = f" Its row {labels.bad_rows[0][0]} {labels.bad_rows[0][1]}." if labels.bad_rows else ""
        labels.unusable = Quarantined(key, f"The file {error}, so it labels nothing.{first}", hint)
        labels.rows, labels.bad_rows = [], []
    return labels


def _decoded(content: bytes) -> str:
    # Spreadsheets save "Unicode text" as UTF-16, which only its byte order mark tells from UTF-8.
    encoding, name = ("utf-16", "UTF-16") if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _BadFileError(f"is no {name} text (see byte {error.start:,})") from error
    if "\0" in text:
        raise _BadFileError("holds null characters, which no text does")
    return text


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    header = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header.count), strict=True)
    columns: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = [cell.strip().lower() for cell in cells]
                continue
            yield reader.line_num, dict(zip(_checked(columns), cells, strict=False))
    except csv.Error as error:
        raise _BadFileError(f"is no CSV in line {reader.line_num} ({error})") from error
    _checked(columns or [])


def _checked(columns: list[str]) -> list[str]:
    missing = [repr(name) for name in ("path", "label") if columns.count(name) != 1]
    if missing:
        raise _BadFileError(f"does not have one column {' and one column '.join(missing)}")
    return columns


def _csv_row(cells: dict[str, str], folder: PurePosixPath) -> tuple[str, str, str | None]:
    path, label = cells["path"].strip(), cells.get("label", "").strip()
    if not path:
        raise _BadRowError("has no path")
    if not label:
        raise _BadRowError(f"gives no label to {path}")
    return _below(folder, path), label, _split(cells.get("split"))


def _split(value: object) -> str | None:
    split = str(value or "").strip().lower()
    if split and split not in SPLITS:
        raise _BadRowError(f"has the split {split!r}, which is none of train, valid and test")
    return split or None


def _manifest_rows(text: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): a file name may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _BadFileError(f"is no JSON in line {number}") from error


def _manifest_row(document: Any, folder: PurePosixPath, location: str) -> tuple[str, str, str | None]:
    reference = document.get("source-ref") if isinstance(document, dict) else None
    if not isinstance(reference, str) or not reference.strip():
        raise _BadRowError('has no "source-ref"')
    if reference.lower().startswith("s3://"):
        if not reference.startswith(location):
            raise _BadRowError(f"names {reference}, which lies outside {location}")
        # From the top of the dataset, wherever the manifest lies.
        file = _below(PurePosixPath(), reference.removeprefix(location))
    else:
        file = _below(folder, reference.strip())
    return file, _manifest_label(document), _split(document.get("split"))


def _manifest_label(document: dict[str, Any]) -> str:
    described = {
        name.removesuffix("-metadata"): metadata
        for name, metadata in document.items()
        if name.endswith("-metadata") and isinstance(metadata, dict) and name.removesuffix("-metadata") in document
    }
    if len(described) > 1:
        described = {name: found for name, found in described.items() if found.get("type") == CLASSIFICATION}
    if len(described) != 1:
        raise _BadRowError("must have exactly one label attribute with its metadata")
    ((name, metadata),) = described.items()
    label = metadata.get("class-name", document[name])
    if not isinstance(label, str | int | float) or not str(label).strip():
        raise _BadRowError(f"has a label {name!r} that is neither text nor a number")
    return str(label).strip()


def _below(folder: PurePosixPath, path: str) -> str:
    """The key of `path` below `folder`. Windows' separators are taken too."""
    inside = PurePosixPath(path.replace("\\", "/"))
    if inside.is_absolute() or DRIVE.match(path) or ".." in inside.parts or not inside.parts:
        raise _BadRowError(f"names {path}, and paths must be relative and stay in the folder of the labels file")
    return str(folder / inside)


def assign(labels: Sequence[LabelsFile], keys: Sequence[str]) -> Assigned:
    """Joins what `labels` say about the files `keys`; of rows that contradict each other none counts."""
    assigned = Assigned()
    # macOS writes the accents of file names as characters of their own; a spreadsheet does not.
    known = {unicodedata.normalize("NFC", key): key for key in keys}
    parted = [(key, *key.partition("/")) for key in keys]
    in_archives = {rest: key for key, top, _, rest in parted if rest and archives.is_archive(top)}
    said: dict[str, tuple[LabelsFile, Row]] = {}
    for file in labels:
        if file.unusable:
            assigned.quarantined.append(file.unusable)
            assigned.unusable.append(file.unusable)
            continue
        assigned.names.setdefault(file.scope, file.key)
        bad_rows, named = list(file.bad_rows), 0
        for row in file.rows:
            key = known.get(unicodedata.normalize("NFC", row.key))
            if key is None:
                inside = in_archives.get(row.key)
                meant = f" (write {inside} for the file in the archive)" if inside else ""
                problem = f"names {row.key}, which is not in the dataset{meant}"
                bad_rows.append((row.number, problem, "Upload the image, or mend or remove the row."))
                continue
            named += 1
            _say(assigned, key, said.setdefault(key, (file, row)), (file, row))
        _list_bad_rows(assigned, file, sorted(bad_rows), named)
    for key in assigned.contradicted:
        del assigned.labels[key]
    return assigned


def _say(assigned: Assigned, key: str, first: tuple[LabelsFile, Row], second: tuple[LabelsFile, Row]) -> None:
    (file, row), (other_file, other) = first, second
    label, split = assigned.labels.get(key, (row.label, row.split))
    if other.label != label:
        what = f"the class {row.label!r} in row {row.number} of {file.key} and {other.label!r}"
    elif split and other.split and other.split != split:
        what = f"the split {split!r} in row {row.number} of {file.key} and {other.split!r}"
    else:
        assigned.labels[key] = label, split or other.split
        return
    assigned.labels[key] = label, split
    assigned.contradicted[key] = Quarantined(
        key, f"The file has {what} in row {other.number} of {other_file.key}.", "Keep the row that is right."
    )


def _list_bad_rows(assigned: Assigned, file: LabelsFile, bad_rows: list[tuple[int, str, str]], named: int) -> None:
    for number, problem, hint in bad_rows[:MAX_BAD_ROWS]:
        assigned.quarantined.append(Quarantined(file.key, f"The file's row {number} {problem}.", hint))
    if len(bad_rows) > MAX_BAD_ROWS:
        reason = f"The file has {len(bad_rows) - MAX_BAD_ROWS:,} more rows that cannot be used."
        assigned.quarantined.append(Quarantined(file.key, reason, "Mend the rows above first."))
    if not named:
        first = f"; row {bad_rows[0][0]} {bad_rows[0][1]}" if bad_rows else ""
        reason = f"The file labels no image of the dataset{first}."
        entry = Quarantined(file.key, reason, "Paths are relative to the folder of the labels file.")
        assigned.unusable.append(entry)
        assigned.quarantined.append(entry)
