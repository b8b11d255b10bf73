"""The mixture of schemes: its equations, their gradients, and what it picks when only the error counts."""

import itertools
import math

import pytest
import torch

from hardware.errors import InputError
from policies.scheme_search import FLOOR, SchemeSearch, candidates, temperature
from policies.schemes import ACTIVATION_SCHEMES, WEIGHT_SCHEMES, activation_scheme, weight_scheme

CANDIDATES = candidates([weight_scheme(name) for name in WEIGHT_SCHEMES], 3)
UNSIGNED = candidates([activation_scheme(name, signed=False) for name in ACTIVATION_SCHEMES], 3)
N = len(CANDIDATES)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tilt(search, seed=5):
    """Some theta that is not all equal."""
    with torch.no_grad():
        for index, theta in enumerate(search.parameters()):
            theta.copy_(0.5 * normal(len(theta), seed=seed + index))
    return search


def test_candidates_are_the_widest_widths():
    assert [(scheme.letter, bits) for scheme, bits in CANDIDATES] == [
        *[("B", 1), ("T", 2), ("Q", 2)],
        *[(letter, 3) for letter in "FRZCP"],
    ]
    assert {s.letter: bits for s, bits in candidates([c[0] for c in CANDIDATES], 8)}["P"] == 4
    assert [scheme.letter for scheme, _ in candidates([c[0] for c in CANDIDATES], 1)] == ["B"]


def test_temperatures():
    assert temperature(0, 150) == 5
    assert temperature(75, 150) == 5 / 8
    assert temperature(150, 150) == FLOOR
    assert temperature(75, 150, first=4, gamma=1) == 2
    assert temperature(75, 150, schedule="B") == pytest.approx(5 * math.exp(-1.5))
    assert temperature(150, 150, gamma=20, schedule="B") == FLOOR
    for schedule in "AB":
        falling = [temperature(e, 150, schedule=schedule) for e in range(151)]
        assert all(later <= earlier for earlier, later in itertools.pairwise(falling))
    with pytest.raises(InputError, match="unknown schedule 'C'"):
        temperature(0, 1, schedule="C")
    for epoch, epochs in ((-1, 10), (11, 10), (0, 0)):
        with pytest.raises(InputError, match=f"got {epoch} of {epochs}"):
            temperature(epoch, epochs)


def test_all_candidates_start_alike_and_noise_draws_them_by_their_probabilities():
    search = SchemeSearch({"conv": CANDIDATES}, hard=True)
    assert search.probabilities("conv").tolist() == [1 / N] * N
    assert search.choice("conv") == CANDIDATES[0]
    tilt(search)
    drawn = torch.zeros(N)
    for _ in range(4000):
        search.draw(1.0)
        drawn += search.shares("conv").detach()
    torch.testing.assert_close(drawn / 4000, search.probabilities("conv").float(), atol=0.02, rtol=0)
    assert search.choice("conv") == CANDIDATES[int(search.probabilities("conv").argmax())]


def test_the_noise_is_gumbels():
    search = SchemeSearch({f"v{i}": CANDIDATES for i in range(4000)})
    search.draw(1.0)
    noise = torch.cat(list(search.state_dict()["noise"].values()))
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.02)  # Euler's constant
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_both_limits_of_the_temperature():
    x = normal(500)
    soft, hard = SchemeSearch({"conv": CANDIDATES}, seed=3), SchemeSearch({"conv": CANDIDATES}, hard=True, seed=3)
    for search in (soft, hard):
        tilt(search).draw(1e9)
    torch.testing.assert_close(soft.shares("conv"), torch.full((N,), 1 / N, dtype=torch.float64))
    parts = [scheme.quantize(x, bits, scheme.fit(x, bits)) for scheme, bits in CANDIDATES]
    torch.testing.assert_close(soft.mix("conv", x), torch.stack(parts).mean(0))
    assert hard.shares("conv").sum() == hard.shares("conv").max() == 1  # hard at any temperature
    for search in (soft, hard):
        search.draw(1e-6)
    index = int(hard.shares("conv").argmax())
    torch.testing.assert_close(soft.shares("conv"), hard.shares("conv"))
    torch.testing.assert_close(soft.mix("conv", x), parts[index])
    assert torch.equal(hard.mix("conv", x), parts[index])


