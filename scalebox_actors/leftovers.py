"""Runs that go on without anybody who has them in hand: what they use is counted until they end.

A node that was killed leaves runs, and its successor hears of each only when its message comes
again, up to a minute later. Until then their share of the host must not be given out.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from scalebox_actors.belongings import belongings
from scalebox_actors.pool import Claim, Pool, Share, read_share, share_text
from scalebox_actors.ports import Runtime, Stray

LOOK_EVERY = 3.0

log = logging.getLogger(__name__)


class Leftovers:
    """Looks after the shares of a node's runs that nobody has in hand."""

    def __init__(
        self,
        runtime: Runtime | None,
        pool: Pool,
        claims: Mapping[str, Claim],
        labels: Mapping[str, str],
        in_hand: Callable[[str], bool],
    ) -> None:
        self._runtime, self._pool, self._in_hand = runtime, pool, in_hand
        self._claims, self._labels = claims, labels
        self._counted = asyncio.Event()
        if runtime is None or not any(claims.values()):
            self._counted.set()

    async def counted(self) -> None:
        """Return once what runs from before is counted: nothing may be started earlier."""
        await self._counted.wait()

    async def look(self) -> None:
        """Count, once, what an earlier life left; then give back what of it has ended.

        Costs nothing when nothing is left.
        """
        if not self._counted.is_set():
            for name, stray in (await self._running()).items():
                share = self._share(stray)
                if share != Share() and not self._in_hand(name):
                    log.info("run_counted", extra={"run": name, "share": share_text(share)})
                    self._pool.adopt((self._node, name), share)
            self._counted.set()
        mine = {name for node, name in self._pool.left if node == self._node}
        if mine:
            for name in mine - (await self._running()).keys():
                self._pool.forget((self._node, name))

    @property
    def _node(self) -> str:
        return self._labels.get("sbx.node", "")

    async def _running(self) -> dict[str, Stray]:
        if self._runtime is None:
            return {}
        mine = await belongings(self._runtime, self._labels)
        return {stray.name: stray for stray in mine if stray.running}

    def _share(self, stray: Stray) -> Share:
        """Read what a run has; without its label, what its module would claim now."""
        told = read_share(stray.labels.get("sbx.share", ""))
        claim = self._claims.get(stray.labels.get("sbx.module", ""), Claim())
        return told or Share(memory=claim.memory, millicpus=claim.millicpus)
