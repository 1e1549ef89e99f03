"""droptune: labelled images in, a live classifier out. `droptune.Client` talks to a running system."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from droptune.api_client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    # The command starts without its import.
    if name == "Client":
        from droptune.api_client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
