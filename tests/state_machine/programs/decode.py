"""Decode, without images: one block for all files of this host, and a record for each of them."""

import hashlib
import json
import os

from container import BASE, fail  # type: ignore[import-not-found]  # found beside the program

if __name__ == "__main__":
    inputs, outputs = BASE / "processing/input", BASE / "processing/output"
    if not list((inputs / "weights").iterdir()):
        fail("message", "WeightsMissing", "There are no weights.")
    host = json.loads((BASE / "config/resourceconfig.json").read_text())["current_host"]
    base = inputs / "base/records.jsonl"
    known = {record["key"] for record in map(json.loads, base.read_text().splitlines())} if base.exists() else set()
    files = sorted(path for path in (inputs / "dataset").rglob("*") if path.is_file())
    block = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:32]
    for kind, name in (("squares", "npy"), ("features", "npy"), ("thumbnails", "zip")):
        (outputs / "blocks" / kind).mkdir()
        (outputs / "blocks" / kind / f"{block}.{name}").write_text(str(len(files)))
    records = [
        {"key": path.relative_to(inputs / "dataset").as_posix(), "block": block, "row": row}
        for row, path in enumerate(files)
    ]
    (outputs / f"decoded/records-{host}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    new = sum(record["key"] not in known for record in records)
    print(f"decoded {len(records)} files, {new} of them new, {os.environ['BACKBONE']}")
