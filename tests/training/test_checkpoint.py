from __future__ import annotations

import json
import random

import numpy as np
import torch

from carvana.training.checkpoint import generator_states, restore_generators

CPU = torch.device("cpu")


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))]  # noqa: NPY002


def test_what_is_drawn_after_restoring_is_what_would_have_been_drawn() -> None:
    """Also the second of a pair of normal numbers, which both Python and NumPy keep for later."""
    draws()
    states = json.loads(json.dumps(generator_states(CPU)))
    expected = [draws() for _ in range(3)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the generator that others may still draw from
    torch.manual_seed(1)
    assert draws() != expected[0]
    restore_generators(states, CPU)
    assert [draws() for _ in range(3)] == expected
