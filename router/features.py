"""What one prefill of the smallest local model tells of a query: the features of `performance`."""

import math

import numpy as np

from engine.engine import Engine
from engine.prefilled import Prefilled, prefill
from router.performance import PLAIN
from router.policy import Array
from router.text_features import text_features

_TEXT = 12  # of the text's named features


def source(engine: Engine) -> str:
    """Which features these are: of which model, in what form, and which layers' states."""
    card = engine.origin.card
    return f"{card.id}/{card.parameters}/{card.quantization}/{','.join(map(str, layers(engine)))}"


def layers(engine: Engine) -> tuple[int, ...]:
    """Two in the middle: a third and two thirds of the way."""
    count = engine.model.config.n_layers
    return tuple(sorted({count // 3, 2 * count // 3}))


def read(engine: Engine, query: str, *, chat: bool = False) -> tuple[Array, Prefilled]:
    """(F,) features, and the prefill, to be reused. Raises `TokenjouleError` where the query does not fit.

    First 16 to be kept as they are: next token's entropy (nats) and top-2 margin (log-probability), the
    prompt's mean NLL, log of its tokens, sizes of the text. Then hidden states, last token's and mean.
    """
    found = prefill(engine, query, layers(engine), chat=chat)
    log_p = found.logits.double().log_softmax(-1)
    best = log_p.topk(2).values
    entropy = -float((log_p.exp() * log_p).nan_to_num().sum())
    nll = 0.0 if math.isnan(found.nll) else found.nll
    plain = [entropy, float(best[0] - best[1]), nll, math.log(len(found.token_ids))]
    plain += list(text_features(query)[:_TEXT])
    assert len(plain) == PLAIN
    states = [part[layer].cpu().numpy() for layer in layers(engine) for part in (found.last, found.mean)]
    return np.concatenate([plain, *states]).astype(np.float64), found
