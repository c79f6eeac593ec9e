"""The bits of small models are the stored ones, with every kernel that runs here."""

import json

import pytest
import same_bits


@pytest.mark.parametrize("isa, gemm", same_bits.KERNELS)
def test_small_models_come_to_the_stored_bits(isa, gemm):
    run = same_bits.bits(isa, gemm)
    if run is None:
        pytest.skip(f"this processor or this build has no kernels {isa}, {gemm}")
    kernels, found = run
    stored = json.loads(same_bits.STORED.read_text()).get(kernels)
    if stored is None:
        pytest.skip(f"no bits stored for {kernels}: python tests/same_bits.py --store")
    differ = sorted(name for name in stored.keys() | found.keys() if stored.get(name) != found.get(name))
    if differ:
        pytest.fail(f"{kernels}: {len(differ)} of {len(found)} pieces differ\n" + "\n".join(differ), pytrace=False)
