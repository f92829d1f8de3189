"""A step's energy among its rows: what every row needs once is shared evenly, what a row reads is its own.

A decode step streams the weights once, whoever asks, so their part is the same for every row; attention reads
each row's own keys and values, so that part goes by cached length. How large the two parts are is a matter
of bytes moved (`kernels.cost`), which is what a decode step's time and energy go with. A row that feeds
several tokens at once, as a chunk of a prompt or a probe does, pays for the weights by its tokens: there they
are used once for each of them.
"""

from engine.energy.attribution import StepMark
from kernels import cost
from kernels.cost import Dims, RowWork


def row_parts(mark: StepMark, dims: Dims | None = None) -> list[float]:
    """Each share's part of the step, adding up to 1.

    Without `dims`, or where nobody said what the rows computed, the parts go by the tokens fed.
    """
    tokens = [float(share.tokens) for share in mark.shares]
    if dims is None or len(mark.shares) == 1 or len(mark.work) != len(mark.shares):
        return [count / sum(tokens) for count in tokens]
    alone = [cost.forward(dims, [work]).bytes for work in mark.work]
    shared = cost.forward(dims, [RowWork(1, 1)]).bytes
    own = [max(total - shared, 0.0) for total in alone]
    whole = shared + sum(own)
    fed = [work.new for work in mark.work]
    return [(shared * new / sum(fed) + mine) / whole for new, mine in zip(fed, own, strict=True)]
