"""Random layers on the simulated machine while every channel of its memory ports hesitates at random.

Half of the layers write their sums, half values, bit planes or both; all are compared with a plain integer convolution
and, behind it, the arithmetic of `hardware.arithmetic`. Layers go through all widths and kinds of integers in turn, the
rest of them is random; the bins that they hit are counted (`sim.coverage`). Layers run in chunks; a chunk that is
finished is a line of ``--state`` and is not run again, so an interrupted run goes on where it was.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from common import markdown, write_report

import codesign.requantized
import codesign.sampling
import sim.coverage
from codesign.lowering import LoweredLayer, lower
from codesign.requantized import RequantizedLayer, lower_requantized, random_rules
from codesign.sampling import Numbers, random_operands
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.files import cache_directory, write_text
from hardware.operands import Operands
from hardware.passes import Output
from rtl.verilog import rtl_hash
from sim.coverage import count_hits, coverage_rows
from sim.job import Job, Stalls
from sim.reference import reference_sums
from sim.run import simulate_jobs

NUMBERS = [
    Numbers(weight_bits, activation_bits, signed, signed_activations, bipolar)
    for signed_activations, (signed, bipolar) in product((False, True), ((False, False), (True, False), (True, True)))
    for weight_bits, activation_bits in product(range(1, 9), range(1, 9))
]
"""All widths and kinds; layer n of a run has number n, and after the last comes the first again."""


OUTPUTS = [(False, False), (True, False), (False, True), (True, True)]
"""Whether values and planes are written; sums if neither."""


@dataclass(frozen=True)
class Chunk:
    """What came of some layers: counts, model cycles without stalls, cycles with them, seconds, layers per bin."""

    layers: int
    outputs: int
    mismatches: int
    errors: int
    hangs: int
    model_cycles: int
    cycles: int
    seconds: float
    hits: list[tuple[str, str, int]]


def run_chunk(accelerator: Accelerator, seed: int, number: int, layers: int) -> Chunk:
    """Run chunk ``number``: its layers and stalls depend on ``seed`` and ``number`` alone."""
    begin = time.perf_counter()
    rng = np.random.default_rng([seed, number])
    numbers = range(number * layers, (number + 1) * layers)
    work = [random_operands(rng, accelerator, n, NUMBERS[n % len(NUMBERS)]) for n in numbers]
    sums = [reference_sums(operands) for operands in work]
    lowered = [random_output(rng, *one, accelerator) for one in zip(work, sums, strict=True)]
    model = [layer_cycles(one.schedule) for one in lowered]
    jobs = []
    for one, cycles in zip(lowered, model, strict=True):
        # From a channel that never hesitates to one that moves in one cycle of five.
        ar, r, aw, w, b = (int(v) for v in rng.integers(0, 205, size=5) * (rng.random(5) < 0.7))
        jobs.append(
            Job(
                *(one.image, 0, one.result_address, one.result_words),
                cycle_limit=100 * cycles + 100_000,
                write_range=(one.result_address, one.result_address + one.result_words),
                stalls=Stalls(ar, r, aw, w, b, seed=int(rng.integers(2**31))),
                may_hang=True,
            )
        )
    outcomes = simulate_jobs(jobs, accelerator).outcomes
    ended = [
        count_mismatches(one, outcome.results, expected)
        for one, outcome, expected in zip(lowered, outcomes, sums, strict=True)
        if not outcome.hung
    ]
    ran = count_hits(
        (operands, one.schedule.passes)
        for operands, one, outcome in zip(work, lowered, outcomes, strict=True)
        if not outcome.hung
    )
    return Chunk(
        layers=layers,
        outputs=sum(outputs for outputs, _ in ended),
        mismatches=sum(wrong for _, wrong in ended),
        errors=sum(outcome.error != 0 for outcome in outcomes),
        hangs=sum(outcome.hung for outcome in outcomes),
        model_cycles=sum(model),
        cycles=sum(outcome.cycles for outcome in outcomes),
        seconds=round(time.perf_counter() - begin, 2),
        hits=[(*hit, count) for hit, count in sorted(ran.items())],
    )


def random_output(
    rng: np.random.Generator, operands: Operands, sums: np.ndarray, accelerator: Accelerator
) -> LoweredLayer | RequantizedLayer:
    """The layer's program: every other layer writes its sums, as one does whose constants do not fit the buffers."""
    values, planes = OUTPUTS[rng.integers(1, len(OUTPUTS))] if rng.integers(2) else OUTPUTS[0]
    if not (values or planes):
        return lower(operands, accelerator)
    output = Output(values=values, plane_bits=int(rng.integers(1, 9)) if planes else 0)
    rules = random_rules(rng, operands, sums, output.plane_bits)
    try:
        return lower_requantized(operands, accelerator, output, rules, in_order=bool(rng.integers(2)))
    except InputError:
        return lower(operands, accelerator)


