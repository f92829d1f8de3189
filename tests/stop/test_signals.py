from engine.steps import Context, Phase, Step
from engine.stop.signals import SignalReader, Signals


def read(pieces, separator="\n", phase=Phase.THINK):
    reader = SignalReader()
    reader.begin(Context(0, 3, 99, None, 4, separator, None))
    return [reader.read(Step(0, i, 0, piece, phase, 1)) for i, piece in enumerate(pieces)]


def test_a_checkpoint_is_the_first_token_and_every_end_of_a_step():
    found = read(["4", "+1=5", "\n", "5", "+0=5\n", "8-1=7", "\n"])
    assert found == [
        Signals(0, 1),
        None,
        Signals(1, 3, "5", 1, 1),
        None,
        Signals(2, 5, "5", 2, 1),
        None,
        Signals(3, 7, "7", 1, 2),
    ]


def test_a_tail_that_comes_back_is_no_new_one_and_begins_a_new_streak():
    last = read(["a\n", "b\n", "a\n", "a\n"])[-1]
    assert (last.stability, last.distinct) == (2, 2)


def test_the_least_likely_token_of_each_step_and_of_all_steps_is_told():
    reader = SignalReader(scored=True)
    reader.begin(Context(0, 3, 99, None, 4, "\n", None))
    pieces = [("4", -0.5), ("+", -2.0), ("\n", -0.1), ("5", -1.0), ("\n", -0.2), ("6", -0.3), ("\n", -3.0)]
    steps = [
        Step(0, i, 0, piece, Phase.THINK, 1, _log_probability=nats) for i, (piece, nats) in enumerate(pieces)
    ]
    found = [at for at in map(reader.read, steps) if at]
    assert [(at.surprisal, at.worst) for at in found] == [(0.5, 0.5), (2.0, 2.0), (1.0, 2.0), (3.0, 3.0)]
    reader.begin(Context(0, 3, 99, None, 4, "\n", None))
    forced = Step(0, 1, 0, "x\n", Phase.THINK, 1, forced=True)
    assert (reader.read(steps[0]).worst, reader.read(forced).surprisal) == (0.5, 0.5), "a row of its own"


def test_an_answer_has_no_checkpoints():
    assert read(["x", "\n"], phase=Phase.ANSWER) == [None, None]


def test_a_separator_of_two_tokens_is_one_end():
    found = read(["so 1", "\n", "\nthen"], separator="\n\n")
    assert [at.checkpoint for at in found if at] == [0, 1]
    assert found[-1].tail == "1"


def test_checkpoints_count_up_even_where_the_first_token_ends_a_step():
    assert [at.checkpoint for at in read(["a\n", "b\n", "c\nd\n"])] == [0, 1, 2]
