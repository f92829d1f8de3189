"""A deeper model that begins by computing what a shallower one does.

Every block is followed by a copy of itself whose two output projections are zero: the copy adds nothing to
the residual stream until training makes it (Net2DeeperNet, Chen et al. 2016, arXiv 1511.05641; copied blocks
with zeroed outputs, Wu et al. 2024, "LLaMA Pro", arXiv 2401.02415). What the small model knows need not be
learned a second time.
"""

import re

import torch

_BLOCK = re.compile(r"^(.*\.layers\.)(\d+)(\..*)$")
_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def deepened(weights: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    """Weights of a Llama model of `times` as many blocks that gives the same logits; `times` at least 1."""
    deeper: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        block = _BLOCK.match(name)
        if block is None:
            deeper[name] = weight
            continue
        before, number, after = block.groups()
        for copy in range(times):
            silent = copy > 0 and after.endswith(_OUTPUTS)
            deeper[f"{before}{int(number) * times + copy}{after}"] = (
                torch.zeros_like(weight) if silent else weight.clone()
            )
    return deeper
