"""The simulated memory, measured from outside: programs whose cycles are known but for the memory."""

from collections.abc import Callable

import numpy as np
import pytest

from codesign.execution import run_on_rtl
from hardware.accelerator import Memory
from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, FIELDS, INSTRUCTION_WORDS, encode
from hardware.layer import Layer
from hardware.operands import Operands
from sim.run import Job, simulate_jobs


@pytest.fixture(scope="module")
def read_cycles(tiny) -> Callable[[int, int], int]:
    """Busy cycles of a machine that reads one illegal instruction and stops: request, words, one look at the opcode."""
    image = encode(dict.fromkeys(FIELDS, 0))

    def measure(latency: int, cycles_per_word: int) -> int:
        memory = Memory(latency=latency, cycles_per_word=cycles_per_word)
        (outcome,) = simulate_jobs([Job(image, 0, 0, 0, cycle_limit=10_000)], tiny, memory).outcomes
        assert outcome.error == ERROR_ILLEGAL_INSTRUCTION
        return outcome.cycles

    return measure


def test_latency_0_brings_the_first_word_in_the_next_cycle(read_cycles):
    assert read_cycles(0, 1) == 1 + INSTRUCTION_WORDS + 1


@pytest.mark.parametrize("latency", [1, 2, 33, 1000])
def test_latency_delays_the_words_of_a_request_once(read_cycles, latency):
    assert read_cycles(latency, 1) - read_cycles(0, 1) == latency
    assert read_cycles(latency, 5) - read_cycles(0, 5) == latency


@pytest.mark.parametrize("cycles_per_word", [2, 7, 64])
def test_every_word_but_the_first_waits_for_the_one_before(read_cycles, cycles_per_word):
    assert read_cycles(3, cycles_per_word) - read_cycles(3, 1) == (INSTRUCTION_WORDS - 1) * (cycles_per_word - 1)


def slope(accelerator, in_channels: int, out_channels: int, cycles_per_word: int) -> float:
    """Cycles that one more image costs a fully connected layer of 1 bit."""

    def operands(images: int) -> Operands:
        layer = Layer("fc", "linear", in_channels, out_channels, images=images)
        weights = np.zeros((out_channels, in_channels, 1, 1), dtype=np.int64)
        activations = np.zeros((images, in_channels, 1, 1), dtype=np.int64)
        return Operands(layer, weights, activations, (1,) * out_channels, 1)

    memory = Memory(latency=4, cycles_per_word=cycles_per_word)
    more, fewer = run_on_rtl([operands(60), operands(20)], accelerator, memory).layers
    return (more.rtl_cycles - fewer.rtl_cycles) / 40


@pytest.mark.parametrize("cycles_per_word", [8, 16, 64])
def test_results_take_the_write_channel_word_by_word(tiny, cycles_per_word):
    # One word in, eight words out for every image.
    assert slope(tiny, in_channels=64, out_channels=16, cycles_per_word=cycles_per_word) == 8 * cycles_per_word


@pytest.mark.parametrize("cycles_per_word", [8, 16, 64])
def test_operands_take_the_read_channel_word_by_word(tiny, cycles_per_word):
    # Ten words in, one word out for every image.
    assert slope(tiny, in_channels=640, out_channels=2, cycles_per_word=cycles_per_word) == 10 * cycles_per_word


def test_reads_and_writes_do_not_share_a_channel(tiny):
    # Eight words in and eight out: with one channel for both an image would cost 16 words.
    assert slope(tiny, in_channels=512, out_channels=16, cycles_per_word=16) == 8 * 16
