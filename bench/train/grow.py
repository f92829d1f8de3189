"""A deeper model that begins by computing what a shallower one does.

Behind the small model's blocks stand copies of them, in the same order, whose two output projections are
zero: they add nothing to the residual stream until training makes them (Net2DeeperNet, Chen et al. 2016,
arXiv 1511.05641; copied blocks with zeroed outputs, Wu et al. 2024, "LLaMA Pro", arXiv 2401.02415). What the
small model knows need not be learned a second time. A copy of the whole comes after the whole, not each block
after its own, so that what looks things up stands behind what was found: a second look-up of what a first
one gave has its circuit in the later half (Wang et al. 2024, "Grokked Transformers are Implicit Reasoners",
arXiv 2405.15071, on why two hops fail where it has not).
"""

import re

import torch

_BLOCK = re.compile(r"^(.*\.layers\.)(\d+)(\..*)$")
_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def deepened(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Weights of a Llama model of `times` as many blocks that gives the same logits; `times` at least 1."""
    numbers = [int(block[2]) for name in weights if (block := _BLOCK.match(name))]
    layers = max(numbers) + 1
    deeper: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        block = _BLOCK.match(name)
        if block is None:
            deeper[name] = weight
            continue
        before, number, after = block.groups()
        for copy in range(times):
            silent = copy > 0 and after.endswith(_OUTPUTS)
            deeper[f"{before}{copy * layers + int(number)}{after}"] = (
                torch.zeros_like(weight) if silent else weight.clone()
            )
    return deeper
