"""Near-duplicates: prompts that ask for the same thing in the same words of weight.

Two prompts are one if their content words are the same (`content_words`), or are but for one
misspelt word. With a threshold below 1, also if they share that much of their content words:
candidates then come from `rensa` (MinHash in Rust) and are held against the exact Jaccard
similarity, so a hash only ever costs a comparison, never a prompt.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import rensa
from command_line import progress_bar
from content_words import Contents, content_words, same_material
from misspelt_words import find_misspelt

SHINGLE_WORDS = 5
PERMUTATIONS = 128
HASH_SEED = 42  # fixed: it decides how candidates are found, not which prompt is kept
RECALL = 0.99  # of the pairs just at the threshold, found as candidates
TEXTS_PER_CHUNK = 2000
ODD_MULTIPLIERS = np.array(  # one for each place in a shingle
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 1],
    dtype=np.uint64,
)


def find_near_duplicates(texts: Sequence[str], threshold: float) -> dict[int, int]:
    """Maps the index of each text to drop to the index of the text that stands for it.

    A text earlier in `texts` wins, so sort them by something that does not depend on their order
    in the input files. A kept text is similar to each that it stands for.

    Args:
        threshold: Jaccard similarity of the content words' 5-shingles from which two texts are
            near-duplicates; 1 for those with the same content words only.
    """
    bar = progress_bar("near-duplicates", texts, unit="prompts")
    contents = [content_words(text) for text in bar]
    stands_for = _same_contents(texts, contents)
    kept = [index for index in range(len(texts)) if index not in stands_for]
    stands_for |= find_misspelt({index: contents[index] for index in kept}, texts)
    if threshold < 1:
        kept = [index for index in kept if index not in stands_for]
        similar = _similar_sets([contents[index] for index in kept], threshold)
        stands_for |= {kept[index]: kept[leader] for index, leader in similar.items()}
    return {index: _last_of_chain(stands_for, index) for index in stands_for}


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Shared shingles over all shingles, of two sorted arrays without repetitions."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def band_rows(threshold: float) -> int:
    """Rows of an LSH band: the most that still find `RECALL` of the pairs at the threshold.

    A pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4).
    """
    divisors = [rows for rows in range(1, PERMUTATIONS + 1) if PERMUTATIONS % rows == 0]
    fitting = [r for r in divisors if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= RECALL]
    return max(fitting, default=1)


def _same_contents(texts: Sequence[str], contents: list[Contents]) -> dict[int, int]:
    stands_for: dict[int, int] = {}
    leaders: dict[Contents, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        for leader in leaders[content]:
            if same_material(texts[index], texts[leader]):
                stands_for[index] = leader
                break
        else:
            leaders[content].append(index)
    return stands_for


def _last_of_chain(stands_for: dict[int, int], index: int) -> int:
    while index in stands_for:
        index = stands_for[index]
    return index


def _similar_sets(contents: list[Contents], threshold: float) -> dict[int, int]:
    hasher = _ShingleHasher()
    shingles = [hasher.hashes(content) for content in contents]
    stands_for: dict[int, int] = {}
    leaders: dict[tuple[int, bytes], list[int]] = defaultdict(list)  # LSH bucket -> kept texts
    for index, buckets in _shared_buckets(shingles, threshold):
        candidates = {leader for bucket in buckets for leader in leaders[bucket]}
        for leader in sorted(candidates):
            if jaccard(shingles[index], shingles[leader]) >= threshold:
                stands_for[index] = leader
                break
        else:
            for bucket in buckets:
                leaders[bucket].append(index)
    return stands_for


class _ShingleHasher(dict):
    """64-bit hashes of shingles, built from word hashes that are computed once per word."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        value = self[word] = int.from_bytes(digest, "little")
        return value

    def hashes(self, contents: Contents) -> np.ndarray:
        """Sorted, without repetitions; one for all the words if they are fewer than a shingle."""
        tokens = [word for sentence in contents for word in sentence]
        if len(tokens) < SHINGLE_WORDS:
            tokens = [" ".join(tokens)] + [""] * (SHINGLE_WORDS - 1)
        word_hashes = np.fromiter((self[word] for word in tokens), np.uint64, len(tokens))
        windows = np.lib.stride_tricks.sliding_window_view(word_hashes, SHINGLE_WORDS)
        mixed = (windows * ODD_MULTIPLIERS).sum(axis=1, dtype=np.uint64)  # [shingles]
        return np.unique(mixed ^ (mixed >> np.uint64(31)))


def _shared_buckets(
    shingles: list[np.ndarray], threshold: float
) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """Yields (index, its LSH buckets) for each text that shares a bucket with another one."""
    if not shingles:
        return
    rows = band_rows(threshold)
    index = rensa.RMinHashLSH(threshold, PERMUTATIONS, PERMUTATIONS // rows)
    flags = index.insert_matrix_and_query_duplicate_flags(_signatures(shingles))
    flagged = [number for number, flag in enumerate(flags) if flag]
    for start in range(0, len(flagged), TEXTS_PER_CHUNK):
        chunk = flagged[start : start + TEXTS_PER_CHUNK]
        matrix = _signatures([shingles[number] for number in chunk]).to_rows()
        for number, signature in zip(chunk, np.array(matrix, dtype=np.uint32), strict=True):
            bands = signature.reshape(-1, rows)  # [bands, rows]
            yield number, [(band, values.tobytes()) for band, values in enumerate(bands)]


def _signatures(shingles: list[np.ndarray]) -> rensa.RMinHashDigestMatrix:
    offsets = np.cumsum([0, *map(len, shingles)], dtype=np.uint64)
    return rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(shingles), offsets, PERMUTATIONS, HASH_SEED
    )
