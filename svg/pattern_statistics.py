"""What the heads of one attention call look at, on sampled rows: where their mass lies, and what a plan loses of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from svg.layout import TokenLayout
from svg.operations import MOST_SCORES_CPU, renormalised
from svg.placement import resident, send
from svg.plan import AttentionPlan

# Attention scores held at a time on a GPU: few beside a model's activations, so that no run's peak memory is theirs.
MOST_SCORES_GPU = 2**24
# Means over the sampled rows that are video tokens; a text token has neither frame nor place.
OF_VIDEO_ROWS = ("same_frame_mass", "same_position_mass")
OF_ALL_ROWS = ("first_frame_mass", "text_mass", "entropy")


@dataclass(frozen=True, eq=False)
class HeadStatistics:
    """Statistics of every head of one call.

    Args:
        num_rows: Queries that were sampled.
        num_video_rows: Those of them that are video tokens, which ``OF_VIDEO_ROWS`` are means over.
        values: float32 ``(batch, num_heads)`` by name, on the device of the call; see ``head_statistics``.
    """

    num_rows: int
    num_video_rows: int
    values: dict[str, torch.Tensor]

    def on_host(self) -> HeadStatistics:
        """Return the same on the CPU."""
        return replace(self, values={name: value.cpu() for name, value in self.values.items()})

    def join(self, others: Sequence[HeadStatistics]) -> HeadStatistics:
        """Return the statistics of these heads and, after them, of other heads of the same call."""
        parts = [self, *others]
        return replace(self, values={name: torch.cat([part.values[name] for part in parts], 1) for name in self.values})


def head_statistics(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: torch.Tensor,
    layout: TokenLayout,
    plan: AttentionPlan,
) -> HeadStatistics:
    """Return where the full attention of sampled queries goes, and what the plan's patterns keep of it.

    Computed in float32, a few heads and rows at a time; does not wait for the device. A mass is a share of the
    attention probability of a row, in [0, 1], averaged over rows:

    - ``same_frame_mass``: on the query's own frame, itself included; NaN where no sampled row is a video token
    - ``same_position_mass``: on the query's own place in all frames, itself included; NaN likewise
    - ``first_frame_mass``: on the first frame; ``text_mass``: on the text, 0 where there is none
    - ``entropy``: of the probability, over that of equal attention to all keys; in [0, 1]

    Of a sparse plan also, for the pattern that each head takes:

    - ``kept_mass``: on the pairs that the pattern keeps
    - ``output_error``: mean squared error of its output against full attention; a row that keeps less than float32 can
      hold counts as zero output
    - ``relative_l2_error``: the L2 norm of that error over all rows, over that of full attention's output

    And where the palette's patterns have names of their own, so that every head had a choice of them:

    - ``regret``: ``output_error`` less that of the palette's best pattern on these rows, at least 0
    - ``agreement``: 1 where the head takes the pattern that ``oracle_choice`` would (the best on these rows, the first
      of equals), else 0

    Args:
        query: ``(batch, num_heads, rows, head_dim)``, finished queries of the sampled rows, in their order.
        key: ``(batch, num_heads, seq_len, head_dim)``, all keys, in the original order.
        value: The same shape.
        rows: LongTensor ``(rows,)`` on the CPU, original positions of the queries; at least one, none of padding.
        layout: Token counts of the sequence.
        plan: What the call computes; its ``key_lengths`` are padding here, too.

    Raises:
        ValueError: If the layout does not fit, or ``rows`` is empty, out of range or of another length than ``query``.
    """
    layout.check(key.shape[2])
    _check_rows(rows, query, layout, plan.key_lengths)
    (batch, num_heads, num_rows), device = query.shape[:3], query.device
    lengths = [layout.seq_len] * batch if plan.key_lengths is None else plan.key_lengths.tolist()
    most = MOST_SCORES_CPU if device.type == "cpu" else MOST_SCORES_GPU
    # Masks are made for all heads at once, with whole numbers of 8 bytes on the way: fewer rows than of scores.
    rows_at_once = min(num_rows, max(1, most // 4 // layout.seq_len))
    heads_at_once = max(1, most // (rows_at_once * layout.seq_len))
    is_video = (rows >= layout.video_start) & (rows < layout.video_stop)
    candidates = None if plan.is_dense else _candidates(plan, batch, num_heads, device)
    tally = {name: torch.zeros(batch, num_heads, device=device) for name in OF_VIDEO_ROWS + OF_ALL_ROWS}
    if candidates is not None:
        tally |= {name: torch.zeros(candidates.shape, device=device) for name in ("kept_mass", "output_error")}
        tally["output_square"] = torch.zeros(batch, num_heads, device=device)
    positions = torch.arange(layout.seq_len, device=device)
    for start in range(0, num_rows, rows_at_once):
        part = slice(start, start + rows_at_once)
        places = send(rows[part], device)
        own = _own(rows[part], layout, device)
        if candidates is not None:
            keeps = torch.stack([pattern.keep(places[:, None], positions[None, :]) for pattern in plan.patterns])
        for item, length in enumerate(lengths):
            for first in range(0, num_heads, heads_at_once):
                heads = slice(first, first + heads_at_once)
                probability = _probability(query[item, heads, part], key[item, heads], length)
                for name, total in _masses(probability, own, layout, length).items():
                    tally[name][item, heads] += total
                if candidates is not None:
                    kept, error, square = _losses(probability, value[item, heads], keeps, candidates[:, item, heads])
                    tally["kept_mass"][:, item, heads] += kept
                    tally["output_error"][:, item, heads] += error
                    tally["output_square"][item, heads] += square
    num_video_rows = int(is_video.sum())
    values = {name: total / (num_video_rows if name in OF_VIDEO_ROWS else num_rows) for name, total in tally.items()}
    if candidates is not None:
        values |= _of_choice(values, plan)
    return HeadStatistics(num_rows, num_video_rows, values)


def _check_rows(rows: torch.Tensor, query: torch.Tensor, layout: TokenLayout, key_lengths: torch.Tensor | None) -> None:
    stop = layout.seq_len if key_lengths is None else int(key_lengths.min())
    if rows.device.type != "cpu" or rows.shape != query.shape[2:3] or rows.numel() == 0:
        raise ValueError(
            f"rows of shape {tuple(rows.shape)} on {rows.device} for {query.shape[2]} queries; there must be one "
            f"position on the CPU for each query, and at least one"
        )
    if int(rows.min()) < 0 or int(rows.max()) >= stop:
        raise ValueError(
            f"rows holds positions from {int(rows.min())} to {int(rows.max())}; they must be in 0 to {stop - 1}"
        )


def has_choice(plan: AttentionPlan) -> bool:
    """Return whether the heads chose from the palette; patterns of one name are each made for a head of its own."""
    names = {pattern.name for pattern in plan.patterns}
    return len(names) == len(plan.patterns) > 1


def _candidates(plan: AttentionPlan, batch: int, num_heads: int, device: torch.device) -> torch.Tensor:
    """Return which patterns to try on each head, ``(candidates, batch, num_heads)``: the palette, or its own one."""
    if has_choice(plan):
        return torch.arange(len(plan.patterns), device=device)[:, None, None].expand(-1, batch, num_heads)
    return resident(plan.assignment, device).expand(batch, num_heads)[None]


def _own(rows: torch.Tensor, layout: TokenLayout, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return the video tokens among the rows: their places there, their frames and their positions in a frame."""
    at = ((rows >= layout.video_start) & (rows < layout.video_stop)).nonzero().flatten()
    token = rows[at] - layout.video_start
    own = (at, token // layout.tokens_per_frame, token % layout.tokens_per_frame)
    return tuple(send(index, device) for index in own)


def _probability(query: torch.Tensor, key: torch.Tensor, length: int) -> torch.Tensor:
    """Return the attention of ``(heads, rows, head_dim)`` to all keys, ``(heads, rows, seq_len)``."""
    scores = (query.float() @ key.float().transpose(-1, -2)).mul_(query.shape[-1] ** -0.5)
    scores[..., length:] = -torch.inf
    return scores.softmax(-1)


def _masses(
    probability: torch.Tensor, own: tuple[torch.Tensor, ...], layout: TokenLayout, length: int
) -> dict[str, torch.Tensor]:
    """Return sums over rows of where the probability lies, ``(heads,)`` each."""
    video = probability[..., layout.video_start : layout.video_stop]
    video = video.unflatten(-1, (layout.num_frames, layout.tokens_per_frame))
    of_frame, of_position = video.sum(-1), video.sum(-2)
    at, frame, position = own
    # Equal attention to the keys that there are; one key leaves nothing to spread.
    greatest = torch.tensor(float(max(length, 2))).log().item()
    return {
        "same_frame_mass": of_frame[:, at, frame].sum(-1),
        "same_position_mass": of_position[:, at, position].sum(-1),
        "first_frame_mass": of_frame[..., 0].sum(-1),
        "text_mass": probability[..., layout.text_start : layout.text_stop].sum((-1, -2)),
        "entropy": torch.special.entr(probability).sum((-1, -2)) / greatest,
    }


def _losses(
    probability: torch.Tensor, value: torch.Tensor, keeps: torch.Tensor, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return sums over rows: the mass kept and the squared error, ``(candidates, heads)``, and full attention's square.

    Args:
        probability: ``(heads, rows, seq_len)``.
        value: ``(heads, seq_len, head_dim)``.
        keeps: bool ``(patterns, rows, seq_len)``.
        candidates: Pattern of each head, ``(candidates, heads)``.
    """
    value = value.float()
    full = renormalised(probability, value)
    kept, errors = [], []
    for pattern in candidates:
        weighted = probability * keeps[pattern]
        kept.append(weighted.sum((-1, -2)))
        errors.append((renormalised(weighted, value) - full).square().mean(-1).sum(-1))
    return torch.stack(kept), torch.stack(errors), full.square().mean(-1).sum(-1)


def _of_choice(values: dict[str, torch.Tensor], plan: AttentionPlan) -> dict[str, torch.Tensor]:
    """Return what replaces the values of every candidate: those of the pattern that each head takes.

    Takes ``output_square`` out of ``values``: it is the mean square that relative errors are relative to.
    """
    kept, errors = values["kept_mass"], values["output_error"]
    square = values.pop("output_square").clamp(min=torch.finfo(torch.float32).tiny)
    if not has_choice(plan):
        return {"kept_mass": kept[0], "output_error": errors[0], "relative_l2_error": (errors[0] / square).sqrt()}
    taken = resident(plan.assignment, errors.device).expand(errors.shape[1:])[None]
    error = errors.gather(0, taken)[0]
    return {
        "kept_mass": kept.gather(0, taken)[0],
        "output_error": error,
        "relative_l2_error": (error / square).sqrt(),
        "regret": error - errors.amin(0),
        "agreement": (errors.argmin(0) == taken[0]).float(),
    }
