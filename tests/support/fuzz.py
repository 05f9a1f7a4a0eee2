"""How many examples the fuzzers try: the same few in each ordinary run, others for every seed of `make fuzz`."""

import os

from hypothesis import settings

EXAMPLES = "IGNITE_TEST_FUZZ"
"""Names the number of examples of each fuzzer."""

SEEDED = "IGNITE_TEST_FUZZ_SEEDED"
"""Set if the examples follow from `--hypothesis-seed`."""


def examples(count: int) -> settings:
    """Returns the hypothesis settings of a fuzzer that tries `count` examples in an ordinary run."""
    return settings(
        max_examples=int(os.environ.get(EXAMPLES, count)),
        derandomize=SEEDED not in os.environ,
        database=None,
        deadline=None,
    )
