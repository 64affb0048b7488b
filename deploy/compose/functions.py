"""The functions of the topology beside: primes up to a number, in ten parts."""

import json
from typing import Protocol

PARTS = 10


class Message(Protocol):
    """What a function is given."""

    @property
    def body(self) -> bytes:
        """The message."""
        ...


async def split(message: Message) -> list[str]:
    """Cut the numbers up to the body into parts."""
    size = -(-int(message.body) // PARTS)
    return [f"{part * size + 1} {(part + 1) * size}" for part in range(PARTS)]


async def count(message: Message) -> str:
    """Count the primes of one part."""
    first, last = map(int, message.body.split())
    return str(sum(is_prime(number) for number in range(first, last + 1)))


async def total(message: Message) -> str:
    """Add up."""
    return str(sum(map(int, json.loads(message.body)["members"])))


def is_prime(number: int) -> bool:
    """Whether a number is prime."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
