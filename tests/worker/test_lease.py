"""A lease leaves nothing behind that only a garbage collection would free: its claim may hold a request of 20 MB."""

import gc
import weakref

from shared.backends.embedded.backend import open_embedded
from shared.ports import AttemptFenced, Claim
from worker.lease import held


class Owner:
    def lost(self, fenced: AttemptFenced) -> None: ...


async def test_what_a_lease_refers_to_is_freed_at_its_end() -> None:
    async with open_embedded(None) as backend:
        gc.disable()
        try:
            owner = Owner()
            freed = weakref.ref(owner)
            claim = Claim("chatcmpl-1", attempt=1, tries=0, lost=0, offset=0)
            async with held(backend.store, claim, 30.0, lost=owner.lost):
                pass
            del owner
            assert freed() is None
        finally:
            gc.enable()