def count_mismatches(
    lowered: LoweredLayer | RequantizedLayer, results: np.ndarray, sums: np.ndarray
) -> tuple[int, int]:
    """Outputs, and how many are wrong."""
    if isinstance(lowered, RequantizedLayer):
        return lowered.count_mismatches(results, sums)
    return sums.size, int((lowered.outputs(results) != sums).sum())


def sources_hash() -> str:
    """Names how layers are drawn and what is noted of them."""
    files = (__file__, codesign.requantized.__file__, codesign.sampling.__file__, sim.coverage.__file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]


def finished_chunks(state: Path, key: dict) -> dict[int, Chunk]:
    """Chunks by number that ``state`` holds of the same machine, seed and size."""
    chunks = {}
    for line in state.read_text(encoding="utf-8").splitlines() if state.exists() else ():
        row = json.loads(line)
        if row["key"] == key:
            chunks[row["number"]] = Chunk(**row["chunk"])
    return chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--chunk", type=int, default=100, help="layers of one simulator process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardware", default="bitserial-tiny")
    parser.add_argument("--state", type=Path, default=cache_directory() / "random_layers.jsonl")
    options = parser.parse_args()
    accelerator = load_accelerator(options.hardware)
    key = {"rtl_hash": rtl_hash(accelerator), "seed": options.seed, "chunk": options.chunk, "layers": sources_hash()}
    done = finished_chunks(options.state, key)
    wanted = range(-(-options.layers // options.chunk))
    for number in wanted:
        if number not in done:
            done[number] = run_chunk(accelerator, options.seed, number, options.chunk)
            lines = options.state.read_text(encoding="utf-8") if options.state.exists() else ""
            row = {"key": key, "number": number, "chunk": vars(done[number])}
            write_text(options.state, lines + json.dumps(row) + "\n")
        figures = {name: value for name, value in vars(done[number]).items() if name != "hits"}
        print(f"chunk {number + 1} of {len(wanted)}: {figures}", flush=True)
    names = [field.name for field in fields(Chunk) if field.name != "hits"]
    total = {name: sum(getattr(done[number], name) for number in wanted) for name in names}
    counts: Counter[tuple[str, str]] = Counter()
    for number in wanted:
        counts.update({(group, one): layers for group, one, layers in done[number].hits})
    row = {
        "accelerator": accelerator.name,
        "layers": f"{total['layers']:,}",
        "outputs": f"{total['outputs']:,}",
        "mismatching outputs": total["mismatches"],
        "errors": total["errors"],
        "hangs": total["hangs"],
        "cycles without stalls": f"{total['model_cycles']:,}",
        "cycles": f"{total['cycles']:,}",
        "seconds": f"{total['seconds']:,.0f}",
    }
    covered = pd.DataFrame(coverage_rows(accelerator, counts))
    write_report(
        "random_layers",
        "Random layers behind a hesitating memory",
        [
            "Random shapes, strides, dilations, groups and pruned kernels; widths of 1 to 8 bits and kinds of integers "
            "in turn. Half of the layers write their sums, half values, bit planes or both. In each layer every "
            "channel (AR, R, AW, W, B) hesitates with a random probability of 0 to 80 % per cycle, three in ten not at "
            "all. Every output is compared with a plain integer convolution (of planes, wrong bits are counted), every "
            f"write must lie in the results. Machine {key['rtl_hash']}.",
            markdown(pd.DataFrame([row])),
            f"Coverage: {covered['hit'].sum()} of {covered['bins'].sum()} bins were hit. The first two groups cross "
            "what they name, the others count one property; a layer of several passes or widths hits several bins.",
            markdown(covered),
        ],
    )


if __name__ == "__main__":
    main()
