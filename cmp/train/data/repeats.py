"""Documents, or contexts of rows, that stand in more than one split. They are counted and said, not removed.

A loss on a text that was trained on says little about other texts, and collections from the web hold many texts twice.
Called by `cache` and `forms` (which hash what is read) and `opening` (which knows the splits).
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from cmp.train.data.windows import Part


def text_hash(text: str) -> int:
    """64 bits of a text, the same whatever its case, spaces and line breaks.

    Among 10 million documents two different ones meet with a probability of 3 in a million.
    """
    plain = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def count_repeats(parts: Mapping[str, tuple[str, Part]], hashes: Mapping[str, np.ndarray]) -> int:
    """Held-out documents whose text also stands in a split before theirs, "train" first; only documents with windows.

    Args:
        parts: by split, in order: the column that it comes from and its part of that.
        hashes: (documents,) uint64 of each column.
    """
    found, seen = 0, np.empty(0, np.uint64)
    taken: dict[str, np.ndarray] = {}
    for source, part in parts.values():
        documents = part.documents[part.counts > 0]
        before = taken.get(source, np.empty(0, np.int64))
        documents = documents[~np.isin(documents, before)]  # one document split by position is no repeat of itself
        own = hashes[source][documents]
        found += int(np.isin(own, seen).sum())
        seen, taken[source] = np.concatenate([seen, own]), np.concatenate([before, documents])
    return found
