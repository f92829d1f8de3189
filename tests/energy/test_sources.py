"""Names to meters: what is chosen, what is refused and in which words."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.energy import estimate, nvml, rapl
from engine.energy.simulated import SimulatedProfile, VirtualClock
from engine.energy.sources import SOURCES, open_meter, require_measured
from engine.errors import MeterError, UsageError


@pytest.fixture(autouse=True)
def no_watts_variable(monkeypatch):
    monkeypatch.delenv(estimate.WATTS_VARIABLE, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """NVML meters that remember what they were opened with."""

    def pretend(name):
        return lambda uuid, clock: SimpleNamespace(name=name, uuid=uuid, clock=clock, measured=True, note="")

    monkeypatch.setattr(nvml, "uuid_of_cuda_device", lambda index: f"GPU-{index}")
    monkeypatch.setattr(nvml, "NvmlCounterMeter", pretend("nvml"))
    monkeypatch.setattr(nvml, "NvmlPowerMeter", pretend("nvml-power"))


@pytest.fixture
def no_rapl(monkeypatch):
    def refuse(clock):
        raise MeterError("no RAPL here")

    monkeypatch.setattr(rapl, "RaplMeter", refuse)


@pytest.mark.parametrize("source", ["auto", "nvml", "nvml-power"])
def test_gpu(gpus, source):
    clock = VirtualClock()
    meter = open_meter(source, cuda_device=3, clock=clock)
    name = "nvml" if source == "auto" else source
    assert (meter.name, meter.uuid, meter.clock) == (name, "GPU-3", clock)


def test_auto_on_a_gpu_does_not_fall_back(monkeypatch, gpus):
    def refuse(uuid, clock):
        raise MeterError("no counter")

    monkeypatch.setattr(nvml, "NvmlCounterMeter", refuse)
    with pytest.raises(MeterError, match="no counter"):
        open_meter("auto", cuda_device=0)


@pytest.mark.parametrize("source", ["nvml", "nvml-power"])
def test_nvml_without_a_gpu(source):
    with pytest.raises(MeterError, match=f"'{source}' measures a CUDA GPU, and the model runs on the CPU"):
        open_meter(source, cuda_device=None)


def test_auto_on_a_cpu_prefers_rapl(monkeypatch):
    monkeypatch.setattr(rapl, "RaplMeter", lambda clock: SimpleNamespace(name="rapl"))
    assert open_meter("auto", cuda_device=None).name == "rapl"


def test_auto_on_a_cpu_estimates_and_says_why(no_rapl):
    meter = open_meter("auto", cuda_device=None)
    assert meter.name == "estimate"
    assert "rapl was not used: no RAPL here" in meter.note


def test_auto_does_not_swallow_bad_usage(no_rapl, monkeypatch):
    monkeypatch.setenv(estimate.WATTS_VARIABLE, "plenty")
    with pytest.raises(UsageError, match="plenty"):
        open_meter("auto", cuda_device=None)


def test_rapl_asked_for_is_rapl_or_nothing(no_rapl):
    with pytest.raises(MeterError, match="no RAPL here"):
        open_meter("rapl", cuda_device=None)


def test_estimate():
    assert open_meter("estimate", cuda_device=None).name == "estimate"
    with pytest.raises(UsageError, match="covers CPUs only in this version"):
        open_meter("estimate", cuda_device=0)


def test_rapl_does_not_measure_a_gpu():
    with pytest.raises(UsageError, match="rapl measures CPUs"):
        open_meter("rapl", cuda_device=0)


@pytest.mark.parametrize("cuda_device", [None, 0])
def test_simulated(tmp_path, cuda_device):
    assert open_meter("simulated", cuda_device=cuda_device).profile == SimulatedProfile()
    assert open_meter("simulated:default", cuda_device=cuda_device).profile == SimulatedProfile()
    path = tmp_path / "odd:name.json"
    path.write_text('{"decode_w": 10}')
    assert open_meter(f"simulated:{path}", cuda_device=cuda_device).profile.decode_w == 10
    with pytest.raises(UsageError, match="neither built in"):
        open_meter("simulated:nowhere", cuda_device=cuda_device)


def test_replay(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("".join(f'{{"event": "reading", "time_s": {t}, "energy_uj": {t}}}\n' for t in range(3)))
    clock = VirtualClock()
    meter = open_meter(f"replay:{path}", cuda_device=None, clock=clock)
    meter.play()
    clock.sleep(2.0)
    assert meter.read().energy_uj == 2


@pytest.mark.parametrize("source", ["replay", "replay:", "simulated:"])
def test_missing_file(source):
    with pytest.raises(UsageError, match="lacks its file"):
        open_meter(source, cuda_device=None)


@pytest.mark.parametrize("source", ["", "NVML", "nvml:0", "watts", "auto:", "simulated[:PROFILE]"])
def test_unknown_lists_the_choices(source):
    with pytest.raises(UsageError) as error:
        open_meter(source, cuda_device=None)
    for choice in SOURCES:
        assert choice in str(error.value)


def test_require_measured():
    require_measured(SimpleNamespace(measured=True, name="nvml", note=""))
    with pytest.raises(MeterError, match=r"'estimate' is not one .*nothing was measured"):
        require_measured(open_meter("estimate", cuda_device=None))


def test_sources_import_nothing_heavy():
    code = (
        "import sys; from engine.energy.sources import open_meter; open_meter('estimate', cuda_device=None);"
        "print([name for name in ('torch', 'numpy', 'pynvml') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
