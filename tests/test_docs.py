"""The documentation is complete and its examples run: docstrings, the API page, README and guides."""

from __future__ import annotations

import importlib.metadata
import inspect
import operator
import os
import re
import subprocess
import types
from pathlib import Path

import pytest

import jinit

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PAGES = [pytest.param(page, marks=pytest.mark.slow) for page in ("README.md", *GUIDES)]
SUBMODULES = ("meanfield",)
COMMAND = re.compile(r"^<!-- (.+) command -->\n```sh\n(.+)\n```$", re.MULTILINE)


def public_names() -> list[str]:
    """The names of `jinit`, and those of its public submodules with the name of the submodule in front."""

    def names(module: types.ModuleType) -> list[str]:
        hidden = (types.ModuleType, type(annotations))
        return [
            name for name, value in vars(module).items() if name[0] != "_" and not isinstance(value, hidden)
        ]

    inner = (f"{module}.{name}" for module in SUBMODULES for name in names(getattr(jinit, module)))
    return sorted([*names(jinit), *inner])


def documented(page: str) -> list[str]:
    """The names that an API page lists."""
    names = re.findall(r"^\.\. auto(?:function|class|data):: ([\w.]+)$", page, re.MULTILINE)
    return sorted(name.removeprefix("jinit.") for name in names)


def flaws(doc: str | None) -> list[str]:
    """What a public docstring lacks."""
    if not doc:
        return ["no docstring"]
    needed = {"Example": r"^Examples?:", "doctest": r"^ *>>> "}
    lacking = [part for part, pattern in needed.items() if not re.search(pattern, doc, re.MULTILINE)]
    # Code ends, for Sphinx, where no letter follows: the rest of the paragraph would be code.
    paragraphs = re.split(r"\n\s*\n|>>>.*", doc.replace("``", ""))
    run_on = [end for p in paragraphs for end in re.findall(r"`[^`]*(`\w*)", p) if len(end) > 1]
    return lacking + [f"code that runs on: {end}" for end in run_on]


def blocks(page: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_there_are_public_names():
    assert {"he_normal", "measure", "diagnose", "meanfield.fixed_point"} <= set(public_names())


@pytest.mark.parametrize("name", public_names())
def test_docstring(name):
    assert flaws(inspect.getdoc(operator.attrgetter(name)(jinit))) == []


def test_docstring_check_can_fail():
    assert flaws(None) == ["no docstring"]
    assert flaws("Draws.") == ["Example", "doctest"]
    assert flaws("Draws.\n\nExample:\n    >>> 1\n    1") == []
    assert flaws("Of `a`s, `b`.\n\nExample:\n    >>> 1\n    1") == ["code that runs on: `s"]


def test_api_page_lists_every_public_name_once():
    assert documented((ROOT / "docs/api.md").read_text()) == public_names()


def test_guide_names_every_initializer():
    section = (ROOT / "docs/api.md").read_text().split("\n## ")[1]
    assert section.startswith("Initializers")
    guide = (ROOT / "docs/initializers.md").read_text()
    unnamed = [name for name in documented(section) if not re.search(rf"`{name}(\(\))?`", guide)]
    assert [name for name in unnamed if not name.startswith(("kaiming_", "xavier_"))] == []


def test_api_page_check_can_fail():
    assert documented(".. autofunction:: a\n.. autoclass:: B\n   :members:\nautofunction:: c") == ["B", "a"]


@pytest.mark.standard_promotion
@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks((ROOT / page).read_text())):
        exec(compile(block, f"{page}, example {number}", "exec", dont_inherit=True), namespace)


def test_pages_have_examples():
    assert blocks("text\n```python\nx = 1\n```\n```sh\nls\n```\n") == ["x = 1\n"]
    assert len(blocks((ROOT / "README.md").read_text())) >= 3


def test_readme_has_both_commands():
    commands = dict(COMMAND.findall((ROOT / "README.md").read_text()))
    assert set(commands) == {"demo", "test"}
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands.values())


def test_version_is_told_once():
    version = importlib.metadata.version("jinit")
    assert getattr(jinit, "__version__", version) == version
    assert re.search(
        rf"^## \[{re.escape(version)}\]|^## \[Unreleased\]", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


@pytest.mark.parametrize("what", ["demo", "test"])
def test_ci_runs_the_command_of_the_readme(what):
    if not (ROOT / ".ci/run").exists():
        pytest.skip("not a checkout")
    done = subprocess.run(
        [ROOT / ".ci/run", "--show", what],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == dict(COMMAND.findall((ROOT / "README.md").read_text()))[what]
