"""Loading takes the weights' own memory and little more; a cache that cannot fit is refused beforehand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine import cache, memory
from engine.config import parse_config
from engine.engine import Engine
from engine.errors import TokenjouleError
from engine.locate import BUNDLED
from engine.memory import available_bytes
from engine.save import save_quantized
from engine.tensors import expected_shapes
from tests.letters import CountedMeter

ROOT = Path(__file__).parents[1]
MOST = 1.2  # of the weights' bytes: what issue 3 allows
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 8192,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "shape_only": True,
}

# Prints bytes of the weights, and how far the process's memory rose while they were loaded.
LOAD = """
import sys
from engine.config import load_config
from engine.engine import Engine
from engine.memory import give_back
from engine.placement import choose_dtype
from engine.schemes import choose_scheme
from engine.weights import memory_bytes

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

bundled, directory, backend, quantize = sys.argv[1:]
options = {"backend": backend, "quantize": quantize or None, "energy_source": "simulated"}
Engine.load(bundled, dtype="bf16", **options).close()  # imports what is needed, and has it compiled
give_back()
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins again
with Engine.load(directory, **options) as engine:
    config = engine.model.config
    scheme = choose_scheme(options["quantize"], config.quantization)
    print(memory_bytes(config, choose_dtype("auto", config), scheme), status("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 M parameters in bf16, 395 MB."""
    path = tmp_path_factory.mktemp("large")
    (path / "config.json").write_text(json.dumps(CONFIG))
    drawn = (torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()

    def some(*shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return drawn.repeat(-(-count // len(drawn)))[:count].view(shape)

    shapes = expected_shapes(parse_config(CONFIG, {}, "test"))
    save_file({name: some(*shape) for name, shape in shapes.items()}, path / "model.safetensors")
    return path


def rise(directory: Path, backend: str, quantize: str = "") -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(BUNDLED), str(directory), backend, quantize],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    weights, most = map(int, done.stdout.split())
    return weights, most


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_unpacked_weights_are_in_memory_once(directory: Path, backend: str) -> None:
    """Parts of fused matrices were mapped and copied before, which took 1.6 times the weights."""
    weights, most = rise(directory, backend)
    assert 0.9 * weights < most <= MOST * weights


@pytest.mark.slow
def test_packing_while_loading_takes_little_more_than_what_is_packed(directory: Path) -> None:
    weights, most = rise(directory, "cpu", "int8")
    assert 0.9 * weights < most <= MOST * weights


@pytest.mark.slow
def test_saved_packed_weights_are_in_memory_once(directory: Path, tmp_path: Path) -> None:
    save_quantized(str(directory), tmp_path / "int8", "int8")
    weights, most = rise(tmp_path / "int8", "cpu")
    assert 0.9 * weights < most <= MOST * weights


def tell(root: Path, **files: str) -> None:
    """Files below `root` of what the system says, `__` standing for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("memory_", "memory.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


CPU = torch.device("cpu")
VERSION_1 = {
    "memory_limit_in_bytes": 3072 * 1024,
    "memory_usage_in_bytes": 2048 * 1024,
    "memory_stat": "active_file 7\ntotal_active_file 9216",
}


def test_what_is_available_is_the_least_of_system_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert available_bytes(CPU) is None
    tell(tmp_path, proc__meminfo="MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert available_bytes(CPU) == 5000 * 1024
    tell(tmp_path, proc__self__status="VmRSS:\t 700 kB\nRssFile:\t 600 kB\n")
    assert available_bytes(CPU) == 4400 * 1024
    tell(tmp_path, proc__self__cgroup="0::/a/b\n")
    stat = "anon 1\nactive_file 1048576\ninactive_file 1024\n"
    tell(tmp_path, sys__fs__cgroup__a__memory_max="4194304\n", sys__fs__cgroup__a__memory_current="2097152\n")
    tell(tmp_path, sys__fs__cgroup__a__b__memory_max="max\n", sys__fs__cgroup__a__b__memory_current="5\n")
    assert available_bytes(CPU) == (2048 - 600) * 1024
    tell(tmp_path, sys__fs__cgroup__a__memory_stat=stat)
    assert available_bytes(CPU) == (2048 + 1025 - 600) * 1024
    tell(tmp_path, proc__self__cgroup="0::/\n4:memory:/box/inner\n")
    tell(tmp_path, **{f"sys__fs__cgroup__memory__{name}": f"{size}\n" for name, size in VERSION_1.items()})
    assert available_bytes(CPU) == (3072 - 2048 + 9 - 600) * 1024
    tell(tmp_path, sys__fs__cgroup__memory__memory_usage_in_bytes="99999999\n")
    assert available_bytes(CPU) == 0


def test_this_machine_has_some() -> None:
    if Path("/proc/meminfo").exists():
        assert (available_bytes(CPU) or 0) > 1 << 20


def test_more_rows_than_memory_are_refused_and_cost_nothing(
    letters_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 · 3 layers · 2 heads · 12 numbers of fp32 are 576 bytes a position; rows have 2 spare pages of 16."""
    with Engine.load(letters_directory, backend="torch", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        row = (4 + 12 + 2 * 16) * 576
        assert engine.model.cache_bytes(16, rows=2) == row
        cache = engine.model.new_cache(16, rows=2)
        assert row == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        monkeypatch.setattr("engine.request_cache.available_bytes", lambda device: 4 * row)
        prompt = [5, 6, 7, 8]
        prompts = [[*prompt[:3], 8 + number] for number in range(5)]
        assert len(engine.generate_many(prompts[:4], max_new_tokens=12)) == 4
        with pytest.raises(TokenjouleError, match="cache of 80 positions takes 0") as caught:
            engine.generate_many(prompts, max_new_tokens=12)
        assert "\n" not in str(caught.value)
        with pytest.raises(TokenjouleError, match="fewer rows or new tokens"):
            engine.start(prompts[:4], max_new_tokens=60)
        assert len(engine.generate(prompt, max_new_tokens=12).token_ids) == 12
        # 4 positions of the prompt once and 12 of each row, with 2 pages a row and 1 of the prompt's to spare
        monkeypatch.setattr(
            "engine.request_cache.available_bytes", lambda device: (4 + 5 * 12 + 11 * 16) * 576
        )
        assert len(engine.generate_many([prompt] * 5, max_new_tokens=12)) == 5
        monkeypatch.setattr("engine.request_cache.available_bytes", lambda device: 63 * 576)
        with pytest.raises(TokenjouleError, match="cache of 64 positions"):
            engine.start([prompt] * 5, max_new_tokens=12)


def test_a_pool_kept_for_captured_steps_is_room_for_the_next_request(
    letters_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = cache.new_pool

    def new_pool(n_layers: int, shape: tuple[int, int, int], *where: Any) -> Any:
        sizes.append(shape[0] // 16)
        if sizes[-1] > 6:
            raise torch.OutOfMemoryError("no room for a page more")
        return real(n_layers, shape, *where)

    with Engine.load(letters_directory, backend="torch", meter=CountedMeter()) as engine:  # type: ignore[arg-type]
        model = engine.model
        monkeypatch.setattr("engine.model.new_pool", new_pool)
        monkeypatch.setattr(model.backend, "captures", True, raising=False)
        monkeypatch.setattr(model, "device_loop", lambda *_, **__: None)

        def captured_steps(pool: Any) -> Any:
            return SimpleNamespace(pages=len(pool[0].keys) // 16, parts=SimpleNamespace(caches=pool))

        monkeypatch.setattr(model, "captured_steps", captured_steps)
        room = model.cache_bytes(4 * 16, rows=2)
        monkeypatch.setattr("engine.request_cache.available_bytes", lambda device: room - model.kept_bytes)
        for _ in range(2):
            assert len(engine.generate([5, 6, 7, 8], max_new_tokens=60).token_ids) == 60
        assert sizes == [8, 6], "eight pages have no room, six have, and they are kept"
        assert model.kept_bytes == room
