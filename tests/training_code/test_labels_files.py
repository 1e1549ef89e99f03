"""Labels files: what rows say, in which encodings and layouts, and what is wrong with the others."""

import json
from typing import Any

import labels_files
import pytest

LOCATION = "s3://bucket/datasets/shapes/"


def read(content: str | bytes, key: str = "labels.csv", source: str | None = None) -> labels_files.LabelsFile:
    data = content.encode() if isinstance(content, str) else content
    return labels_files.read(key, source or key, data, LOCATION)


def manifest(*documents: Any) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


def said(file: labels_files.LabelsFile) -> list[tuple[str, str, str | None]]:
    return [(row.key, row.label, row.split) for row in file.rows]


def assigned(*files: labels_files.LabelsFile, keys: tuple[str, ...]) -> labels_files.Assigned:
    return labels_files.assign(files, keys)


@pytest.mark.parametrize(
    "content",
    [
        "path,label\na/1.jpg,cat\n2.jpg,black dog\n",
        "\ufeffpath,label\r\na/1.jpg,cat\r\n2.jpg,black dog\r\n",
        "path;label\na/1.jpg;cat\n\n2.jpg;black dog",
        "path\tlabel\na/1.jpg\tcat\n2.jpg\tblack dog\n",
        " Path , LABEL ,split\na/1.jpg , cat,\n2.jpg,black dog,\n",
        'label,note,path\ncat,"a, b",a/1.jpg\n"black dog",,"2.jpg"\n',
        "path,label\na\\1.jpg,cat\n.\\2.jpg,black dog\n",
        "path,label\n./a/1.jpg,cat\na/../2.jpg,bird\n2.jpg,black dog\n",
        "path,label\na/1.jpg,cat\n2.jpg,black dog\n".encode("utf-16"),
    ],
    ids=["plain", "bom-and-crlf", "semicolons", "tabs", "spaces-and-case", "quotes", "windows-paths", "dots", "utf-16"],
)
def test_tables_as_spreadsheets_write_them(content: str | bytes) -> None:
    assert said(read(content)) == [("a/1.jpg", "cat", None), ("2.jpg", "black dog", None)]


def test_splits_of_a_table() -> None:
    # GIVEN each split, none, and one that does not exist
    file = read("path,label,split\n1,cat,train\n2,cat,Valid\n3,cat,test\n4,cat,\n5,cat,dev\n6,cat\n")

    # THEN the first four and the short row count, and the other says what is wrong with it
    assert [row.split for row in file.rows] == ["train", "valid", "test", None, None]
    assert [(number, problem) for number, problem, _ in file.bad_rows] == [
        (6, "has the split 'dev', which is none of train, valid and test")
    ]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../1.jpg", "a/../../1.jpg", "C:\\photos\\1.jpg", "c:1.jpg", "\\\\host\\1.jpg", ".", "..\\1.jpg"],
)
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    file = read(f"path,label\n{path},cat\n2.jpg,dog\n")
    assert said(file) == [("2.jpg", "dog", None)]
    assert "must be relative" in file.bad_rows[0][1]
    line = manifest({"source-ref": path, "kind": 0, "kind-metadata": {"class-name": "cat"}})
    assert not read(line, "labels.manifest").rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "one column 'path' and one column 'label'"),
        ("path,class\n1.jpg,cat\n", "one column 'label'"),
        ("path,label,path\n1.jpg,cat,2.jpg\n", "one column 'path'"),
        ("1.jpg,cat\n2.jpg,dog\n", "one column 'path'"),
        (b"path,label\n1.jpg,caf\xe9\n", "no UTF-8 text (see byte 20)"),
        (b"path,label\n1.jpg,\0\n", "null characters"),
        ('path,label\n"1.jpg,cat\n', "no CSV in line"),
    ],
    ids=["empty", "no-label", "path-twice", "no-header", "latin-1", "null", "open-quote"],
)
def test_files_that_are_no_labels_files(content: str | bytes, words: str) -> None:
    file = read(content)
    assert file.unusable
    assert file.unusable.file == "labels.csv"
    assert words in file.unusable.reason
    assert file.unusable.reason.startswith("The file ")
    assert "path and label" in file.unusable.hint
    assert not file.rows


