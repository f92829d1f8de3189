"""One arm in one case of `bench.decode`: how it is timed, and how its logits are told from a wrong arm's."""

from dataclasses import dataclass

from torch import Tensor

from bench.contender import Contender, Decoding
from bench.record import Case
from bench.timing import Timed, WrongAnswer, settle

# Relative distance ‖logits - reference‖ / ‖reference‖ that an arm may have, by how its weights are packed;
# another model's logits are 1.4 away. int4 on random weights and random keys: 0.7.
PLAIN, FINE, COARSE = 0.1, 0.1, 1.0
TOLERANCES = {
    **dict.fromkeys(("none", "BF16", "F32", "F16"), PLAIN),
    **dict.fromkeys(("int8", "Q8_0"), FINE),
    **dict.fromkeys(("int4", "Q4_0"), COARSE),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm in one case, started."""

    contender: Contender
    decoding: Decoding
    case: Case
    name: str

    def timed(self, steps: int) -> Timed:
        """Its samples for `interleave`."""

        def setup() -> None:
            settle()
            self.decoding.ready()
            self.decoding.step()

        def run() -> None:
            for _ in range(steps):
                self.decoding.step()

        return Timed(self.name, run, setup, self.decoding.rollback, repeats=steps)


def check_near(quantization: str, logits: Tensor, reference: Tensor) -> None:
    """Raise `WrongAnswer` where logits are further from the reference than their packing explains."""
    distance = float((logits - reference).norm() / reference.norm())
    allowed = TOLERANCES[quantization]
    if not distance <= allowed:
        raise WrongAnswer(f"{distance:.3g} away, {allowed:g} is allowed")
