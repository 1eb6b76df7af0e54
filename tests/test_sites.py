"""The operator behind which compiled code attends: it is what PyTorch asks of one, and finds its site by the handle."""

from __future__ import annotations

import pytest
import torch

from svg import sites


@pytest.mark.slow
def test_the_operator_is_what_pytorch_asks_of_one_and_its_output_lies_as_was_promised():
    handle = sites.new_handle()

    def site(query, key, value, rotation, num_apart):
        # Two views of one tensor, whose channels stand before its tokens in memory.
        mixed = (query + 2 * key + value * rotation[0].sum()).transpose(1, 2).contiguous().transpose(1, 2)
        return mixed[:, :-num_apart], mixed[:, -num_apart:]

    shut = sites.open_site(handle, site)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, 6, generator=generator)
    arguments = query, key, value, [torch.ones(5, 3)], 2, handle
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    torch.library.opcheck(sites.attend, arguments, test_utils=tests)
    most, apart = sites.attend(*arguments)
    assert most.is_contiguous() and apart.is_contiguous()
    assert (most.shape[1], apart.shape[1]) == (3, 2)
    shut()
    with pytest.raises(KeyError):
        sites.attend(*arguments)


def test_each_handle_finds_its_own_site_and_is_no_constant_of_a_graph():
    handles = [sites.new_handle() for _ in range(3)]
    shuts = [
        sites.open_site(handle, lambda q, k, v, r, n, add=add: (q + add, q[:, :0]))
        for add, handle in enumerate(handles)
    ]
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    call = torch.compile(lambda x, handle: sites.attend(x, x, x, [], 0, handle), backend=keep, fullgraph=True)
    x = torch.zeros(1, 2, 3)
    assert [int(call(x, handle)[0][0, 0, 0]) for handle in handles] == [0, 1, 2]
    assert len(graphs) == 1
    for shut in shuts:
        shut()
    torch._dynamo.reset()
