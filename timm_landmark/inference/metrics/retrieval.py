"""Retrieval with the pooled features of images: k-nearest-neighbour top-1, and mAP@100 of Google Landmarks."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

NEIGHBOURS = 5  # of the k-nearest-neighbour classifier
DEPTH = 100  # of mAP@100
_VALUES = 1 << 24  # similarities in memory at a time, 64 MB


def nearest(queries: np.ndarray, index: np.ndarray, k: int) -> Iterator[np.ndarray]:
    """Finds the ``k`` nearest images of the index for each query, by cosine similarity.

    The product is computed in blocks, so that memory does not grow with the number of queries.

    Args:
        queries: Features, shape (n, features), any floating type.
        index: Features, shape (m, features).
        k: Number of neighbours; all m if there are fewer.

    Yields:
        For each query, the positions of its neighbours in the index, shape (min(k, m),), the nearest first; equally
        near images keep their order.
    """
    k, across = min(k, len(index)), unit_length(index).T  # (features, m)
    rows = max(1, _VALUES // max(1, len(index)))
    for start in range(0, len(queries), rows):
        similarities = unit_length(queries[start : start + rows]) @ across  # (rows, m)
        for row in similarities:
            least = np.partition(row, len(row) - k)[len(row) - k]
            candidates = np.flatnonzero(row >= least)  # more than k if several are equally near
            yield candidates[np.argsort(-row[candidates], kind="stable")[:k]]


def unit_length(features: np.ndarray) -> np.ndarray:
    """Features in float32 with a Euclidean norm of 1; zeros stay zeros. Shape (n, features)."""
    features = features.astype(np.float32)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return features


def retrieve(
    queries: np.ndarray, query_classes: Sequence[str], index: np.ndarray, index_classes: Sequence[str]
) -> tuple[int, list[float]]:
    """Classifies each query by its nearest images in the index, and ranks the index by similarity to it.

    k-nearest-neighbour top-1: the most frequent class among the ``NEIGHBOURS`` (5) nearest images, each with one vote;
    between classes with equal votes, the nearest image decides.

    mAP@100 is the metric of the Google Landmarks retrieval challenges, the mean over all queries with m > 0 of

        AP@100 = 1 / min(m, 100) * sum over k = 1 .. 100 of P(k) rel(k)

    where m is the number of images of the query's class in the index, rel(k) is 1 if the k-th image has this class, and
    P(k) is the share of this class among the first k.

    Args:
        queries: Features, shape (n, features).
        query_classes: The n true classes.
        index: Features, shape (m, features), of other images.
        index_classes: Their classes.

    Returns:
        The number of queries whose nearest neighbours give the true class, and AP@100 of each query with m > 0.
    """
    names = np.asarray(index_classes)
    relevant = Counter(index_classes)
    right, precisions = 0, []
    for name, found in zip(query_classes, nearest(queries, index, DEPTH), strict=True):
        ranked = names[found]
        right += Counter(ranked[:NEIGHBOURS].tolist()).most_common(1)[0][0] == name  # keeps the order of equal counts
        if relevant[name]:
            precisions.append(average_precision(ranked == name, relevant[name]))
    return right, precisions


def average_precision(hits: np.ndarray, relevant: int) -> float:
    """AP@100 of one query.

    Args:
        hits: rel(k), whether the k-th image is relevant; at most 100.
        relevant: m, the number of relevant images in the index, at least 1.
    """
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / min(relevant, DEPTH))
