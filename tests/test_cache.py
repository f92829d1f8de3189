"""Pages, positions, fork and truncate: bit for bit what an undisturbed row would hold."""

from pathlib import Path

import pytest
import torch

from engine.cache import CacheFull, KVCache, new_pool
from engine.model import Model
from tests import tiny

BATCHED = 1e-5  # relative; a matrix product over more rows may add up in another order


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("model")
    tiny.write(directory, "llama-gqa")
    return tiny.load_model(directory)


def small_cache(pages: int = 8, page_size: int = 4) -> KVCache:
    device = torch.device("cpu")
    return KVCache(
        new_pool(1, (pages * page_size, 1, 2), torch.float32, device),
        pages=pages,
        page_size=page_size,
        frequencies=torch.ones(1),
        rope_factor=1.0,
        device=device,
    )


def feed(model: Model, cache: KVCache, row: int, tokens: list[int]) -> torch.Tensor:
    return model.forward(tokens, cache.extend({row: len(tokens)}), cache)[0][0]


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert (a - b).abs().max() <= BATCHED * b.abs().max()


@pytest.mark.parametrize("prompt", [1, 15, 16, 17, 40])
def test_fork_then_diverge_is_bit_exact(model: Model, prompt: int) -> None:
    tokens = tiny.prompt(prompt)
    cache = model.new_cache(400, rows=3)
    one = cache.add_row()
    feed(model, cache, one, tokens)
    two = cache.fork(one)
    for row, more in ((one, [5, 6, 7, 8]), (two, [9, 10, 11, 12])):
        for token in more:
            forked = feed(model, cache, row, [token])
        alone_cache = model.new_cache(100)
        alone = alone_cache.add_row()
        feed(model, alone_cache, alone, tokens)
        for token in more:
            expected = feed(model, alone_cache, alone, [token])
        assert torch.equal(forked, expected)
    # One more token of the first row: the second one's writes have not reached its pages.
    assert torch.equal(feed(model, cache, one, [3]), _alone(model, [tokens, [5], [6], [7], [8], [3]]))


def _alone(model: Model, pieces: list[list[int]]) -> torch.Tensor:
    cache = model.new_cache(sum(map(len, pieces)))
    row = cache.add_row()
    for piece in pieces:
        logits = feed(model, cache, row, piece)
    return logits


@pytest.mark.parametrize("keep", [1, 16, 20, 31, 32])
def test_truncate_then_regenerate_is_bit_exact(model: Model, keep: int) -> None:
    tokens = tiny.prompt(33)
    cache = model.new_cache(120)
    row = cache.add_row()
    pieces = [tokens[:keep]]
    feed(model, cache, row, tokens[:keep])
    first = [feed(model, cache, row, [t]) for t in tokens[keep:]]
    for _ in range(30):
        feed(model, cache, row, [1])
    cache.truncate(row, keep)
    again = [feed(model, cache, row, [t]) for t in tokens[keep:]]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(again[-1], _alone(model, pieces + [[t] for t in tokens[keep:]]))


@pytest.mark.parametrize("chunk", [1, 7, 16, 39])
@pytest.mark.parametrize("variant", ["llama-gqa", "mistral-window"])
def test_a_chunked_prefill_is_one_prefill(tmp_path: Path, variant: str, chunk: int) -> None:
    tiny.write(tmp_path, variant)
    model = tiny.load_model(tmp_path)
    tokens = tiny.prompt(40)
    chunked = _alone(model, [tokens[i : i + chunk] for i in range(0, 40, chunk)])
    assert_close(chunked, _alone(model, [tokens]))


def test_rows_in_a_batch_are_the_rows_alone(model: Model) -> None:
    """Ragged: different lengths, different numbers of new tokens, pages of the rows interleaved."""
    prompts = [tiny.prompt(n, seed=n) for n in (3, 17, 32)]
    cache = model.new_cache(300, rows=3)
    rows = [cache.add_row() for _ in prompts]
    for start in (0, 2):  # in two goes, so that no row's pages are consecutive
        new = {
            row: len(p[start : start + 2 if start == 0 else None])
            for row, p in zip(rows, prompts, strict=True)
        }
        fed = [t for p in prompts for t in p[start : start + 2 if start == 0 else None]]
        logits, _ = model.forward(fed, cache.extend(new), cache)
    for index, prompt in enumerate(prompts):
        assert_close(logits[index], _alone(model, [prompt[:2], prompt[2:]]))
    fed = [4, 5, 6, 7]
    logits, _ = model.forward(fed, cache.extend({rows[0]: 1, rows[1]: 2, rows[2]: 1}), cache)
    assert_close(logits[1], _alone(model, [prompts[1], [5, 6]]))
    assert not torch.allclose(logits[0], logits[2])


def test_scattered_pages_read_as_consecutive_ones(model: Model) -> None:
    """Two rows that grow in turn hold every second page; both ways of reading a row give the same bits."""
    cache = model.new_cache(300, rows=2)
    rows = cache.add_row(), cache.add_row()
    for token in tiny.prompt(70):
        logits, _ = model.forward([token, token], layout := cache.extend(dict.fromkeys(rows, 1)), cache)
    assert [span.first_slot for span in layout.rows] == [None, None]
    assert torch.equal(logits[0], logits[1])
    alone = _alone(model, [[token] for token in tiny.prompt(70)])
    assert_close(logits[0], alone)


