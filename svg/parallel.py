"""One video over several devices: each holds a part of the tokens, and in attention all tokens of a part of the heads.

Source: DeepSpeed Ulysses, arXiv:2309.14509. Text tokens of a joint attention are few: every process holds all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from svg.layout import TokenLayout
from svg.plan import AttentionInputs


class Ulysses:
    """This process among those that share one generation, all of which are handed the same inputs.

    Args:
        group: ``torch.distributed``'s, of at least two processes.
    """

    def __init__(self, group: Any) -> None:
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def split(
        self, adapter: Any, transformer: torch.nn.Module, layout: Callable[[], TokenLayout]
    ) -> list[Callable[[], None]]:
        """Let a transformer's blocks see this process's tokens only, and what follows them all; return what undoes it.

        Where diffusers' own context parallelism is on, which it has for some models, it does so, and nothing is done.

        Args:
            adapter: The model family's. Its ``blocks(transformer)`` are in the order in which they run; what the last
                one returns, or returns first, are its tokens. Its ``token_arguments`` name what a block is handed for
                each token, with the dimension of the tokens and the number of dimensions: what has another number is
                for all tokens alike. ``(0, 0)`` stands for a number of first tokens.
            transformer: To be split.
            layout: Returns the layout of the forward that runs.

        Raises:
            ValueError: If the heads cannot be dealt out evenly, diffusers splits the tokens in another way, or a step
                cache is on.
        """
        modules = adapter.self_attentions(transformer)
        for module in modules:
            if module.heads % self.size:
                raise ValueError(
                    f"parallel is a group of {self.size} processes, which cannot share {module.heads} heads evenly; "
                    f"take a number of processes that divides {module.heads}"
                )
        if getattr(transformer, "is_cache_enabled", False):
            raise ValueError(
                "parallel is given, and the transformer has a step cache, which would see a part of the tokens in each "
                "process and decide for itself; call disable_cache() first"
            )
        if self._is_split(modules[0].processor):
            return []
        if not hasattr(adapter, "token_arguments"):
            raise ValueError(f"parallel is given, and {type(adapter).__name__} has no token_arguments: it cannot split")
        blocks, arguments = adapter.blocks(transformer), adapter.token_arguments

        @torch.compiler.disable
        def cut(names: list[str], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            own = partial(self._own, arguments, layout().num_video_tokens)
            cut_args = tuple(own(name, value) for name, value in zip(names, args, strict=False))
            return cut_args, {name: own(name, value) for name, value in kwargs.items()}

        @torch.compiler.disable
        def whole(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            lengths = self._lengths(layout().num_video_tokens)
            if isinstance(output, torch.Tensor):
                return self._all_tokens(output, lengths)
            return (self._all_tokens(output[0], lengths), *output[1:])

        undo = [blocks[-1].register_forward_hook(whole).remove]
        for block in blocks:
            _, *names = inspect.signature(type(block).forward).parameters
            undo.append(block.register_forward_pre_hook(partial(cut, names), with_kwargs=True).remove)
        return undo

    def _is_split(self, stock: Any) -> bool:
        """Return whether diffusers splits the tokens of a layer, as its processor knows."""
        config = getattr(getattr(stock, "_parallel_config", None), "context_parallel_config", None)
        if config is not None and (config.ring_degree, config.ulysses_degree) != (1, self.size):
            raise ValueError(
                f"parallel is a group of {self.size} processes, and the pipeline's ContextParallelConfig has "
                f"ring_degree={config.ring_degree} and ulysses_degree={config.ulysses_degree}; it must have "
                f"ulysses_degree={self.size} alone"
            )
        return config is not None

    def to_heads(self, inputs: AttentionInputs, layout: TokenLayout) -> AttentionInputs:
        """Return this process's heads with all tokens, of inputs that are its tokens with all heads."""
        num_heads = inputs.num_heads // self.size

        def finish(rows: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
            return rows.unflatten(2, (num_heads, -1)).transpose(1, 2)

        query, key, value = (self._heads(x, layout) for x in (inputs.query(), inputs.key(), inputs.value()))
        lengths = inputs.key_lengths
        if lengths is not None:
            # They count the text, and this process's video tokens before it.
            lengths = lengths + layout.seq_len - inputs.seq_len
        return AttentionInputs(query, key, value, num_heads, finish, finish, key_lengths=lengths)

    def to_tokens(self, output: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Return ``(batch, all heads, own tokens, head_dim)`` of ``(batch, own heads, all tokens, head_dim)``."""
        rows = output.permute(2, 0, 1, 3)
        held = self._held(layout)
        counts = [sum(part.stop - part.start for part in parts) for parts in held]
        sent = torch.cat([rows[part] for parts in held for part in parts])
        mine = self._exchange(sent, counts, [counts[self.rank]] * self.size)
        return mine.unflatten(0, (self.size, -1)).permute(2, 0, 3, 1, 4).flatten(1, 2)

    def gather(self, thing: Any) -> list[Any]:
        """Return everyone's ``thing``, which is pickled, in the order of the ranks."""
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing, group=self.group)
        return things

    def _own(self, arguments: Mapping[str, tuple[int, int]], num_tokens: int, name: str, value: Any) -> Any:
        """Return this process's part of an argument that is given for every token; any other one as it is."""
        if name not in arguments or value is None:
            return value
        if isinstance(value, tuple | list):
            return type(value)(self._own(arguments, num_tokens, name, one) for one in value)
        lengths = self._lengths(num_tokens)
        if isinstance(value, int):
            return min(max(value - sum(lengths[: self.rank]), 0), lengths[self.rank])
        dim, num_dims = arguments[name]
        # From the second block on, the tokens themselves are this process's already.
        is_whole = value.dim() == num_dims and value.shape[dim] == num_tokens
        return value.tensor_split(self.size, dim)[self.rank].contiguous() if is_whole else value

    def _lengths(self, num_tokens: int) -> list[int]:
        """Return how many tokens of the video each process holds; as ``torch.tensor_split``.

        Raises:
            ValueError: If there are fewer tokens than processes.
        """
        if num_tokens < self.size:
            raise ValueError(f"parallel is a group of {self.size} processes, more than the {num_tokens} video tokens")
        each, more = divmod(num_tokens, self.size)
        return [each + (rank < more) for rank in range(self.size)]

    def _held(self, layout: TokenLayout) -> list[list[slice]]:
        """Return which places of the sequence each process holds, in its order: its video tokens and the text."""
        held, start = [], layout.video_start
        for length in self._lengths(layout.num_video_tokens):
            parts = [slice(start, start + length)]
            if layout.num_text_tokens:
                text = slice(layout.text_start, layout.text_stop)
                parts.insert(0 if layout.text_position == "first" else 1, text)
            held.append(parts)
            start += length
        return held

    def _heads(self, x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
        """Return ``(batch, all tokens, own heads * head_dim)`` of ``(batch, all heads, own tokens, head_dim)``."""
        counts, text = self._lengths(layout.num_video_tokens), layout.num_text_tokens
        # The text, which all of them hold, comes from the process whose tokens it stands beside.
        is_first = layout.text_position == "first"
        owner = 0 if is_first else self.size - 1
        if self.rank != owner:
            x = x[:, :, text:] if is_first else x[:, :, : counts[self.rank]]
        counts[owner] += text
        rows = x.unflatten(1, (self.size, -1)).permute(1, 3, 0, 2, 4).flatten(0, 1)
        whole = self._exchange(rows, [counts[self.rank]] * self.size, counts)
        return whole.transpose(0, 1).flatten(2)

    def _all_tokens(self, tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Return ``(batch, all tokens, channels)`` of ``(batch, own tokens, channels)``."""
        rows = tokens.transpose(0, 1).repeat(self.size, 1, 1)
        return self._exchange(rows, [tokens.shape[1]] * self.size, lengths).transpose(0, 1).contiguous()

    def _exchange(self, rows: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        """Send so many rows to each process, in the order of the ranks, and return those that come from each."""
        output = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(output, rows.contiguous(), received, sent, group=self.group)
        return output
