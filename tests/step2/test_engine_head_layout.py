"""Heads over any number of ranks: each query head once, beside its own key/value head."""

import itertools

import pytest
from engine.head_layout import padded_share, plan_heads

# (query heads, key/value heads, ranks) -> (query heads, key/value heads) on each rank
KNOWN = {
    (8, 2, 3): (3, 3),
    (6, 6, 5): (2, 2),
    (64, 8, 8): (8, 1),
    (64, 8, 12): (6, 3),
    (12, 4, 1): (12, 4),
    (12, 4, 2): (6, 2),
    (12, 4, 3): (4, 4),
    (12, 4, 4): (3, 1),
    (12, 4, 8): (2, 2),
    (32, 32, 4): (8, 8),
    (7, 1, 2): (4, 4),
}
CASES = [
    *KNOWN,
    *((12, 4, ranks) for ranks in range(1, 9)),
    *((8, 2, 12), (1, 1, 4), (28, 4, 3), (40, 8, 6), (71, 1, 8)),
]


@pytest.mark.parametrize(("query_heads", "kv_heads", "ranks"), CASES)
def test_each_query_head_lies_on_one_rank_beside_its_key_value_head(query_heads, kv_heads, ranks):
    layout = plan_heads(query_heads, kv_heads, ranks)
    sharing = query_heads // kv_heads
    found = []
    for rank, local in itertools.product(range(ranks), range(layout.query_heads_per_rank)):
        head = layout.query_head_of(rank, local)
        if head is not None:
            found.append(head)
            beside = layout.kv_head_of(rank, local // layout.queries_per_kv_head)
            assert beside == head // sharing, (rank, local)
    assert found == list(range(query_heads))
    assert layout.query_heads_per_rank == layout.kv_heads_per_rank * layout.queries_per_kv_head


@pytest.mark.parametrize(("heads", "per_rank"), KNOWN.items())
def test_known_layouts_waste_no_more_than_they_must(heads, per_rank):
    layout = plan_heads(*heads)
    assert (layout.query_heads_per_rank, layout.kv_heads_per_rank) == per_rank
    least = -(-heads[0] // heads[2])
    assert layout.query_heads_per_rank < least + heads[0] // heads[1]


def test_padding_is_nobodys_head():
    layout = plan_heads(6, 6, 5)
    heads = [[layout.query_head_of(rank, local) for local in range(2)] for rank in range(5)]
    assert heads == [[0, 1], [2, 3], [4, 5], [None, None], [None, None]]
    assert [layout.kv_head_of(4, local) for local in range(2)] == [None, None]


def test_shares_are_equal_and_cover_everything():
    for size, ranks in itertools.product((1, 7, 16, 100), range(1, 9)):
        share = padded_share(size, ranks)
        assert ranks * share >= size
        if ranks > 1:  # matrix products on a GPU want 16 bytes, and like 128
            assert share % 64 == 0 and size > ranks * (share - 64)
        else:
            assert share == size
