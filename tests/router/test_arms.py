import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.routing.ways import arm_name, parsed, ways
from engine.energy.curve_store import save_curve
from engine.errors import TokenjouleError
from engine.locate import MODELS
from router.arms import DEFAULT, load_arms
from tests.curves import curve
from tests.stop.test_rule import stopping

GOOD = """fallback = "b"
memory_gb = 2

[models.near]
local = "bundled:chain"
quantize = "int8"

[models.far]
base_url = "http://127.0.0.1:1/v1"
served = "big"
joules_per_token = 0.2

[[arms]]
name = "a"
model = "near"
technique = "direct"

[[arms]]
name = "b"
model = "near"
technique = "cot"
directive = "brief"
budget_tokens = 64

[[arms]]
name = "c"
model = "near"
technique = "vote"
samples = 3
temperature = 0.8
budget_tokens = 64

[[arms]]
name = "d"
model = "far"
technique = "direct"
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "arms.toml"
    path.write_text(text)
    return load_arms(path)


def test_arms_are_read(tmp_path):
    arms = load(tmp_path, GOOD)
    assert [arm.name for arm in arms.arms] == ["a", "b", "c", "d"]
    assert arms["b"].directive == "brief" and arms["c"].samples == 3
    near = arms.models["near"].options()
    assert (near["model"], near["quantize"]) == ("bundled:chain", "int8")
    assert (arms.fallback, arms.memory_gb) == ("b", 2.0)


def test_a_model_names_its_curve_beside_the_file_and_an_arm_stops_by_its_rule(tmp_path, monkeypatch):
    save_curve(replace(curve(), stopping=stopping()), tmp_path / "near.json")
    monkeypatch.chdir("/")
    text = GOOD.replace('quantize = "int8"', 'quantize = "int8"\ncurve = "near.json"')
    arms = load(tmp_path, text)
    assert arms.models["near"].options()["curve"] == str(tmp_path / "near.json")
    assert arms["b"].stop == "none"
    auto = load(tmp_path, text.replace('directive = "brief"', 'directive = "brief"\nstop = "auto"'))
    assert auto["b"].stop == "auto" and auto["b"].family != arms["b"].family
    before = arms.digest
    assert len({before, auto.digest, load(tmp_path, GOOD).digest}) == 3
    save_curve(replace(curve(), measured=True, stopping=stopping()), tmp_path / "near.json")
    assert load(tmp_path, text).digest != before, "another curve under the same name"


def test_the_arms_that_come_along_are_those_that_the_test_bed_asks():
    arms = load_arms()
    models = {name: model.local for name, model in arms.models.items()}
    assert models == {name: f"bundled:{name}" for name in ("testbed-s", "testbed-l")}
    assert [arm.name for arm in arms.arms] == [arm_name(model, way) for model in models for way in ways()]
    for arm in arms.arms:
        way = parsed(arm.name)[1]
        asked = (arm.technique, arm.budget_tokens, arm.samples)
        assert asked == (way.family.split("-")[0], way.budget_tokens, way.samples)
        assert arm.temperature == (0.0 if arm.technique == "direct" else 1.0)
    assert {arm.technique for arm in arms.arms} == {"direct", "cot", "vote"}
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^router = \["arms\.toml"\]$', pyproject, re.MULTILINE), "they are in the wheel"
    assert DEFAULT.name == "arms.toml"


def test_a_server_votes_and_thinks_as_a_local_model_does(tmp_path):
    local = '[[arms]]\nname = "c"\nmodel = "near"'
    assert local in GOOD
    arms = load(tmp_path, GOOD.replace(local, local.replace("near", "far")))
    assert (arms["c"].technique, arms["c"].samples, arms["c"].model) == ("vote", 3, "far")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('quantize = "int8"', 'quantize = "int3"', 6, "models.near: quantize"),
        ('quantize = "int8"', 'quantise = "int8"', 6, "missing or unknown: models.near.quantise"),
        ('served = "big"\n', "", 8, "missing or unknown: models.far.served"),
        ("joules_per_token = 0.2", "joules_per_token = -1", 11, "models.far: joules_per_token"),
        ("joules_per_token = 0.2", "retries = -1", 11, "models.far: retries"),
        ("joules_per_token = 0.2", 'local = "bundled:chain"', 11, "missing or unknown: models.far.local"),
        (
            'technique = "direct"\n\n[[arms]]\nname = "b"',
            'technique = "guess"\n\n[[arms]]\nname = "b"',
            16,
            "arms[0]: technique",
        ),
        ('directive = "brief"', 'directive = "chatty"', 22, "arms[1]: directive"),
        (
            'budget_tokens = 64\n\n[[arms]]\nname = "c"',
            '\n[[arms]]\nname = "c"',
            18,
            "arms[1]: budget_tokens",
        ),
        ("samples = 3", "samples = 1", 29, "arms[2]: samples"),
        ("samples = 3", 'samples = "3"', 29, "arms[2].samples"),
        ("samples = 3", "samples = 99", 29, "samples must be"),
        ("temperature = 0.8\n", "", 29, "temperature"),
        ('name = "d"', 'name = "a"', 34, "name: another"),
        ('model = "far"', 'model = "moon"', 35, "model: there is none"),
        ('directive = "brief"', 'stop = "auto"', 22, "arms[1]: stop: auto is the stopping rule"),
        ('directive = "brief"', 'stop = "soon"', 22, "arms[1]: stop: unknown stop policy 'soon'"),
        ('quantize = "int8"', 'curve = "none.json"', 6, "models.near: curve: there is no file"),
        (
            'name = "d"\nmodel = "far"\ntechnique = "direct"',
            'name = "d"\nmodel = "far"\ntechnique = "cot"\nstop = "tail:k=2"\nbudget_tokens = 9',
            37,
            "local models alone can be stopped",
        ),
        ('fallback = "b"', 'fallback = "z"', 1, "fallback"),
        ("memory_gb = 2", "memory_gb = 0", 2, "memory_gb"),
        ("memory_gb = 2", "memory = 2", None, "memory"),
        ("memory_gb = 2", "memory_gb = = 2", None, "line 2"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(tmp_path, old, new, line, said):
    assert GOOD.count(old) == 1
    with pytest.raises(TokenjouleError) as error:
        load(tmp_path, GOOD.replace(old, new))
    message = str(error.value)
    assert "arms.toml" in message and said in message and "\n" not in message
    if line is not None:
        assert f"line {line}" in message


@pytest.mark.parametrize(
    "text", ["", "arms = 3", 'fallback = "a"\n[models.m]\nlocal = "bundled:chain"\n', "models = []"]
)
def test_a_file_without_arms_is_one_line(tmp_path, text):
    with pytest.raises(TokenjouleError, match=r"arms\.toml"):
        load(tmp_path, text)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(TokenjouleError, match=r"none\.toml"):
        load_arms(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('budget_tokens = 64\n\n[[arms]]\nname = "c"', 'budget_tokens = 65\n\n[[arms]]\nname = "c"'),
        ('quantize = "int8"', 'quantize = "int4"'),
        ("0.2", "0.3"),
    ],
)
def test_the_digest_changes_with_whatever_changes_an_arm(tmp_path, old, new):
    arms = load(tmp_path, GOOD)
    assert load(tmp_path, GOOD.replace(old, new)).digest != arms.digest
    assert load(tmp_path, "# a remark\n" + GOOD).digest == arms.digest


def test_an_estimator_is_bound_to_the_weights_and_not_to_how_long_a_server_is_waited_for(tmp_path):
    usual = load(tmp_path, GOOD).digest
    patient = GOOD.replace("joules_per_token = 0.2", "joules_per_token = 0.2\ntimeout_s = 9\nretries = 4")
    assert load(tmp_path, patient).digest == usual
    assert load(tmp_path, GOOD.replace('served = "big"', 'served = "bigger"')).digest != usual
    copy = tmp_path / "copy"
    shutil.copytree(MODELS / "chain", copy)
    text = GOOD.replace("bundled:chain", str(copy))
    before = load(tmp_path, text).digest
    assert load(tmp_path, text).digest == before
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # a last bit of the weights: size and shapes are the same
    weights.write_bytes(content)
    assert load(tmp_path, text).digest != before