def test_pages_are_shared_until_written_and_returned_when_freed() -> None:
    cache = small_cache(pages=8, page_size=4)
    one = cache.add_row()
    cache.extend({one: 6})
    assert cache.free_pages == 6
    two = cache.fork(one)
    assert cache.free_pages == 6, "a fork takes no page"
    cache.extend({two: 1})
    assert cache.free_pages == 5, "only the partly filled page is copied"
    cache.extend({one: 1})
    assert cache.free_pages == 5, "the page has one holder left and is written in place"
    cache.truncate(two, 4)
    assert cache.free_pages == 6
    cache.free(one)
    cache.free(two)
    assert cache.free_pages == 8


def test_rows_share_the_pages_that_forks_have_not_written_to() -> None:
    cache = small_cache(pages=12, page_size=4)
    one = cache.add_row()
    cache.extend({one: 10})
    two = cache.fork(one)
    assert cache.shared([one, two]) == 10
    cache.reserve({one: 3, two: 3})
    assert cache.shared([one, two]) == 8, "the page begun is no longer one"
    three = cache.fork(one)
    assert cache.shared([one, three]) == 10
    assert cache.shared([one, two, three]) == 8
    cache.truncate(two, 3)
    cache.extend({two: 2})
    assert cache.shared([one, two, three]) == 0, "written to from the fourth position on"
    other = cache.add_row()
    cache.extend({other: 10})
    assert cache.shared([one, other]) == 0, "the same content in other pages is not shared"
    assert cache.shared([one]) == 10


def test_a_forked_row_survives_its_source() -> None:
    cache = small_cache()
    one = cache.add_row()
    layout = cache.extend({one: 5})
    cache.layers[0].keys[layout.slots] = torch.arange(10.0).view(5, 1, 2)
    two = cache.fork(one)
    cache.free(one)
    span = cache.extend({two: 1}).rows[0]
    pages = cache.layers[0].keys.unflatten(0, (-1, 4))[span.pages].flatten(0, 1)
    assert torch.equal(pages[:5], torch.arange(10.0).view(5, 1, 2))


def test_a_full_cache_says_so_and_changes_nothing() -> None:
    cache = small_cache(pages=2, page_size=4)
    row = cache.add_row()
    cache.extend({row: 5})
    with pytest.raises(CacheFull, match="1 pages wanted, 0 free"):
        cache.extend({row: 4})
    assert cache.length(row) == 5
    cache.extend({row: 3})


def test_wrong_lengths_are_refused() -> None:
    cache = small_cache()
    row = cache.add_row()
    cache.extend({row: 3})
    with pytest.raises(ValueError, match="cannot truncate a row of 3 positions to 4"):
        cache.truncate(row, 4)
    with pytest.raises(ValueError, match="at least one token"):
        cache.extend({row: 0})


def test_the_last_holder_of_a_page_needs_no_copy() -> None:
    """Two rows share a partly filled page and are extended together: one copies, the other keeps it."""
    cache = small_cache(pages=2, page_size=4)
    one = cache.add_row()
    cache.extend({one: 2})
    two = cache.fork(one)
    layout = cache.extend({one: 1, two: 1})
    assert len({int(slot) // 4 for slot in layout.slots}) == 2
    assert cache.free_pages == 0


def test_pages_in_reserve_are_the_rows_own() -> None:
    cache = small_cache(pages=8, page_size=4)
    one = cache.add_row()
    cache.extend({one: 6})
    cache.reserve({one: 9})
    assert len(cache.pages(one)) == 4, "15 positions"
    assert cache.free_pages == 4
    two = cache.fork(one)
    assert cache.pages(two) == cache.pages(one)[:2], "what is in reserve is not shared"
    with pytest.raises(CacheFull):
        cache.reserve({two: 40})
    before = cache.pages(one)
    cache.reserve({one: 9, two: 2})
    assert cache.pages(one)[1] != before[1], "the page begun was shared, and one may now write to it"
    assert cache.pages(two)[1] == before[1], "its last holder keeps it"
    assert cache.pages(one)[2:] == before[2:]
    for _ in range(9):
        cache.advance(one)
    assert cache.length(one) == 15
    layout = cache.extend({one: 2})
    assert layout.slots.tolist() == [cache.pages(one)[3] * 4 + 3, cache.pages(one)[4] * 4]
    cache.truncate(one, 5)
    assert len(cache.pages(one)) == 2
    cache.free(one)
    cache.free(two)
    assert cache.free_pages == 8


def test_a_row_does_not_advance_into_what_it_has_not() -> None:
    cache = small_cache(page_size=4)
    row = cache.add_row()
    with pytest.raises(ValueError, match="0 positions has no page"):
        cache.advance(row)
    cache.reserve({row: 3})
    for _ in range(4):
        cache.advance(row)
    with pytest.raises(ValueError, match="4 positions has no page"):
        cache.advance(row)
