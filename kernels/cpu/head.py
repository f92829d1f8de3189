"""RMSNorm and the LM head."""

from kernels.cpu.crew import finish, take, wait
from kernels.cpu.product import dot_rows, place_normed, rows_of, spread
from kernels.cpu.target import compiled

ROWS = 64  # of the vocabulary per chunk


@compiled
def head_logits(claim, x, gain, eps, w, logits):
    """logits = W·rmsnorm(x).

    x (B, E) bf16 bits or fp32; gain (E,) fp32; w as `product` takes it; logits (B, V) fp32, written.
    """
    laid = spread(w, x.shape[0])
    place_normed(x, gain, eps, laid)
    vocabulary = rows_of(w)
    chunks = -(-vocabulary // ROWS)
    chunk = take(claim, 0)
    while chunk < chunks:
        first = chunk * ROWS
        dot_rows(w, first, min(ROWS, vocabulary - first), laid, logits, first)
        finish(claim, 0)
        chunk = take(claim, 0)
    wait(claim, 0, chunks)
