"""What a command works on: saved quantized networks, and networks without data."""

import numpy as np
import pytest
import torch

from codesign.integers import IntegerNetwork
from codesign.networks import create_network
from codesign.workload import load_workload, quantized_network, save_quantized
from hardware.errors import InputError
from policies.policy import Policy


def test_a_saved_quantized_network_comes_back_with_its_range(tmp_path):
    workload = load_workload("lenet", seed=0)
    policy = Policy.uniform("lenet", workload.traced.layers, 4, 4)
    quantized = quantized_network(workload, policy, None)
    quantized.layers["conv1"].weight.data += 0.05  # fine-tuned
    quantized.largest_value *= 4  # calibrated elsewhere
    path = tmp_path / "quantized.pt"
    save_quantized(quantized, path)
    again = quantized_network(load_workload("lenet", seed=0, weights=path), policy, path)
    images = workload.images(5)
    before, after = IntegerNetwork(quantized), IntegerNetwork(again)
    assert after.fraction_bits == before.fraction_bits
    assert np.array_equal(after.run(images).scores, before.run(images).scores)


def test_quantized_networks_of_an_older_format_are_refused(tmp_path):
    path = tmp_path / "older.pt"
    torch.save({"format": "codesign-quantized-1", "policy": "", "largest_input": 1.0, "state": {}}, path)
    with pytest.raises(InputError, match="is a codesign-quantized-1 file, expected codesign-quantized-2"):
        load_workload("lenet", seed=0, weights=path)


def test_a_network_whose_data_set_is_only_a_format_sees_random_images(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(create_network("resnet18", seed=3).state_dict(), path)
    workload = load_workload("resnet18", seed=0, weights=path)
    assert workload.data is None
    assert torch.equal(
        workload.traced.graph_module.get_submodule("fc").weight, create_network("resnet18", seed=3).fc.weight
    )
    images = workload.images(2)
    assert images.shape == (2, 3, 224, 224)
    assert images.min() < 0 < images.max()
    assert len(workload.calibration().images) == 6  # fewer than of small images
    with pytest.raises(InputError, match="without images"):
        load_workload("resnet18", seed=0, data="imagenet")