@pytest.mark.parametrize("tau", [0.3, 1.0, 5.0])
def test_gradients_are_those_of_finite_differences(tau):
    """And of the closed form: ``b_k / t * <G, Q_k - d_q>`` in theta, the shares of unclipped candidates in x."""
    search = tilt(SchemeSearch({"conv": CANDIDATES}, seed=1))
    search.draw(tau)
    x = (2 * normal(300, seed=2)).requires_grad_()
    target = normal(300, seed=3)

    def loss():
        return ((search.mix("conv", x) - target) ** 2).sum() / 2

    loss().backward()
    (theta,) = search.parameters()
    with torch.no_grad():
        b, mixed = search.shares("conv"), search.mix("conv", x)
        upstream = mixed - target
        fits = [scheme.fit(x, bits) for scheme, bits in CANDIDATES]
        parts = [s.quantize(x, bits, fit) for (s, bits), fit in zip(CANDIDATES, fits, strict=True)]
        closed = torch.stack([b[k] / tau * (upstream * (parts[k] - mixed)).sum() for k in range(N)])
        torch.testing.assert_close(theta.grad, closed, rtol=1e-10, atol=1e-10)
        for k in range(N):
            step = 1e-5
            theta[k] += step
            above = loss()
            theta[k] -= 2 * step
            below = loss()
            theta[k] += step
            torch.testing.assert_close((above - below) / (2 * step), closed[k], rtol=1e-6, atol=1e-7)
        clip = [scheme.name for scheme, _ in CANDIDATES].index("clip")
        passes = torch.ones(N, 300, dtype=torch.float64)
        passes[clip] = (x.abs() <= 3.5 * fits[clip]).double()
        assert 0 < passes[clip].sum() < 300
        torch.testing.assert_close(x.grad, (b[:, None] * passes).sum(0) * upstream)


def test_hard_shares_have_the_gradient_of_soft_ones():
    x, target = normal(200, seed=1), normal(200, seed=2)
    search = tilt(SchemeSearch({"conv": CANDIDATES}, hard=True, seed=4))
    search.draw(2.0)
    search_soft = SchemeSearch({"conv": CANDIDATES}, seed=4)
    tilt(search_soft).draw(2.0)
    mixed = search.mix("conv", x)
    (mixed * target).sum().backward()
    (search_soft.mix("conv", x) * target).sum().backward()
    torch.testing.assert_close(search.parameters()[0].grad, search_soft.parameters()[0].grad)


def test_vertices_of_a_group_share_theta_and_its_gradient_is_their_sum():
    names = ["conv1", "conv2", "input1", "input2"]
    vertices = dict(zip(names, [CANDIDATES, CANDIDATES, UNSIGNED, UNSIGNED], strict=True))
    groups = dict(zip(names, ["weights", "weights", "activations", "activations"], strict=True))
    fine, coarse = SchemeSearch(vertices), SchemeSearch(vertices, groups)
    assert [len(theta) for theta in fine.parameters()] == [N, N, 5, 5]
    assert [len(theta) for theta in coarse.parameters()] == [N, 5]
    coarse.draw(1.0)
    assert torch.equal(coarse.shares("conv1"), coarse.shares("conv2"))
    fine.draw(1.0)
    assert not torch.equal(fine.shares("conv1"), fine.shares("conv2"))

    x = {name: normal(50, seed=seed).abs() for seed, name in enumerate(names)}

    def gradient(*vertices):
        losses = [(coarse.mix(name, x[name]) ** 3).sum() for name in vertices]
        return torch.autograd.grad(sum(losses), coarse.parameters()[0])[0]

    torch.testing.assert_close(gradient("conv1", "conv2"), gradient("conv1") + gradient("conv2"))
    with torch.no_grad():
        coarse.parameters()[0][6] = 1
    assert coarse.choice("conv1") == coarse.choice("conv2") == CANDIDATES[6]


@pytest.mark.parametrize("hard", [False, True])
def test_the_expected_price_is_differentiable(hard):
    prices = torch.linspace(1, 20, N, dtype=torch.float64)
    search = tilt(SchemeSearch({"conv": CANDIDATES}, hard=hard, seed=7))
    search.draw(0.7)
    soft = tilt(SchemeSearch({"conv": CANDIDATES}, seed=7))
    soft.draw(0.7)
    price = search.price("conv", prices)
    assert price.item() == pytest.approx((search.shares("conv") * prices).sum().item())
    price.backward()
    b = soft.shares("conv").detach()
    expected = b / 0.7 * (prices - (b * prices).sum())
    torch.testing.assert_close(search.parameters()[0].grad, expected)
    for wrong in ([1.0], [*prices[:-1], math.inf], [*prices[:-1], math.nan]):
        with pytest.raises(InputError, match=f"expected {N} finite prices for vertex 'conv'"):
            search.price("conv", wrong)


def test_a_price_moves_the_choice():
    x = normal(2000, dtype=torch.float32)
    prices = [bits**2 / 9 for _, bits in CANDIDATES]
    for weight, expected in ((0.0, "clip"), (10.0, "binary")):
        search = SchemeSearch({"conv": CANDIDATES})
        train(search, {"conv": x}, 400, lambda name, s=search, w=weight: w * s.price(name, prices))
        assert search.choice("conv")[0].name == expected


