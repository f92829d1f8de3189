import numpy as np

from engine.predict.texts import firsts, numbered, shuffled

TEXTS = ["b", "a", "b", "c", "a"]


def test_equal_texts_have_one_number_in_order_of_coming():
    assert numbered(TEXTS).tolist() == [0, 1, 0, 2, 1]
    assert firsts(TEXTS).tolist() == [0, 1, 3]
    assert firsts(np.array(TEXTS, dtype=object)).tolist() == [0, 1, 3]


def test_equal_texts_have_one_place_in_a_random_order():
    places = {tuple(shuffled(TEXTS, seed)[0]) for seed in range(20)}
    assert len(places) == 6 and shuffled(TEXTS, 3)[1] == 3
    assert all(place[0] == place[2] and place[1] == place[4] for place in places)
    assert shuffled([], 0)[1] == 0