def test_augmented_manifests() -> None:
    # GIVEN lines as Ground Truth writes them, with S3 addresses and with relative paths, and other attributes
    truth = {"type": "groundtruth/image-classification", "human-annotated": "yes"}
    content = manifest(
        {"source-ref": f"{LOCATION}a/1.jpg", "kind": 0, "kind-metadata": {**truth, "class-name": "cat"}},
        {"source-ref": "2.jpg", "kind": 3, "kind-metadata": truth, "split": "test"},
        {"source-ref": "3.jpg", "kind": "dog", "kind-metadata": {}, "size": 7, "other-metadata": {}},
        {"source-ref": "4.jpg", "k": 0, "k-metadata": {**truth, "class-name": "bird"}, "box": {}, "box-metadata": {}},
    )

    # WHEN the manifest is read in an archive, THEN relative paths lie beside it and addresses in the dataset
    file = read(content, "all.zip/labels.manifest", "all.zip")
    assert said(file) == [
        ("a/1.jpg", "cat", None),
        ("all.zip/2.jpg", "3", "test"),
        ("all.zip/3.jpg", "dog", None),
        ("all.zip/4.jpg", "bird", None),
    ]
    assert file.scope == "all.zip"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"kind": 0, "kind-metadata": {}}, "source-ref"),
        (["x"], "source-ref"),
        ({"source-ref": "1.jpg"}, "exactly one label"),
        ({"source-ref": "1.jpg", "a": 0, "a-metadata": {}, "b": 0, "b-metadata": {}}, "exactly one label"),
        ({"source-ref": "1.jpg", "a": [1], "a-metadata": {}}, "neither text nor a number"),
        ({"source-ref": "1.jpg", "a": " ", "a-metadata": {}}, "neither text nor a number"),
        ({"source-ref": "s3://other/datasets/shapes/1.jpg", "a": 0, "a-metadata": {}}, "outside s3://bucket"),
        ({"source-ref": "s3://bucket/datasets/shapes2/1.jpg", "a": 0, "a-metadata": {}}, "outside s3://bucket"),
        ({"source-ref": f"{LOCATION}../1.jpg", "a": 0, "a-metadata": {}}, "must be relative"),
    ],
)
def test_lines_of_a_manifest_that_cannot_be_used(document: Any, words: str) -> None:
    good = {"source-ref": "9.jpg", "a": 0, "a-metadata": {"class-name": "cat"}}
    file = read(manifest(good, document), "labels.manifest")
    assert [row.key for row in file.rows] == ["9.jpg"]
    ((number, problem, hint),) = file.bad_rows
    assert number == 2
    assert words in problem
    assert "source-ref" in hint
    # AND a file of such lines alone is none
    alone = read(manifest(document), "labels.manifest")
    assert alone.unusable
    assert words in alone.unusable.reason


def test_a_manifest_that_is_no_json() -> None:
    file = read('{"source-ref": "1.jpg"}\n{oops\n', "labels.manifest")
    assert file.unusable
    assert "no JSON in line 2" in file.unusable.reason


def test_rows_that_name_no_file_are_listed_with_their_number() -> None:
    # GIVEN a row for a missing file, and one that forgets the archive in which its file lies
    file = read("path,label\n1.jpg,cat\n2.jpg,dog\nin/3.jpg,dog\n")

    # WHEN rows meet files
    found = assigned(file, keys=("1.jpg", "photos.zip/in/3.jpg"))

    # THEN the good row counts, and the others say what is wrong and what may be meant
    assert found.labels == {"1.jpg": ("cat", None)}
    missing, in_archive = (entry.reason for entry in found.quarantined)
    assert missing == "The file's row 3 names 2.jpg, which is not in the dataset."
    assert in_archive.endswith("(write photos.zip/in/3.jpg for the file in the archive).")
    assert not found.unusable


def test_many_bad_rows_are_cut_short() -> None:
    file = read("path,label\n1.jpg,cat\n" + "".join(f"no-{number}.jpg,cat\n" for number in range(250)))
    found = assigned(file, keys=("1.jpg",))
    assert len(found.quarantined) == labels_files.MAX_BAD_ROWS + 1
    assert found.quarantined[-1].reason == "The file has 150 more rows that cannot be used."


def test_rows_that_contradict_each_other_cancel_out() -> None:
    # GIVEN two labels files that agree, complete and contradict each other
    first = read("path,label,split\n1,cat,\n2,cat,test\n3,cat,test\n4,cat,\n", "a.csv")
    second = read("path,label,split\n1,cat,valid\n2,cat,train\n3,dog,test\n4,cat,\n", "b.csv")

    # WHEN they are joined
    found = assigned(first, second, keys=("1", "2", "3", "4"))

    # THEN what agrees counts, and the rest is left out with both rows named
    assert found.labels == {"1": ("cat", "valid"), "4": ("cat", None)}
    assert found.contradicted["2"].reason == (
        "The file has the split 'test' in row 3 of a.csv and 'train' in row 3 of b.csv."
    )
    assert found.contradicted["3"].reason == (
        "The file has the class 'cat' in row 4 of a.csv and 'dog' in row 4 of b.csv."
    )


def test_accents_written_in_two_ways_are_one_name() -> None:
    # GIVEN a file name as macOS writes it (e + combining accent) and as a spreadsheet does (é)
    found = assigned(read("path,label\ncaf\u00e9.jpg,cat\n"), keys=("cafe\u0301.jpg",))
    assert found.labels == {"cafe\u0301.jpg": ("cat", None)}
