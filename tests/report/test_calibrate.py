"""`jinit calibrate`, through `main`."""

from __future__ import annotations

import json
import os
import re

import jax
import numpy as np
import pytest
from flax import nnx, serialization

import jinit
from jinit.report.calibrate import options_of
from jinit.report.cli import main
from jinit.report.files import write_params
from jinit.report.load import load

pytestmark = pytest.mark.slow

SETUP = """
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

x = jnp.sin(jnp.arange(32 * 8.0) ** 2).reshape(32, 8)

def loss(y):
    return jnp.mean(jnp.square(y - jnp.ones((), y.dtype)))

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = jnp.tanh(nn.Dense(16)(x))
            x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(4)(x)

model = Net(), x
with_loss = Net(), x, loss
no_loss = Net(), x, 3

def apply(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return x

plain = apply, [0.001 * jnp.cos(jnp.arange(64.0) ** 2).reshape(8, 8)] * 3, (x,), loss
dead = (lambda p, x: jnp.tanh(x @ p[0]) @ p[1] @ p[2]), [0.1 * x.T @ x, jnp.zeros((8, 8)), jnp.eye(8)], x
tied = (lambda w, x: jnp.tanh(x @ w) @ w.T * 0), jnp.eye(8), x

def module():
    return nnx.Linear(8, 4, rngs=nnx.Rngs(0)), x
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net_to_calibrate.py"
    path.write_text(SETUP)
    return str(path)


def run(capsys, *arguments):
    status = main(["calibrate", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_lsuv_before_and_after(file, capsys):
    status, out, _ = run(capsys, f"{file}:plain", "--width", "80")
    assert status == 0
    before, after = out.split("after lsuv")
    assert "WARNING vanishing_signal" in before
    assert "nothing found" in after
    assert "3 sites scaled by" in after
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "method", [pytest.param("equalize", marks=pytest.mark.slow), "compromise", "autoinit"]
)
def test_methods_without_a_loss(file, capsys, method):
    status, out, _ = run(capsys, f"{file}:model", "--method", method, "--json")
    result = json.loads(out)
    assert (status, result["method"]) == (0, method)
    assert set(result["factors"]) >= {f"params/Dense_{i}/kernel" for i in (0, 1)}


@pytest.mark.parametrize("method", ["metainit", pytest.param("gradinit", marks=pytest.mark.slow)])
def test_learned_scales_leave_batch_statistics_alone(file, capsys, tmp_path, method):
    path = tmp_path / "out.msgpack"
    command = [f"{file}:with_loss", "--method", method, "--set", "steps=5", "--set", "learning_rate=0.05"]
    status, out, _ = run(capsys, *command, "--json", "--output", str(path))
    result = json.loads(out)
    assert (status, result["steps"], result["options"]) == (0, 5, {"steps": 5, "learning_rate": 0.05})
    assert result["forward_passes"] > 5
    assert "params/Dense_0/kernel" in result["scales"]
    assert not any(path.startswith("batch_stats") for path in result["scales"])
    params = load(f"{file}:with_loss").params
    written = serialization.from_bytes(params, path.read_bytes())
    jax.tree.map(np.testing.assert_array_equal, written["batch_stats"], params["batch_stats"])
    scale = result["scales"]["params/Dense_0/kernel"]
    expected = scale * params["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(written["params"]["Dense_0"]["kernel"], expected, rtol=1e-6)
    assert scale != 1


def test_a_loss_is_used_by_diagnose_too(file, capsys):
    assert main(["diagnose", f"{file}:plain", "--json"]) == 0
    with_loss = json.loads(capsys.readouterr().out)["rows"][-1]["cotangent_second_moment"]
    target = load(f"{file}:plain")
    _, records = jinit.measure(target.apply, loss=target.loss)(target.params, *target.inputs)
    assert with_loss == pytest.approx(float(list(records.values())[-1].cotangent.second_moment))
    assert main(["diagnose", f"{file}:with_loss", "--no-backward"]) in (0, 1)


def test_written_parameters_are_those_of_the_function(file, capsys, tmp_path):
    target = load(f"{file}:plain")
    expected, _ = jinit.lsuv(target.apply, target=0.5)(target.params, *target.inputs)
    for name in ("params.msgpack", "folder"):
        status, _, err = run(capsys, f"{file}:plain", "--set", "target=0.5", "--output", str(tmp_path / name))
        assert (status, err) == (0, "")
    read = serialization.from_bytes(target.params, (tmp_path / "params.msgpack").read_bytes())
    jax.tree.map(np.testing.assert_array_equal, read, expected)
    orbax = pytest.importorskip("orbax.checkpoint")
    with orbax.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(tmp_path / "folder", serialization.to_state_dict(expected))
    jax.tree.map(np.testing.assert_array_equal, serialization.from_state_dict(expected, state), expected)


def test_a_module_is_written_as_a_pure_dict(file, capsys, tmp_path):
    assert run(capsys, f"{file}:module", "--output", str(tmp_path / "nnx.msgpack"))[0] == 0
    target = load(f"{file}:module")
    pure = nnx.to_pure_dict(target.params)
    read = serialization.from_bytes(pure, (tmp_path / "nnx.msgpack").read_bytes())
    expected, _ = jinit.lsuv(target.apply)(target.params, *target.inputs)
    np.testing.assert_array_equal(read["kernel"], nnx.to_pure_dict(expected)["kernel"])


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_file_survives_a_failure(tmp_path, monkeypatch, broken):
    path = tmp_path / "out.msgpack"
    path.write_bytes(b"precious")
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            write_params(path, {"w": np.ones(3)})
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]
    write_params(path, {"w": np.ones(3)})
    assert path.read_bytes() != b"precious"


def test_a_failure_to_write_is_told(file, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    status, out, err = run(capsys, f"{file}:plain", "--output", str(tmp_path / "out.msgpack"))
    assert (status, out) == (2, "")
    assert "disk full" in err


def test_what_is_left_is_named(file, capsys):
    status, out, _ = run(capsys, f"{file}:tied", "--set", "inexact=skip")
    assert "2 left" in out
    assert "used at 2 places" in out
    assert status in (0, 1)


def test_the_counts_add_up(file, capsys):
    out = run(capsys, f"{file}:dead")[1]
    assert re.search(r"jinit calibrate: 1 site scaled by \S+, 2 left\n", out)
    out = run(capsys, f"{file}:dead", "--set", "sites=0")[1]
    assert re.search(r"jinit calibrate: 1 site scaled by \S+, 2 as before\n", out)
    out = run(capsys, f"{file}:dead", "--set", "per_unit=true", "--set", "sites=['1', '2']")[1]
    assert "jinit calibrate: nothing scaled, 2 left, 1 as before\n" in out


def test_options_are_read_by_kind():
    settings = ["center=false", "per_unit=True", "sites=1", "max_passes=3", "target=1e-3"]
    expected = {"center": False, "per_unit": True, "sites": "1", "max_passes": 3, "target": 1e-3}
    assert options_of("lsuv", settings) == expected
    assert options_of("lsuv", ["sites=['a', 'b']"]) == {"sites": ["a", "b"]}


WRONG = [
    (["model", "--set", "center=0"], "--set center=0: expected true or false, got 0"),
    (["model", "--set", "max_passes=few"], "`max_passes` must be a whole number; got max_passes='few'"),
    (["model", "--method", "metainit"], "needs a loss"),
    (["model", "--method", "magic"], "invalid choice"),
    (["model", "--set", "targt=1"], "did you mean target?"),
    (["model", "--set", "x=1"], "with an option of lsuv; there are target"),
    (["model", "--set", "target=-1"], "must be a positive number"),
    (["model", "--output", "x.zip"], "must end in .msgpack"),
    (["model", "--output", "nowhere/x.msgpack"], "there is no folder nowhere"),
    (["model", "--output", "."], "exists: orbax writes to a new folder"),
    (["no_loss"], "its last part, a int, is no loss"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_use(file, capsys, arguments, words):
    name, *rest = arguments
    status, out, err = run(capsys, f"{file}:{name}", *rest)
    assert (status, out) == (2, "")
    assert words in err


def test_parameters_that_no_format_takes(file, capsys, tmp_path):
    odd = tmp_path / "odd.py"
    odd.write_text(
        SETUP + "\nodd = (lambda p, x: jnp.tanh(x @ p['w'])), {'w': jnp.eye(8), 'act': jnp.tanh}, x\n"
    )
    status, _, err = run(capsys, f"{odd}:odd", "--output", str(tmp_path / "odd.msgpack"))
    assert status == 2
    assert "--output" in err
    assert not (tmp_path / "odd.msgpack").exists()
