"""Everything the local SageMaker remembers, as JSON documents in one SQLite file."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    UNIQUE (kind, name)
)
"""


class Store:
    """Documents by kind and name. Thread-safe, and safe against a crash at any moment.

    A document is plain JSON; points in time are epoch seconds (float). What a method returns is a
    copy: changing it changes nothing in the store.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        # With NORMAL, WAL may lose the last commits in a power cut.
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def put(self, kind: str, name: str, document: Document) -> None:
        """Writes the document, whether it was there or not; its place in `list` stays."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO documents (kind, name, document) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document",
                (kind, name, _encode(document)),
            )

    def create(self, kind: str, name: str, document: Document) -> None:
        """Writes a new document.

        Raises:
            KeyError: a document of this kind and name exists.
        """
        try:
            with self._transaction() as connection:
                connection.execute(
                    "INSERT INTO documents (kind, name, document) VALUES (?, ?, ?)",
                    (kind, name, _encode(document)),
                )
        except sqlite3.IntegrityError as error:
            raise KeyError(f"{kind} {name} exists already") from error

    def get(self, kind: str, name: str) -> Document | None:
        with self._lock:
            return self._read(kind, name)

    def update(self, kind: str, name: str, **changes: Any) -> Document:
        """Sets top-level members in one step and returns the whole new document.

        Raises:
            KeyError: there is no such document.
        """
        return self.mutate(kind, name, lambda document: document.update(changes))

    def mutate(self, kind: str, name: str, function: Callable[[Document], object]) -> Document:
        """Reads, lets `function` change the document in place, writes; nobody comes between.

        When `function` raises, nothing is written and the exception goes on to the caller.

        Raises:
            KeyError: there is no such document.
        """
        with self._transaction() as connection:
            document = self._read(kind, name)
            if document is None:
                raise KeyError(f"there is no {kind} {name}")
            function(document)
            connection.execute(
                "UPDATE documents SET document = ? WHERE kind = ? AND name = ?",
                (_encode(document), kind, name),
            )
        return document

    def delete(self, kind: str, name: str) -> bool:
        """Returns whether there was such a document."""
        with self._transaction() as connection:
            cursor = connection.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name))
        return cursor.rowcount == 1

    def list(self, kind: str) -> list[Document]:
        """All documents of a kind, in the order of their creation."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT document FROM documents WHERE kind = ? ORDER BY id", (kind,)
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def _read(self, kind: str, name: str) -> Document | None:
        row = self._connection.execute(
            "SELECT document FROM documents WHERE kind = ? AND name = ?", (kind, name)
        ).fetchone()
        if row is None:
            return None
        document: Document = json.loads(row[0])
        return document

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _encode(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
