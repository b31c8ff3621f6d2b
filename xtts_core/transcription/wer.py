"""Word errors between a reference and what was recognised."""

from __future__ import annotations


def word_errors(reference: str, recognised: str) -> tuple[int, int]:
    """The least number of substituted, missing and added words, and the words in `reference`.

    Give both texts normalised and without punctuation where it must not count.
    """
    wanted, got = reference.split(), recognised.split()
    row = list(range(len(got) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            diagonal, row[j] = row[j], min(diagonal + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1], len(wanted)