def test_parameters_may_be_given():
    x = normal(100).abs()
    search = SchemeSearch({"input": UNSIGNED})
    fitted = [scheme.fit(x, bits) for scheme, bits in UNSIGNED]
    assert torch.equal(search.mix("input", x, fitted), search.mix("input", x))
    assert not torch.equal(search.mix("input", x, [2 * each for each in fitted]), search.mix("input", x))


def test_a_saved_search_continues_bit_for_bit():
    x = normal(100, dtype=torch.float32)

    def steps(search, optimizer, count):
        for _ in range(count):
            search.draw(1.5)
            optimizer.zero_grad()
            (search.mix("conv", x) - x).square().sum().backward()
            optimizer.step()

    def build(seed):
        search = SchemeSearch({"conv": CANDIDATES}, seed=seed)
        return search, torch.optim.SGD(search.parameters(), 0.1)

    first, optimizer = build(1)
    steps(first, optimizer, 5)
    saved = first.state_dict()
    steps(first, optimizer, 5)
    second, optimizer = build(2)
    second.load_state_dict(saved)
    assert second.temperature == 1.5
    steps(second, optimizer, 5)
    assert torch.equal(first.parameters()[0], second.parameters()[0])
    assert torch.equal(first.shares("conv"), second.shares("conv"))
    for other in (
        SchemeSearch({"fc": CANDIDATES}),
        SchemeSearch({"conv": CANDIDATES[1:]}),
        SchemeSearch({"conv": CANDIDATES}, hard=True),
    ):
        with pytest.raises(InputError, match="expected the state of a scheme search with the same"):
            other.load_state_dict(saved)


def test_what_is_refused():
    with pytest.raises(InputError, match="expected candidates for vertex 'conv', got none"):
        SchemeSearch({"conv": ()})
    with pytest.raises(InputError, match="got none for 'conv': add it to the groups"):
        SchemeSearch({"conv": CANDIDATES}, {"fc": "weights"})
    with pytest.raises(InputError, match="same candidates in all of group 'all', got others for vertex 'input'"):
        SchemeSearch({"conv": CANDIDATES, "input": UNSIGNED}, {"conv": "all", "input": "all"})
    search = SchemeSearch({"conv": CANDIDATES})
    with pytest.raises(InputError, match="unknown vertex 'cnov': did you mean 'conv'"):
        search.choice("cnov")
    with pytest.raises(InputError, match="expected a positive temperature, got 0"):
        search.draw(0)


def train(search, tensors, steps, penalty=None):
    """Theta alone, on the relative squared error of every tensor."""
    optimizer = torch.optim.Adam(search.parameters(), 0.02)
    fits = {name: [s.fit(x, bits) for s, bits in search.candidates(name)] for name, x in tensors.items()}
    for step in range(steps):
        search.draw(temperature(step, steps, first=1.0, gamma=1.0))
        optimizer.zero_grad()
        loss = torch.zeros(())
        for name, x in tensors.items():
            loss = loss + (search.mix(name, x, fits[name]) - x).square().sum() / x.square().sum()
            loss = loss if penalty is None else loss + penalty(name)
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("constants", ["optimal", "paper"])
def test_what_has_the_least_error_is_picked(constants):
    """ClipQ for normal weights, PotQ for heavy tails, ZoomQ or ResQ, which are alike there, for uniform ones.

    One seed: with the optimal constants one run in twenty ends at the second best of the first two, by noise.
    On this heavy tail PotQ's error is .305 with the optimal constants, .236 with the paper's; ClipQ's is .320.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(5000, generator=generator)
    signs = torch.randint(0, 2, (5000,), generator=generator) * 2 - 1
    tensors = {
        "normal": drawn,
        "log-normal": signs * drawn.exp(),
        "uniform": 2 * torch.rand(5000, generator=generator) - 1,
    }
    offered = candidates([weight_scheme(name, constants) for name in WEIGHT_SCHEMES], 3)
    search = SchemeSearch(dict.fromkeys(tensors, offered))
    train(search, tensors, 1000)
    chosen = {name: search.choice(name)[0].name for name in tensors}
    assert chosen["normal"] == "clip"
    assert chosen["log-normal"] == "pot"
    assert chosen["uniform"] in ("zoom", "res")
    for name, x in tensors.items():
        errors = [float((s.quantize(x, bits, s.fit(x, bits)) - x).square().sum()) for s, bits in offered]
        scheme, bits = search.choice(name)
        error = float((scheme.quantize(x, bits, scheme.fit(x, bits)) - x).square().sum())
        assert error <= 1.001 * min(errors)
