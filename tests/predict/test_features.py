import subprocess
import sys

import numpy as np

from engine.predict.features import BUCKETS, CATEGORIES, TOKENS, text_features


def test_sizes_grow_with_the_text():
    short, long = text_features("What is 3 + 4?"), text_features("What is 3 + 4? " * 20)
    assert long[TOKENS] > short[TOKENS] > 0
    assert len(short) == len(long) == 16 + BUCKETS + CATEGORIES


def test_a_text_of_nothing_but_signs_has_features():
    assert np.isfinite(text_features("?!\n")).all()


def test_the_category_is_told_apart():
    names = [f"category {n}" for n in range(8)]
    told = {text_features("x", name)[16 + BUCKETS :].tobytes() for name in names}
    assert len(told) >= 7
    assert not text_features("x")[16 + BUCKETS :].any()


def test_they_are_the_same_in_every_process():
    asked = "text_features('How many apples?', 'maths').tolist()"
    code = f"from engine.predict.features import text_features; print({asked})"
    environment = {"PYTHONHASHSEED": "12"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(text_features("How many apples?", "maths").tolist())
