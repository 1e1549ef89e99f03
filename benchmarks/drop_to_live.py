"""How long from the drop of the example photos to a serving endpoint, state by state.

    python benchmarks/drop_to_live.py [--home DIRECTORY] [--json]

Brings up a fresh local cloud in a temporary directory (not counted), drops `examples/tuxpaint-photos` with plain S3
uploads, follows the run, and reads the states' times from the API. `drop` counts from the first upload to the start
of the run; `live` is the moment the release of the endpoint ended.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DROPTUNE = Path(sys.executable).parent / "droptune"


def droptune(home: Path, *arguments: str) -> Any:
    """Run `droptune <arguments> --json` for `home` and return its document."""
    done = subprocess.run(
        [str(DROPTUNE), *arguments, "--json"],
        env={**os.environ, "DROPTUNE_HOME": str(home)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout) if done.stdout.strip() else None


def seconds(start: str, end: str) -> float:
    """Return the seconds between two ISO 8601 times."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def measure(home: Path) -> dict[str, Any]:
    """Drop the example photos into the running cloud of `home` and return the seconds of each part."""
    began = time.time()
    droptune(home, "drop", str(ROOT / "examples" / "tuxpaint-photos"), "--dataset", "tuxpaint-photos")
    uploaded = time.time()
    record = droptune(home, "watch")
    environment = droptune(home, "env")
    run = httpx.get(f"{environment['DROPTUNE_API_URL']}/runs/{record['id']}", timeout=30).json()
    states: dict[str, float] = {}
    live = 0.0
    for state in run["states"]:
        if state["ended_at"] is None:
            continue
        states[state["name"]] = states.get(state["name"], 0.0) + seconds(state["started_at"], state["ended_at"])
        ended = datetime.fromisoformat(state["ended_at"]).timestamp()
        if not state["name"].startswith(("Mail", "Write", "Finish")):
            live = max(live, ended - began)
    return {
        "status": run["status"],
        "accuracy": run["accuracy"],
        "upload_seconds": uploaded - began,
        "states": states,
        "drop_to_live_seconds": live,
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
    }


def main() -> int:
    """Measure once, print a table or JSON, return 1 if the run did not succeed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="use the local cloud of this directory instead of a fresh one")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="droptune-bench-") as temporary:
        home = options.home or Path(temporary) / "home"
        droptune(home, "up")
        try:
            result = measure(home)
        finally:
            if options.home is None:
                droptune(home, "down")
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        table = Table(title=f"Drop to live, 271 photos, {result['cores']} cores")
        table.add_column("part")
        table.add_column("seconds", justify="right")
        table.add_row("upload", f"{result['upload_seconds']:.1f}")
        for name, value in result["states"].items():
            table.add_row(name, f"{value:.1f}")
        table.add_section()
        table.add_row("drop to live", f"{result['drop_to_live_seconds']:.1f}")
        Console().print(table)
        print(f"{result['status']}, accuracy on the test split {result['accuracy']}")
    return 0 if result["status"] == "SUCCEEDED" else 1


if __name__ == "__main__":
    sys.exit(main())
