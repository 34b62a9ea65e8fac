"""How the house is laid out, held by parsing it. Each checker is also fed something it must refuse."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A group may import from groups of a lower level, and from itself. `_` stands for the `_*.py` at the top.
LEVELS = {
    "_": 0,
    "initializers": 1,
    "jaxprs": 1,
    "meanfield": 2,
    "signals": 2,
    "plans": 2,
    "flax": 3,
    "calibrate": 3,
    "spectra": 3,
    "report": 4,
    "jinit": 5,
}
FILE_LINES, FUNCTION_LINES = 300, 50
OPTIONAL = ("equinox", "haiku", "matplotlib", "pytest", "rich", "sklearn")

Complaints = list[str]


def sources(*folders: str) -> Iterator[tuple[Path, str]]:
    """Yields path (relative to the repository) and text of every Python file."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), path.read_text()


def imports(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yields line and absolute dotted name of everything imported, wherever in the file it is."""
    package = path.parts[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def group(dotted: str) -> str:
    """Returns the key of `LEVELS` that a dotted name belongs to; the public surface is `jinit`."""
    parts = dotted.split(".")
    if len(parts) < 2 or parts[1].startswith("__"):
        return "jinit"
    return "_" if parts[1].startswith("_") else parts[1]


def bad_layers(path: Path, text: str) -> Complaints:
    own = group(".".join(path.with_suffix("").parts))
    if own not in LEVELS:
        return [f"{path}: {own!r} has no level in tests/test_house.py"]
    complaints = []
    for line, dotted in imports(path, text):
        theirs = group(dotted)
        theirs = theirs if theirs in LEVELS else "jinit"  # `from jinit import he_normal`
        if dotted.split(".")[0] == "jinit" and theirs != own and LEVELS[theirs] >= LEVELS[own]:
            complaints.append(f"{path}:{line}: {own} ({LEVELS[own]}) imports {dotted} ({LEVELS[theirs]})")
    return complaints


def private_jax(path: Path, text: str) -> Complaints:
    imported = [(line, name) for line, name in imports(path, text) if name.startswith("jax._")]
    reached = [
        (node.lineno, f"….{node.attr}")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "_src"
    ]
    return [f"{path}:{line}: {name} is private to JAX" for line, name in [*imported, *reached]]


def internals(path: Path, text: str) -> Complaints:
    """Experiments live on the public names, as a user does."""
    return [
        f"{path}:{line}: {dotted} is not a public name of jinit"
        for line, dotted in imports(path, text)
        if dotted.startswith("jinit.") and (group(dotted) in LEVELS or dotted.count(".") > 1)
    ]


def too_long(path: Path, text: str) -> Complaints:
    complaints = []
    if (lines := text.count("\n")) > FILE_LINES:
        complaints.append(f"{path}: {lines} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None and node.body[0].end_lineno is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > FUNCTION_LINES:
                complaints.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    return complaints


def bad_surface(text: str) -> Complaints:
    """A public surface is a docstring, sorted `from jinit.x import y as y`, and `__version__`.

    A public submodule is imported as `from jinit import x as x`, which sorts before all others.
    """
    complaints, modules = [], []
    body = ast.parse(text).body
    if ast.get_docstring(ast.parse(text)) is None:
        complaints.append("no docstring")
    for node in body[1:] if not complaints else body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            continue
        if isinstance(node, ast.ImportFrom):
            modules.append(f"{'.' * node.level}{node.module}.".replace("jinit.", ".", 1).rstrip(".") or ".")
            if not modules[-1].startswith(".") or any(alias.asname != alias.name for alias in node.names):
                complaints.append(f"line {node.lineno}: not `from jinit.x import y as y`")
        elif not (isinstance(node, ast.Assign) and ast.unparse(node.targets) == "__version__"):
            complaints.append(f"line {node.lineno}: {ast.unparse(node)}")
    if modules != sorted(modules, key=str.lower):
        complaints.append("imports are not sorted")
    return complaints


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def loaded(statement: str) -> set[str]:
    """Returns the top-level packages in `sys.modules` of a fresh interpreter after `statement`."""
    done = run(f"{statement}\nimport sys\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("check", "folders"),
    [
        (bad_layers, ["jinit"]),
        (private_jax, ["jinit", "tests", "experiments"]),
        (internals, ["experiments"]),
        (too_long, ["jinit", "tests", "experiments"]),
    ],
)
def test_every_file(check, folders):
    assert [complaint for path, text in sources(*folders) for complaint in check(path, text)] == []


def test_every_file_is_seen():
    assert {Path("jinit/__init__.py"), Path("tests/test_house.py")} <= {
        path for path, _ in sources("jinit", "tests")
    }


@pytest.mark.parametrize("surface", ["jinit/__init__.py", "jinit/meanfield/__init__.py"])
def test_surface(surface):
    assert bad_surface((ROOT / surface).read_text()) == []


LONG = "def f():\n" + "    x = 0\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (bad_layers, "jinit/jaxprs/walk.py", "from jinit.signals.moments import Moments"),
        (bad_layers, "jinit/jaxprs/walk.py", "from ..initializers import laws"),
        (bad_layers, "jinit/jaxprs/walk.py", "def f():\n    import jinit"),
        (bad_layers, "jinit/signals/__init__.py", "from jinit import he_normal"),
        (bad_layers, "jinit/_compat.py", "from .jaxprs import walk"),
        (bad_layers, "jinit/flax.py", "import jinit.calibrate.lsuv"),
        (bad_layers, "jinit/kitchen/sink.py", ""),
        (private_jax, "jinit/_compat.py", "from jax._src import core"),
        (private_jax, "jinit/_compat.py", "from jax import _src"),
        (private_jax, "jinit/_compat.py", "import jax\njax._src.core"),
        (internals, "experiments/depth.py", "from jinit.signals import moments"),
        (internals, "experiments/depth.py", "import jinit.signals.moments"),
        (internals, "experiments/depth.py", "from jinit import _errors"),
        (too_long, "jinit/_compat.py", "\n" * (FILE_LINES + 1)),
        (too_long, "jinit/_compat.py", LONG),
    ],
)
def test_every_check_can_fail(check, path, text):
    assert len(check(Path(path), text)) == 1


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (bad_layers, "jinit/signals/measure.py", "from . import moments\nfrom ..jaxprs import walk"),
        (bad_layers, "jinit/_compat.py", "from jinit._errors import message"),
        (bad_layers, "jinit/__init__.py", "from jinit.report.findings import Report as Report"),
        (internals, "experiments/depth.py", "import jinit\nfrom jinit import he_normal"),
        (too_long, "jinit/_compat.py", f'def f():\n    """{LONG}"""\n    return 0'),
    ],
)
def test_no_check_fails_too_much(check, path, text):
    assert check(Path(path), text) == []


@pytest.mark.parametrize(
    "text",
    [
        "from jinit.a import b as b",
        '"""Doc."""\nfrom jinit.a import b',
        '"""Doc."""\nfrom numpy import pi as pi',
        '"""Doc."""\nfrom jinit.b import y as y\nfrom jinit.a import x as x',
        '"""Doc."""\nfrom jinit.b import y as y\nfrom jinit import a as a',
        '"""Doc."""\nimport jax',
        '"""Doc."""\nx = 1',
    ],
)
def test_surface_check_can_fail(text):
    assert len(bad_surface(text)) == 1


def test_importing_jinit_loads_nothing_optional():
    assert loaded("import jinit") & set(OPTIONAL) <= loaded("import flax")
    assert loaded("import matplotlib") & set(OPTIONAL)


@pytest.mark.parametrize(("code", "works"), [("import jinit", True), ("import jax; jax.devices()", False)])
def test_importing_jinit_starts_no_backend(code, works):
    done = run(code, JAX_PLATFORMS="nowhere")  # no such backend, so that starting one fails
    assert (done.returncode == 0) == works, done.stderr


@pytest.mark.slow
def test_importing_jinit_is_quick(tmp_path):
    ours, theirs = "import jinit", "import flax.linen, flax.nnx"
    # Both from bytecode, as an installed package has it, also where an environment forbids writing it.
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(statement: str) -> float:  # of the processor: what else runs here takes turns with it
        start = os.times()
        assert run(statement, **bytecode).returncode == 0
        return os.times().children_user - start.children_user

    first = seconds(ours)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(7)]
    # Beside other tests either takes up to a third longer, but one after another alike.
    assert min(a / b for a, b in pairs) < 1.4
    assert first > max(a for a, _ in pairs)  # bytecode was there
