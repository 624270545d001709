import pytest
import torch
from torch import nn

from lipo_e_ray.latent.set_transformer import ISAB, MAB, PMA, SetEncoder

HIDDEN, HEADS, WIDTH = 16, 4, 12


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def elements():
    return torch.randn(3, 5, HIDDEN)


@pytest.fixture
def mask():
    return torch.tensor([[True] * 5, [True, True, True, False, False], [False] * 5])


def test_attention_is_torch_s_own_multihead_attention(elements):
    block, reference = MAB(HIDDEN, HEADS), nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True)
    with torch.no_grad():
        layers = (block.query, block.key, block.value)
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        reference.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        reference.out_proj.load_state_dict(block.out.state_dict())
    queries = torch.randn(3, 2, HIDDEN)
    attended = queries + reference(queries, elements, elements)[0]
    hidden = block.norm_attention(attended)
    torch.testing.assert_close(block(queries, elements), block.norm_out(hidden + block.feed_forward(hidden)))


def test_hidden_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of heads, got hidden=10 and heads=4"):
        MAB(10, 4)


def test_a_query_that_sees_only_padding_receives_nothing(elements, mask):
    block = MAB(HIDDEN, HEADS)
    queries = torch.randn(3, 2, HIDDEN)
    hidden = block.norm_attention(queries[2] + block.out.bias)
    attended = block(queries, elements, mask)
    torch.testing.assert_close(attended[2], block.norm_out(hidden + block.feed_forward(hidden)))
    attended.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


@pytest.mark.parametrize("block", [lambda: ISAB(HIDDEN, HEADS, 3), lambda: PMA(HIDDEN, HEADS)], ids=["ISAB", "PMA"])
def test_padding_is_not_read(block, elements, mask):
    block = block()
    other = torch.where(mask[..., None], elements, torch.randn_like(elements) * 100)
    before, after = block(elements, mask), block(other, mask)
    real = (lambda out: out[mask]) if before.ndim == 3 else (lambda out: out)
    torch.testing.assert_close(real(before), real(after))


def test_isab_is_equivariant_and_pma_invariant(elements, mask):
    order = torch.tensor([2, 0, 1, 4, 3])
    isab, pma = ISAB(HIDDEN, HEADS, 3), PMA(HIDDEN, HEADS)
    torch.testing.assert_close(
        isab(elements, mask)[:, order], isab(elements[:, order], mask[:, order]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(pma(elements, mask), pma(elements[:, order], mask[:, order]), atol=1e-5, rtol=0)
    assert pma(elements, mask).shape == (3, HIDDEN)


class TestSetEncoder:
    @pytest.fixture
    def encoder(self):
        return SetEncoder(WIDTH, HIDDEN, HEADS, 3)

    def test_order_does_not_matter(self, encoder):
        sets, mask = torch.randn(4, 8, WIDTH), torch.rand(4, 8) < 0.6
        order = torch.randperm(8)
        torch.testing.assert_close(encoder(sets, mask), encoder(sets[:, order], mask[:, order]), atol=1e-5, rtol=0)

    def test_padding_may_hold_anything(self, encoder):
        sets, mask = torch.randn(2, 4, WIDTH), torch.tensor([[True, True, False, False], [False] * 4])
        expected = encoder(sets, mask)
        torch.testing.assert_close(encoder(sets.masked_fill(~mask[..., None], torch.nan), mask), expected)
        torch.testing.assert_close(encoder(sets[:, :2], mask[:, :2]), expected)

    def test_the_empty_set_is_a_point_of_its_own_with_finite_gradients(self, encoder):
        empty = encoder(torch.randn(2, 4, WIDTH), torch.zeros(2, 4, dtype=torch.bool))
        torch.testing.assert_close(empty[0], empty[1])
        torch.testing.assert_close(encoder(torch.empty(1, 0, WIDTH), torch.empty(1, 0, dtype=torch.bool))[0], empty[0])
        (empty**2).sum().backward()
        assert encoder.empty.grad.abs().sum() > 0
        assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)

    def test_one_element_twice_is_not_the_element_once(self, encoder):
        one = torch.randn(1, 1, WIDTH)
        twice = encoder(one.expand(1, 2, WIDTH), torch.ones(1, 2, dtype=torch.bool))
        assert (encoder(one, torch.ones(1, 1, dtype=torch.bool)) - twice).abs().max() > 1e-3
