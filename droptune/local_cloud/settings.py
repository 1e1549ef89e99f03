"""What one home remembers between two `up`s: ports and the settings of the runs to come."""

import json
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from droptune.local_cloud.processes import write_json

DEFAULT_BACKBONE = "mobilenet_v2"
DEFAULT_QUIET_SECONDS = 5
FIRST_PORT = 4566


@dataclass(frozen=True)
class Settings:
    """The settings of one local cloud; every port is on 127.0.0.1."""

    gateway_port: int
    api_port: int
    sagemaker_port: int
    smtp_port: int
    backbone: str = DEFAULT_BACKBONE
    quiet_seconds: int = DEFAULT_QUIET_SECONDS

    def port(self, service: str) -> int:
        """Return the port on which a service (gateway, sagemaker or mailbox) answers."""
        ports = {"gateway": self.gateway_port, "sagemaker": self.sagemaker_port, "mailbox": self.smtp_port}
        return ports[service]

    @property
    def gateway_url(self) -> str:
        """Where every AWS service answers."""
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def api_url(self) -> str:
        """Where the prediction API answers."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def sagemaker_url(self) -> str:
        """Where the SageMaker process answers the gateway."""
        return f"http://127.0.0.1:{self.sagemaker_port}"


def read(file: Path) -> Settings | None:
    """Return the settings in `file`, or None before the first `up`."""
    try:
        return Settings(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None


def settle(
    file: Path, backbone: str | None, quiet_seconds: int | None, port: int | None, listening: Collection[int] = ()
) -> Settings:
    """Return the old settings with what is given changed, and remember them.

    Ports are kept so that URLs stay. Those which no URL shows are chosen anew when another program has taken them
    meanwhile; `listening` names the ports that this local cloud itself has in use.
    """
    old = read(file)
    if old is None or (port is not None and port != old.gateway_port):
        gateway_port, api_port = free_pair() if port is None else (port, port + 1)
        ports = (gateway_port, api_port, _free_port(), _free_port())
    else:
        ports = (old.gateway_port, old.api_port, _kept(old.sagemaker_port, listening), _kept(old.smtp_port, listening))
    if backbone is None:
        backbone = old.backbone if old else DEFAULT_BACKBONE
    if quiet_seconds is None:
        quiet_seconds = old.quiet_seconds if old else DEFAULT_QUIET_SECONDS
    settings = Settings(*ports, backbone=backbone, quiet_seconds=quiet_seconds)
    write_json(file, asdict(settings))
    return settings


def answers(port: int) -> bool:
    """Whether something listens on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_free(port: int) -> bool:
    """Whether a server may listen on 127.0.0.1:`port`."""
    # A client's own end of a connection holds a port too, and is seen by bind alone; on macOS, bind alone lets a
    # server on all interfaces pass.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return not answers(port)


def free_pair() -> tuple[int, int]:
    """Return the first free pair of neighbouring ports from 4566, the usual port of local AWS services, on."""
    for port in range(FIRST_PORT, FIRST_PORT + 400, 2):
        if not answers(port) and not answers(port + 1):
            return port, port + 1
    return _free_port(), _free_port()


def _kept(port: int, listening: Collection[int]) -> int:
    return port if port in listening or is_free(port) else _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
