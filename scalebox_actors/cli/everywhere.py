"""One view over all sites: every command that looks asks the clerk of each, the own one first."""

from collections.abc import AsyncIterator

from scalebox_actors.clerk import Clerk, Far
from scalebox_actors.cli.output import say
from scalebox_actors.cli.session import Session
from scalebox_actors.errors import Unavailable
from scalebox_actors.questions import Desk, Page, Question, pages


async def desks(session: Session) -> list[Desk]:
    """Return where the clerk of every site is asked, that of the own site first."""
    own, topology = session.names.site, session.topology
    found: list[Desk] = []
    for site in sorted(topology.site_names, key=lambda name: name != own):
        near = session.near.get(site)
        if near is None:
            found.append(Far(session.site.link, session.names.at(site)))
        else:
            found.append(Clerk(near, await near.broker(), topology))
    return found


async def ask(session: Session, question: Question) -> AsyncIterator[tuple[str, Page]]:
    """Give the answers of every site that is reachable, with its name; of the others, say so."""
    for desk in await desks(session):
        try:
            async for page in pages(desk, question):
                yield desk.site, page
        except Unavailable as error:
            if desk.site in session.near:
                raise
            say(f"{error}: what is there is not in this answer")


def several(session: Session) -> bool:
    """Whether it has to be said which site something is at."""
    return len(session.topology.site_names) > 1
