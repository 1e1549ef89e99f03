"""Starts the local SageMaker: `python -m droptune.local_cloud.sagemaker --help`."""

import argparse
import fcntl
import logging
import signal
import sys
from pathlib import Path

import optuna
import uvicorn

from droptune.local_cloud.sagemaker.context import Context
from droptune.local_cloud.sagemaker.images import load_images
from droptune.local_cloud.sagemaker.jobs import Jobs
from droptune.local_cloud.sagemaker.server import create_app
from droptune.local_cloud.sagemaker.store import Store
from droptune.local_cloud.sagemaker.workers import Workers

_GRACEFUL_SECONDS = 3  # for requests that are being answered when the server is told to stop


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every ping and invocation
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # failed trials are told by their training jobs
    state_dir: Path = arguments.state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"Another local SageMaker is running on {state_dir}. Stop it, or use another --state-dir.",
                file=sys.stderr,
            )
            return 1
        try:
            images = load_images(arguments.images)
        except (OSError, ValueError) as error:
            print(f"The images file cannot be used: {error}", file=sys.stderr)
            return 1
        context = Context(
            store=Store(state_dir / "sagemaker.sqlite"),
            state_dir=state_dir,
            gateway_url=arguments.gateway_url,
            images=images,
            workers=Workers(state_dir / "logs" / "workers"),
            jobs=Jobs(state_dir, slots=arguments.max_parallel_jobs, stop_grace_seconds=arguments.stop_grace),
        )
        _serve(context, arguments.port)
        context.store.close()
    return 0


def _serve(context: Context, port: int) -> None:
    # After a graceful stop uvicorn raises the signal once more, for whoever handled it before: an
    # ordinary stop has to end with exit status 0 all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        create_app(context),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m droptune.local_cloud.sagemaker",
        description="A SageMaker on this machine: jobs and endpoints are processes, data comes from S3.",
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--gateway-url", required=True, help="endpoint of S3 and CloudWatch Logs")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help='JSON file {"<repository>": {"program": "/folder", "train": [...], "serve": [...], "preload": [...]}}',
    )
    parser.add_argument(
        "--stop-grace",
        type=float,
        default=20,
        help="seconds between SIGTERM and SIGKILL of a stopped job (default %(default)s; SageMaker: 120)",
    )
    parser.add_argument(
        "--max-parallel-jobs",
        type=int,
        help="jobs that run at the same time; others wait (default: half the processors, at least 2)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
