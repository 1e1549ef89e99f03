"""How long the function's code takes to import, beside boto3 alone, which no function of ours can do without.

A cold start of Lambda begins with this import. Each figure is of fresh processes, taken in turns so that the machine's
other work meets both alike; the ratio holds on other machines, the seconds do not.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import boto3

from droptune.packaging import package

ROUNDS = 9
# What the Lambda runtime brings beside the zip.
RUNTIME = ("boto3", "botocore", "s3transfer", "dateutil", "six.py", "urllib3", "jmespath")
PROGRAM = """
import sys, time
sys.path += {paths!r}
begun = time.perf_counter()
import boto3
{more}
print(time.perf_counter() - begun)
"""


def seconds(paths: list[str], more: str) -> float:
    """Returns how long boto3, and what `more` imports, take in a process of their own without site-packages."""
    program = PROGRAM.format(paths=paths, more=more)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes of each kind")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        built = package(folder / "package")
        with zipfile.ZipFile(built.code) as archive:
            archive.extractall(folder / "code")
        (folder / "runtime").mkdir()
        for name in RUNTIME:
            (folder / "runtime" / name).symlink_to(Path(boto3.__file__).parent.parent / name)
        paths = [str(folder / "code"), str(folder / "runtime")]
        alone, ours = [], []
        # The first of each writes the bytecode.
        for _ in range(rounds + 1):
            alone.append(seconds(paths, ""))
            ours.append(seconds(paths, "import app"))
        result = {
            "zip_bytes": built.code.stat().st_size,
            "boto3_seconds": round(statistics.median(alone[1:]), 3),
            "app_seconds": round(statistics.median(ours[1:]), 3),
            "ratio": round(statistics.median(ours[1:]) / statistics.median(alone[1:]), 2),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
