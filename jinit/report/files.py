"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinit._typing import PyTree


def write_file(path: Path, write: Callable[[str], None]) -> None:
    """All of a file or nothing: written under another name next to its place, and moved there.

    Args:
      path: where to. What is there already stays as it is until the new file is complete.
      write: writes the file of the given name.

    Raises:
      OSError: it cannot be written there. Whatever `write` raises.
    """
    path = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        write(name)
        os.chmod(name, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Raise if parameters cannot be written to `path`, before anything is computed.

    Raises:
      ValueError: the name does not say which form, or there is something in the way.
    """
    if path.suffix not in ("", ".msgpack"):
        raise ValueError(f"{path} must end in .msgpack, or be the name of a new folder for orbax")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    if path.suffix == "" and path.exists():
        raise ValueError(f"{path} exists: orbax writes to a new folder")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")


def write_params(path: Path, params: PyTree) -> None:
    """Parameters as one msgpack file of flax, or, to a name without a suffix, as a folder of orbax.

    Raises:
      ImportError: orbax is asked for and not installed.
      OSError: it cannot be written there.
      TypeError, ValueError: the format has no place for these parameters, such as a function among them.
    """
    from flax import nnx, serialization

    if isinstance(params, nnx.State):
        params = nnx.to_pure_dict(params)
    if path.suffix == "":
        _write_folder(path, serialization.to_state_dict(params))
        return
    data = serialization.to_bytes(params)

    def write(name: str) -> None:
        with open(name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    write_file(path, write)


def _write_folder(path: Path, state: Any) -> None:
    import orbax.checkpoint as orbax

    path = Path(os.path.realpath(path))
    with _folder_beside(path) as folder, orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "new", state)
        checkpointer.wait_until_finished()
        os.rename(folder / "new", path)  # fails on a folder that holds something


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Any]:
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
