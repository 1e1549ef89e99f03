"""What the small programs of these tests share: the places of the container contract."""

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

BASE = Path(os.environ["SAGEMAKER_BASE_DIR"])


def fail(file: str, code: str, message: str) -> NoReturn:
    """End as a container of ours does: an error document, and exit code 1."""
    document = {"code": code, "message": message, "hint": "Add a second folder of images."}
    (BASE / "output" / file).write_text(json.dumps(document))
    sys.exit(1)
