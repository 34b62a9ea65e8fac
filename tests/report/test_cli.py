"""The command line, through `main`."""

from __future__ import annotations

import json
import sys

import pytest

from jinit.report.cli import main

SETUP = """
import jax, jax.numpy as jnp
from helper_next_door import SIZE

def apply(params, x):
    for w in params["layers"]:
        x = jnp.tanh(x @ w)
    return x

def build(std):
    keys = jax.random.split(jax.random.key(0), 15)
    params = {"layers": [std * jax.random.normal(k, (SIZE, SIZE)) for k in keys]}
    return apply, params, jax.random.normal(jax.random.key(1), (16, SIZE))

def good():
    return build(SIZE**-0.5)

bad = build(0.01)

def broken():
    raise RuntimeError("out of cheese")

def pair():
    return 1, 2

number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_next_door.py").write_text("SIZE = 32\n")
    path = tmp_path / "setup_net.py"
    path.write_text(SETUP)
    yield str(path)
    sys.modules.pop("helper_next_door", None)


AUDITED = """
import flax.linen as nn
import jax
import jax.numpy as jnp

class Net(nn.Module):
    features: int = 16

    @nn.compact
    def __call__(self, x):
        self.param("idle", nn.initializers.zeros, (3,))
        for _ in range(12):
            x = jax.nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.ConvTranspose(self.features, (4, 4), strides=(2, 2))(x)

def model():
    return Net(), jnp.ones((1, 8, 8, 3))

def severe():
    return nn.ConvLocal(24, (3, 3)), jnp.ones((1, 12, 12, 16))
"""


@pytest.fixture
def audited(tmp_path):
    path = tmp_path / "audited_net.py"
    path.write_text(AUDITED)
    return str(path)


def test_audit_names_every_parameter_and_what_is_off(audited, capsys):
    assert main(["audit", f"{audited}:model", "--width", "100"]) == 0
    out = capsys.readouterr().out
    assert "27 parameters: 13 bias, 13 kernel, 1 unused" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "Conv_{1…11}/kernel" in out  # like layers are one line, the first is not like them
    (row,) = [line for line in out.splitlines() if "ConvTranspose_0/kernel" in line and "!" in line]
    assert row.split()[-5:-1] == ["4×4×16×16", "64", "256", "1"]
    assert "with a fan-in of 256" in out
    assert "params/idle: no output depends on it" in out


def test_audit_as_json(audited, capsys):
    assert main(["audit", f"{audited}:model", "--json"]) == 0
    uses = {use["path"]: use for use in json.loads(capsys.readouterr().out)["uses"]}
    assert len(uses) == 27
    wrong = uses["params/ConvTranspose_0/kernel"]
    assert wrong["fan_in"] == 64.0
    assert wrong["wrong_fan"] == {"rule": "LeCun's rule", "fan_in": 256.0, "factor": 0.25}
    assert uses["params/Conv_1/kernel"]["wrong_fan"] is None


def test_audit_of_shapes_alone(audited, capsys):
    assert main(["audit", f"{audited}:severe", "--abstract", "--json"]) == 0
    uses = json.loads(capsys.readouterr().out)["uses"]
    assert {use["gain"] for use in uses} == {None}
    assert main(["audit", f"{audited}:severe"]) == 1


@pytest.mark.slow
def test_exit_status_and_text(file, capsys):
    before = list(sys.path)
    assert main(["diagnose", f"{file}:good", "--width", "70"]) == 0
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert max(map(len, out.splitlines())) <= 70
    assert main(["diagnose", f"{file}:bad"]) == 1
    assert "vanishing_signal" in capsys.readouterr().out
    assert sys.path == before


def test_json_alone_on_stdout(file, capsys):
    assert main(["diagnose", f"{file}:bad", "--json", "--no-backward"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["worst"] == "severe"
    assert {f["kind"] for f in report["findings"]} == {"vanishing_signal"}


@pytest.mark.slow
def test_plot_is_written_whole_or_not_at_all(file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["diagnose", f"{file}:good", "--plot", str(tmp_path / "report.png")]) == 0
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert main(["diagnose", f"{file}:good", "--plot", str(tmp_path / "report.nonsense")]) == 2
    assert main(["diagnose", f"{file}:good", "--plot", str(tmp_path / "nowhere" / "report.png")]) == 2
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"helper_next_door.py", "setup_net.py", "report.png"}
    assert "--plot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("{file}", "expected FILE.py:NAME"),
        ("{file}x:good", "no such file"),
        ("{file}:god", "Did you mean good"),
        ("{file}:number", "is of type int"),
        ("{file}:pair", "is the tuple (int, int)"),
        ("{file}:broken", "RuntimeError: out of cheese"),
    ],
)
def test_wrong_targets(file, capsys, target, words):
    assert main(["diagnose", target.format(file=file)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_code_that_raises(tmp_path, capsys):
    path = tmp_path / "raises.py"
    path.write_text("import does_not_exist_at_all\n")
    assert main(["diagnose", f"{path}:x"]) == 2
    assert "does_not_exist_at_all" in capsys.readouterr().err
    path.write_text("x = (lambda params, x: params @ x.nothing, 1.0, 2.0)\n")
    assert main(["diagnose", f"{path}:x"]) == 2
    assert "diagnosing" in capsys.readouterr().err


def test_of_an_error_only_the_lines_of_the_user_are_shown(tmp_path, capsys):
    path = tmp_path / "net.py"
    path.write_text(
        "import jax.numpy as jnp\n"
        "def apply(params, x):\n"
        "    return x @ params['kernel']\n"
        "target = apply, {'w': jnp.ones((3, 2))}, jnp.ones((4, 3))\n"
    )
    assert main(["diagnose", f"{path}:target"]) == 2
    shown = capsys.readouterr().err
    assert "KeyError: 'kernel'" in shown
    assert "inputs (float32[4,3])" in shown
    assert 'net.py", line 3, in apply' in shown
    assert "/jinit/" not in shown


@pytest.mark.slow
def test_flax_models(tmp_path, capsys):
    path = tmp_path / "models.py"
    path.write_text(
        "import jax.numpy as jnp\nfrom flax import linen, nnx\n"
        "linen_model = linen.Sequential([linen.Dense(32), linen.tanh, linen.Dense(32), linen.tanh])\n"
        "x = jnp.linspace(-1.0, 1.0, 128).reshape(8, 16) ** 2\n"
        "lin = linen_model, x\nalone = linen_model\n"
        "def nnx_pair(): return nnx.Linear(16, 4, rngs=nnx.Rngs(0)), (x,)\n"
    )
    assert main(["diagnose", f"{path}:lin"]) == 0
    assert "params/" in capsys.readouterr().out
    assert main(["diagnose", f"{path}:alone"]) == 2
    assert "return (model, inputs)" in capsys.readouterr().err
    pytest.importorskip("jinit.flax")
    assert main(["diagnose", f"{path}:nnx_pair"]) == 0


def test_wrong_options(file, capsys):
    assert main(["diagnose", f"{file}:good", "--width", "20"]) == 2
    assert "at least 60" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert "jinit" in capsys.readouterr().out
