"""Training: what a batch's gradient is, that a run can be taken up again, what it leaves on disk."""

import json
import os
import random
from dataclasses import replace
from itertools import chain

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from bench.testbed.vocabulary import ANSWER_PREFIX, BOS, CLOSER, EOS, PAD, TOKEN_ID, UNK, VOCABULARY, tokens
from bench.train import examples
from bench.train.batches import Batch, add_gradient, loss_sum, padded
from bench.train.examples import sample_example
from bench.train.model_directory import model_config, write_model
from bench.train.muon import Muon
from bench.train.recipe import SHAPES, Recipe, recipe
from bench.train.run import Run
from bench.train.tokenizer import build_tokenizer
from bench.train.train import main, train
from engine.engine import Engine


def tiny(steps=4):
    return Recipe("S", steps, 2, 2, 2e-3)


def advanced(run, steps):
    for _ in range(steps):
        run.advance()
    return run


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The directory of a run of four steps that was kept after every one."""
    directory = tmp_path_factory.mktemp("run")
    run = Run.begin(tiny())
    for _ in range(4):
        run.advance()
        run.save(directory)
        run.publish(directory)
    return directory


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path):
    whole = advanced(Run.begin(tiny()), 2)
    advanced(Run.begin(tiny()), 1).save(tmp_path)
    resumed = advanced(Run.resume(tmp_path, "cpu"), 1)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert (whole.step, whole.tokens, whole.loss_nats) == (resumed.step, resumed.tokens, resumed.loss_nats)
    # What the test would see if the generator of sequences, or one of the optimizers, began anew.
    forgetful = Run.resume(tmp_path, "cpu")
    forgetful.rng = Run.begin(tiny()).rng
    cold = [Run.resume(tmp_path, "cpu") for _ in range(2)]
    for run, optimizer in zip(cold, ("Muon", "AdamW"), strict=True):
        (forgetting,) = (one for one in run.optimizers if type(one).__name__ == optimizer)
        forgetting.state.clear()
    for broken in (forgetful, *cold):
        assert not same(whole.model.state_dict(), advanced(broken, 1).model.state_dict())


def test_a_run_goes_on_with_its_own_mix_or_not_at_all(tmp_path):
    Run.begin(tiny()).save(tmp_path)
    with pytest.MonkeyPatch.context() as changed:
        changed.setitem(examples.FAMILY_SHARES, "chain", 0.9)
        with pytest.raises(ValueError, match="another mix"):
            Run.resume(tmp_path, "cpu")
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(examples, "PLANTED_SHARE", 0.2)
        with pytest.raises(ValueError, match="another mix"):
            Run.resume(tmp_path, "cpu")
    Run.resume(tmp_path, "cpu")


def test_every_parameter_is_in_one_optimizer_and_muon_has_the_hidden_matrices():
    run = Run.begin(tiny())
    muon, adam = run.optimizers
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    held = [{names[id(p)] for group in one.param_groups for p in group["params"]} for one in (muon, adam)]
    assert not held[0] & held[1] and held[0] | held[1] == set(names.values())
    assert isinstance(muon, Muon) and all("_proj" in name for name in held[0]) and len(held[0]) == 7 * 5
    assert [group["weight_decay"] for one in (muon, adam) for group in one.param_groups] == [0.05, 0.0]


def gradient_of(run, batches):
    """The loss that these batches add up to, and the gradient of one of the matrices."""
    run.model.zero_grad()
    loss = sum(add_gradient(run.model, batch) for batch in batches)
    return loss, run.model.model.layers[0].mlp.up_proj.weight.grad.clone()


def test_neither_parts_nor_shares_change_the_gradient():
    rng, run = random.Random(0), Run.begin(tiny())
    examples = [sample_example(rng) for _ in range(8)]
    whole, parts = Batch.of(examples, 1), Batch.of(examples, 4)
    assert whole.tokens == parts.tokens == sum(len(example.tokens()[0]) for example in examples)
    lengths = [[len(ids) for ids, _ in part] for part in parts.parts]
    assert [len(part) for part in lengths] == [2] * 4 and [*chain(*lengths)] == sorted(chain(*lengths))
    shares = [parts.share(number, 2) for number in range(2)]
    assert sorted(chain(*(share.parts for share in shares))) == sorted(parts.parts)
    loss, gradient = gradient_of(run, [whole])
    for batches in ([parts], shares):
        again, other = gradient_of(run, batches)
        assert again == pytest.approx(loss, rel=1e-5)
        # fp32 sums in another order: parts in 1e-5 of the largest entry.
        assert (other - gradient).abs().max() < 1e-4 * gradient.abs().max()
    half, _ = gradient_of(run, shares[:1])
    assert half < 0.9 * loss


def test_shares_are_of_about_equal_length():
    rng, plan = random.Random(1), recipe("S", 1)
    examples = [sample_example(rng, longest=8) for _ in range(plan.batch)]
    batch = Batch.of(examples, plan.micro_batches)
    most, least = sorted((_padded(batch.share(number, 2)) for number in range(2)), reverse=True)
    assert most < 1.1 * least
    assert sum(map(_padded, (batch.share(number, 3) for number in range(3)))) == _padded(batch)


def _padded(batch):
    return sum(len(rows) * max(len(ids) for ids, _ in rows) for rows in batch.parts)


@pytest.mark.slow
def test_two_workers_train_as_one_does():
    one, two = (Run.begin(replace(tiny(), workers=workers)) for workers in (1, 2))
    for _ in range(3):
        one.advance()
        two.advance()
        assert two.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
    assert two.tokens == one.tokens
    # Two sums in place of one, in fp32; a step moves an entry by parts in 1000.
    for ours, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert (ours - theirs).abs().max() < 1e-4


def test_padding_is_neither_learned_nor_seen():
    run, rng = Run.begin(tiny()), random.Random(3)
    rows = [sample_example(rng).tokens() for _ in range(6)]
    ids, learned = padded(rows)
    assert not learned[ids == TOKEN_ID[PAD]].any()
    alone = sum(loss_sum(run.model, *padded([row])).item() for row in rows)
    assert loss_sum(run.model, ids, learned).item() == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(("name", "most_mb"), [("S", 4.0), ("L", 8.0)])
def test_the_models_keep_to_their_sizes(name, most_mb):
    with torch.device("meta"):
        model = LlamaForCausalLM(model_config(SHAPES[name]))
    bytes_each = {"float32": 4, "bfloat16": 2}[SHAPES[name].stored_as]
    assert model.num_parameters() <= {"S": 1e6, "L": 2e6}[name]
    assert model.num_parameters() * bytes_each <= most_mb * 1e6


def test_the_deep_model_starts_from_the_shallow_one_and_never_the_other_way(published, tmp_path, capsys):
    start = published / "latest"
    run = Run.begin(recipe("L", 1), start)
    ids = torch.arange(8)[None]
    small = LlamaForCausalLM.from_pretrained(start)
    torch.testing.assert_close(run.model(ids).logits, small(ids).logits)
    assert run.before is not None and run.before["name"] == "S"
    write_model(run.model, tmp_path / "L", stored_as="float32")
    (tmp_path / "L" / "training.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["S", "--out", str(tmp_path / "run"), "--steps", "1", "--start", str(tmp_path / "L")])
    assert stopped.value.code == 2
    assert "cannot be the start: 5 blocks" in capsys.readouterr().err


def test_the_schedule_warms_up_falls_to_nothing_and_lengthens_the_chains():
    plan = recipe("S", 4000)
    rates = [plan.learning_rate_at(step) for step in (0, 50, 99, 2000, 3999)]
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4]
    assert rates[2] == pytest.approx(plan.learning_rate, rel=0.01) and rates[4] < 1e-6
    assert [plan.longest_at(step) for step in (0, 500, 1000, 3999)] == [2, 5, 8, 8]


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 0},
        {"batch": 9},
        {"name": "M"},
        {"learning_rate": 0.0},
        {"workers": 3},
        {"workers": 2, "device": "cuda"},
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(fields):
    with pytest.raises(ValueError, match=r"found|unknown model|not divide|share a CPU"):
        Recipe(**{"name": "S", "steps": 1, "batch": 8, "micro_batches": 2, "learning_rate": 1e-3, **fields})


def test_the_latest_directory_is_complete_and_the_one_before_it_stays(published):
    assert sorted(path.name for path in published.glob("step-*")) == ["step-0000003", "step-0000004"]
    assert (published / "latest").resolve().name == "step-0000004"
    record = json.loads((published / "latest" / "training.json").read_text())
    assert record["steps_done"] == 4 and "bench.train.train S" in record["command"]
    generation = json.loads((published / "latest" / "generation_config.json").read_text())
    assert generation["thinking"]["closer"] == CLOSER
    assert not os.access(published / "checkpoint.pt.new", os.F_OK)


def test_the_engine_and_transformers_read_a_published_model(published):
    loaded = LlamaForCausalLM.from_pretrained(published / "latest")
    assert same(Run.resume(published, "cpu").model.state_dict(), loaded.state_dict())
    with Engine.load(published / "latest", backend="torch", device="cpu") as engine:
        assert engine.thinking is not None and engine.thinking.answer_prefix == ANSWER_PREFIX
        assert len(engine.generate("a+5b-8>47=", max_new_tokens=4, ignore_eos=True).token_ids) == 4


def test_a_model_can_be_stored_in_bf16_and_stays_fp32_in_memory(tmp_path):
    model = Run.begin(tiny()).model
    write_model(model, tmp_path, stored_as="bfloat16")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.get_tensor("model.norm.weight").dtype == torch.bfloat16
    assert model.dtype == torch.float32
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
def test_the_command_trains_and_goes_on_only_where_there_is_something(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.train.train.recipe", lambda name, steps, **_: tiny(steps))
    assert main(["S", "--out", str(tmp_path), "--resume"]) == 1
    assert "nothing to resume" in capsys.readouterr().err
    assert main(["S", "--out", str(tmp_path), "--steps", "2"]) == 0
    for again in (["--steps", "2"], ["--resume", "--seed", "1"]):
        with pytest.raises(SystemExit):
            main(["S", "--out", str(tmp_path), *again])
    assert main(["S", "--out", str(tmp_path), "--resume"]) == 0  # it has ended: nothing is left to do


@pytest.mark.slow
def test_a_run_is_kept_while_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.train.train.CHECKPOINT_S", 0.0)
    seen = []
    monkeypatch.setattr(Run, "publish", lambda run, directory: seen.append(run.step))
    train(Run.begin(tiny(3)), tmp_path, lambda line: None)
    assert seen == [1, 2, 3] and Run.resume(tmp_path, "cpu").step == 3


# The tokenizer


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("a+5b-8>47", "a+5b-8>47"),
        ("a+5b-8>47=", "a+5b-8>47="),
        ("a+5b-8 > 44A 52B 39C 47D > 47 =", "a+5b-8>44A52B39C47D>47="),
        ("3859~", "3859~"),
        ("38595A2B3C4D~", "38595A2B3C4D~"),
        ("3852>4+38A32B85CND?", "3852>4+38A32B85CND?"),
        ("qzt:", "qzt:"),
        ("a+5=52\n", "a+5=52\n"),
        ("a+5b-8>47=a+5=52\nb-8=44\n", "a+5b-8>47=a+5=52\nb-8=44\n"),
        ("...\n", "...\n"),
    ],
)
def test_prompts_are_read_as_they_are_but_for_spaces(typed, read):
    assert build_tokenizer().encode(typed).ids == [TOKEN_ID[token] for token in (BOS, *tokens(read))]


def test_the_vocabulary_survives_the_file(published):
    loaded = AutoTokenizer.from_pretrained(published / "latest")
    assert [loaded.convert_tokens_to_ids(token) for token in VOCABULARY] == list(range(len(VOCABULARY)))
    text = f"qzt:...\n{CLOSER}{ANSWER_PREFIX}7{EOS}"
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == text.removesuffix(EOS)
    assert build_tokenizer().encode("4*2é").tokens == [BOS, "4", UNK, "2", UNK]


def test_a_file_in_place_of_the_directory_is_wrong_usage(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        main(["S", "--out", str(tmp_path / "file"), "--steps", "2"])
    assert "file is no directory" in capsys.readouterr().err
