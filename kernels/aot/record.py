"""What a piece of code would launch on a GPU: each kernel in the variant that Triton itself would compile.

Launch functions run as they are, on tensors of torch's meta device, which have all that a variant depends on
and no memory. Only Triton's device and compiler are taken away: binding of arguments, specialisation (16-byte
alignment, multiples of 16, the value 1) and options are Triton's own. No driver and no CUDA context is made.

Replaced are three names of `triton.runtime.jit`: `driver`, `JITFunction.run`, and `._do_compile` with its
parameters (key, signature, device, constants, options, attributes, …), which Triton 3.4 and 3.7 both have.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any

import triton
import triton.runtime.jit as triton_jit
from torch import Tensor
from triton.backends.compiler import GPUTarget

WARP = 32  # threads


@dataclass(frozen=True, slots=True)
class Variant:
    """One compilation: hashable, and able to travel to another process.

    `kernel`: "module:name". `capability`: 90 is compute capability 9.0. `signature`: Triton's type of each
    parameter in order. `constants`, `attributes`: by position of the parameter. `options`: all of Triton's.
    """

    kernel: str
    capability: int
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], tuple[tuple[str, Any], ...]], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The kernel's own name."""
        return self.kernel.partition(":")[2]

    @property
    def warps(self) -> int:
        """Per program."""
        return int(dict(self.options)["num_warps"])

    @property
    def dependent(self) -> bool:
        """Whether it is launched while the kernel before it still runs."""
        return bool(dict(self.options)["launch_pdl"])

    @property
    def parameters(self) -> tuple[str, ...]:
        """Those that are passed at the launch, in order: the rest is compiled in."""
        return tuple(name for name, kind in self.signature if kind != "constexpr")

    @property
    def named_constants(self) -> dict[str, Any]:
        """What is compiled in, by the name of the parameter."""
        names = [name for name, _ in self.signature]
        return {names[path[0]]: value for path, value in self.constants}

    @property
    def label(self) -> str:
        """What tells it from other variants of the kernel: constants, element types, options."""
        parts = [f"{name}={value}" for name, value in self.named_constants.items()]
        parts += [f"{name}:{kind}" for name, kind in self.signature if kind.startswith("*")]
        chosen = dict(self.options)
        return " ".join([*parts, f"warps={chosen['num_warps']}", f"stages={chosen['num_stages']}"])


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of `variant` by `programs` programs. `tensors`: by name of the parameter."""

    variant: Variant
    programs: int
    tensors: dict[str, Tensor] = field(compare=False)


@contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
    """In here a launch of a Triton kernel adds to the list and does nothing else.

    Not for several threads at once. Raises `RuntimeError` under TRITON_INTERPRET, where kernels are Python.
    """
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: the interpreter and the compiler do not share a process")
    kind = triton_jit.JITFunction
    launches: list[Launch] = []
    asked: list[tuple[Any, Any, Any, Any]] = []

    def refrain(self: Any, key: Any, signature: Any, device: Any, *asked_for: Any) -> None:
        # In place of JITFunction._do_compile, which may answer None: then nothing is launched.
        constants, options, attributes = asked_for[:3]
        asked.append((signature, constants, options, attributes))

    def note(self: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
        run(self, *given, grid=grid, warmup=warmup, **named)
        if not asked:
            raise RuntimeError(f"Triton {triton.__version__} compiles in a way that cannot be recorded here")
        signature, constants, options, attributes = asked.pop()
        variant = Variant(
            f"{self.fn.__module__}:{self.fn.__qualname__}",
            capability,
            tuple(signature.items()),
            tuple(sorted(constants.items())),
            tuple((path, tuple(map(tuple, pairs))) for path, pairs in sorted(attributes.items()) if pairs),
            tuple(sorted(vars(options).items())),
        )
        passed = {**dict(zip(self.arg_names, given, strict=False)), **named}
        tensors = {name: value for name, value in passed.items() if isinstance(value, Tensor)}
        launches.append(Launch(variant, prod(grid(passed) if callable(grid) else grid), tensors))

    run, compiler, driver = kind.run, kind._do_compile, triton_jit.driver
    kind.run, kind._do_compile = note, refrain
    triton_jit.driver = SimpleNamespace(active=_Absent(capability))
    try:
        yield launches
    finally:
        kind.run, kind._do_compile, triton_jit.driver = run, compiler, driver


@dataclass(frozen=True, slots=True)
class _Absent:
    """The device as `JITFunction.run` sees it. Its number is a name, so that Triton's per-device tables keep
    nothing of it for a device that is there.
    """

    capability: int

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)

    def get_current_device(self) -> str:
        return f"absent sm_{self.capability}"

    def get_current_stream(self, device: str) -> int:
        return 0
