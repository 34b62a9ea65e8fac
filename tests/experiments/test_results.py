"""What is committed agrees with itself: numbers, words, figures and the page.

Slow: every experiment, small.
"""

from __future__ import annotations

import json
import math
import shutil

import pytest

from experiments import __main__ as command
from experiments import _results as results

NAMES = results.EXPERIMENTS


def everything(items, /):
    """No progress shown."""
    return items


def numbers(value):
    """All numbers of a tree."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.parametrize("name", NAMES)
def test_committed_words_are_those_of_the_numbers(name):
    found = results.read(name)
    assert found is not None
    assert found == results.retold(found)
    assert found["claims"]
    assert all(claim["found"][-1] == "." for claim in found["claims"])
    assert (results.ROOT / results.FOLDER / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert found["made_with"]["processor_seconds"] < 2 * 180  # three minutes on two cores


def test_words_follow_the_numbers(tmp_path):
    found = results.read("fan_in_spread")
    assert found is not None
    found["data"]["10"]["deviation"] = 0.5
    claims = results.retold(found)["claims"]
    assert claims != found["claims"]
    assert claims[0]["holds"] == "in 2 of 3"


def test_page_is_that_of_the_committed_results():
    assert (results.ROOT / results.PAGE).read_text() == results.page()


def test_page_follows_the_results(tmp_path):
    shutil.copytree(results.ROOT / results.FOLDER, tmp_path / results.FOLDER)
    path = tmp_path / results.FOLDER / "symmetry.json"
    found = json.loads(path.read_text())
    found["claims"][0]["found"] = "otherwise."
    path.write_text(json.dumps(found))
    assert "**Found:** otherwise." in results.page(tmp_path)
    path.unlink()
    assert "# Units that start equal" not in results.page(tmp_path)


def test_list_names_every_experiment(capsys):
    command.main(["list"])
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in (*NAMES, *command.OTHERS))


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["run", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_a_result_is_written_whole(tmp_path):
    old = results.read("crosswise")
    assert old is not None
    found = results.result("crosswise", old["data"], processor_seconds=1.2)
    results.write("crosswise", found, tmp_path)
    assert json.loads((tmp_path / results.FOLDER / "crosswise.json").read_text()) == found
    assert (tmp_path / results.FOLDER / "crosswise.png").read_bytes()[:4] == b"\x89PNG"
    assert "took 1 s of processor time" in (tmp_path / results.PAGE).read_text()
    assert found["claims"] == old["claims"]


@pytest.mark.slow
@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", NAMES)
def test_small_run(name, tmp_path):
    if lacking := results.missing(name):
        pytest.skip(lacking)
    data = results.load(name).run(everything, small=True)
    found = results.result(name, data, processor_seconds=1.0)
    assert any(math.isfinite(number) for number in numbers(found["data"]))
    results.write(name, found, tmp_path)
    assert json.loads((tmp_path / results.FOLDER / f"{name}.json").read_text()) == found
    assert f"experiments/{name}.png" in (tmp_path / results.PAGE).read_text()
    committed = results.read(name)
    assert committed is not None
    assert found["data"].keys() == committed["data"].keys()
    assert len(found["claims"]) == len(committed["claims"])
