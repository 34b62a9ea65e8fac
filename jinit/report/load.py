"""From `FILE.py:NAME` on the command line to something `diagnose` and others take."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_EXPECTED = (
    "NAME must be, or be a function without arguments that returns, `(apply, params, inputs)` or "
    "`(model, inputs)` with a Flax model, either followed by a loss if you like; `inputs` is one array or a "
    "tuple of them, the loss a function of the outputs to one number"
)


class Target(NamedTuple):
    """A network, and what to run it on.

    Attributes:
      apply: `(params, *inputs) -> outputs`.
      params: its parameters.
      inputs: a batch.
      loss: a function of the outputs to one number, if the file gives one.
    """

    apply: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    loss: Callable[[Any], Any] | None = None


class UsageError(Exception):
    """What was asked for on the command line can't be done; the text says why."""


def load(target: str, *, abstract: bool = False) -> Target:
    """The network in `FILE.py:NAME`.

    Of a linen model the parameters are drawn, or with `abstract` only their shapes are found.

    The folder of the file is on `sys.path` while the file is loaded and NAME is called, so that it can import
    what lies next to it.

    Raises:
      UsageError: there is no such file or name, its code raises, or it is nothing that can be diagnosed.
    """
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        raise UsageError(f"expected FILE.py:NAME, got {target!r}. Example: train.py:setup")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no such file: {file}{_close(path.name, _python_files(path.parent))}")
    with _importing_from(path.resolve().parent):
        value = _named(_module(path), name, file)
        if isinstance(value, (types.FunctionType, types.MethodType)):
            value = _run(value, f"{name}() in {file}")
        return _target(value, target, abstract)


def _python_files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.py")] if folder.is_dir() else []


def _close(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f". Did you mean {' or '.join(close)}?" if close else ""


@contextlib.contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _module(path: Path) -> types.ModuleType:
    # Registered, as dataclasses and pickles in it expect; the prefix keeps it from hiding another module.
    name = f"_jinit_loaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _run(lambda: spec.loader.exec_module(module), str(path))  # type: ignore[union-attr]
    return module


def _run(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{where} raised {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The error and the lines that lead to it, without those of jinit itself."""
    own = str(Path(__file__).parents[1] / "_")[:-1]
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((own, "<frozen"))
    ]
    lines = "".join(traceback.format_list(frames[-6:]))
    notes = "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}\n{notes}{lines}".rstrip()


def _named(module: types.ModuleType, name: str, file: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    names = [known for known in vars(module) if not known.startswith("_")]
    raise UsageError(f"{file} has no name {name!r}{_close(name, names)}")


def _target(value: Any, target: str, abstract: bool) -> Target:
    if not isinstance(value, tuple):
        hint = " A model alone has no inputs: return (model, inputs)." if _is_model(value) else ""
        raise UsageError(f"{target} is of type {type(value).__name__}. {_EXPECTED}.{hint}")
    model = bool(value) and _is_model(value[0])
    given = 2 if model else 3
    if len(value) in (given, given + 1) and callable(value[0]):
        loss = value[given] if len(value) > given else None
        if loss is not None and not callable(loss):
            raise UsageError(f"{target}: its last part, a {type(loss).__name__}, is no loss. {_EXPECTED}.")
        if model:
            return _of_model(value[0], _tuple(value[1]), abstract)._replace(loss=loss)
        return Target(value[0], value[1], _tuple(value[2]), loss)
    kinds = ", ".join(type(item).__name__ for item in value)
    raise UsageError(f"{target} is the tuple ({kinds}). {_EXPECTED}.")


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _is_model(value: Any) -> bool:
    from flax import linen, nnx

    return isinstance(value, (linen.Module, nnx.Module))


def _of_model(model: Any, inputs: tuple[Any, ...], abstract: bool) -> Target:
    import jax
    from flax import nnx

    if isinstance(model, nnx.Module):
        from jinit.flax import functional

        apply, params = functional(model)
        return Target(apply, params, inputs)
    init = functools.partial(jax.eval_shape, model.init) if abstract else model.init
    params = _run(lambda: init(jax.random.key(0), *inputs), f"init of {type(model).__name__}")
    return Target(model.apply, params, inputs)
