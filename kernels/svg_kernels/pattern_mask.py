"""The closed set of masks inside a kernel: ``PatternIntegers.keep`` on a tile, from integers in memory."""

from __future__ import annotations

import triton
import triton.language as tl

# Farther apart than any two places of a band.
FAR = tl.constexpr(2**29)
NUM_INTEGERS = tl.constexpr(14)


@triton.jit
def place_keep(integers, pattern, queries, keys):
    """Return whether pairs are kept, ``(queries, keys)``.

    Args:
        integers: Pointer to int32 ``(patterns, 14)``, each a ``PatternIntegers``.
        pattern: Which of them.
        queries: Positions ``(queries,)``.
        keys: Positions ``(keys,)``.
    """
    integers += pattern * NUM_INTEGERS
    half_width = tl.load(integers)
    query_start = tl.load(integers + 1)
    query_stop = tl.load(integers + 2)
    key_start = tl.load(integers + 3)
    key_stop = tl.load(integers + 4)
    query_scale = tl.load(integers + 5)
    key_scale = tl.load(integers + 6)
    unit = tl.load(integers + 7)
    sink_start = tl.load(integers + 8)
    sink_stop = tl.load(integers + 9)
    sink_stride = tl.load(integers + 10)
    text_start = tl.load(integers + 11)
    text_stop = tl.load(integers + 12)
    valid_stop = tl.load(integers + 13)

    # A place outside of the band's range is far from every other.
    in_keys = (keys >= key_start) & (keys < key_stop)
    in_queries = (queries >= query_start) & (queries < query_stop)
    query_place = tl.where(in_queries, query_scale * ((queries - query_start) // unit), FAR)
    key_place = tl.where(in_keys, key_scale * ((keys - key_start) // unit), -FAR)
    kept = tl.abs(query_place[:, None] - key_place[None, :]) <= half_width

    is_kept_key = ((keys >= sink_start) & (keys < sink_stop)) | ((keys >= text_start) & (keys < text_stop))
    on_stride = (sink_stride > 0) & ((keys - key_start) % tl.maximum(sink_stride, 1) == 0)
    is_kept_key = is_kept_key | (in_keys & on_stride)
    is_text_query = (queries >= text_start) & (queries < text_stop)
    kept = kept | is_kept_key[None, :] | is_text_query[:, None]
    query_is_valid, key_is_valid = (queries < valid_stop)[:, None], (keys < valid_stop)[None, :]
    return (kept & query_is_valid & key_is_valid) | ((query_is_valid == 0) & (key_is_valid == 0))
