"""The skid register: nothing is lost, doubled or overtaken, and nothing takes longer."""

import numpy as np
import pytest

from rtl.skid import Skid


@pytest.mark.parametrize("offered", [1.0, 0.5])
@pytest.mark.parametrize("taken", [1.0, 0.5, 0.2])
def test_transfers_pass_without_delay_and_one_is_held(simulate, offered, taken):
    rng = np.random.default_rng(int(10 * offered + 100 * taken))
    skid, sent, seen = Skid(16), [], []

    async def testbench(ctx):
        value, valid, held = 0, False, False
        for _ in range(500):
            if not valid and rng.random() < offered:  # what is offered stays until it is taken
                value, valid = int(rng.integers(1 << 16)), True
            ctx.set(skid.input.valid, valid)
            ctx.set(skid.input.payload, value if valid else int(rng.integers(1 << 16)))
            # The register is free or not whatever the consumer says in this cycle.
            for ready in (0, 1):
                ctx.set(skid.output.ready, ready)
                assert bool(ctx.get(skid.input.ready)) == (not held)
            takes = bool(rng.random() < taken)
            ctx.set(skid.output.ready, takes)
            assert bool(ctx.get(skid.output.valid)) == (held or valid)
            if valid and not held:
                sent.append(value)
            if held or valid:
                assert ctx.get(skid.output.payload) == sent[len(seen)]
                if takes:
                    seen.append(sent[len(seen)])
            if not held:
                valid = False
            held = len(sent) > len(seen)
            assert len(sent) - len(seen) <= 1
            await ctx.tick()

    simulate(skid, testbench)
    assert len(seen) > 50
    if offered == taken == 1.0:
        assert len(seen) == 500  # one in every cycle
