"""How attention heads are laid out over tensor-parallel ranks, for any number of ranks."""

from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class HeadLayout:
    """Equal shares of heads for each rank; heads that don't divide are padded with zeros.

    Where the key/value heads don't divide, a key/value head is repeated and its query heads are
    shared out between the copies.
    """

    ranks: int
    query_heads: int
    kv_heads: int
    queries_per_kv_head: int  # query heads that share a (copy of a) key/value head on a rank
    kv_heads_per_rank: int

    @property
    def query_heads_per_rank(self) -> int:
        return self.kv_heads_per_rank * self.queries_per_kv_head

    def kv_head_of(self, rank: int, local: int) -> int | None:
        """The model's key/value head that is a rank's `local`-th; None for padding."""
        copies = self.query_heads // self.kv_heads // self.queries_per_kv_head
        head = (rank * self.kv_heads_per_rank + local) // copies
        return head if head < self.kv_heads else None

    def query_head_of(self, rank: int, local: int) -> int | None:
        """The model's query head that is a rank's `local`-th; None for padding."""
        head = rank * self.query_heads_per_rank + local
        return head if head < self.query_heads else None


def plan_heads(query_heads: int, kv_heads: int, ranks: int) -> HeadLayout:
    """Chooses the layout with the least padding, and among these the fewest copies."""
    sharing = query_heads // kv_heads

    def layout(queries_per_kv_head: int) -> HeadLayout:
        copies = kv_heads * sharing // queries_per_kv_head
        per_rank = -(-copies // ranks)
        return HeadLayout(ranks, query_heads, kv_heads, queries_per_kv_head, per_rank)

    divisors = [size for size in range(sharing, 0, -1) if sharing % size == 0]
    return min(map(layout, divisors), key=lambda plan: plan.query_heads_per_rank)


def padded_share(size: int, ranks: int) -> int:
    """A rank's share of `size` rows, padded so that all shares are equal.

    Shares of several ranks are multiples of 64, as matrix products on a GPU like their sides.
    """
    if ranks == 1:
        return size
    return -(-size // (ranks * ALIGNMENT)) * ALIGNMENT
