"""What a result says of itself: bits that add up, a text for each, and one error where they are not wanted."""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Array, Int

__all__ = ["HasStatus", "ResultError", "StatusBits"]


class StatusBits(enum.IntFlag):
    """Base of statuses. A member is a bit and its text, which says what is wrong and what to do."""

    message: str

    def __new__(cls, bit: int, message: str = "") -> Self:
        """A member, or a sum of several."""
        member = int.__new__(cls, bit)
        member._value_ = bit
        member.message = message
        return member

    @classmethod
    def messages_of(cls, status: Any) -> tuple[str, ...]:
        """What bits say, once for each kind of trouble anywhere in the batch; empty where all is well."""
        found = int(np.bitwise_or.reduce(np.asarray(status), axis=None))
        return tuple(member.message for member in cls if found & member)


class ResultError(RuntimeError):
    """A result whose status is not 0."""


class HasStatus:
    """A result, or a batch of results, with a status."""

    status: Int[Array, "*b"]
    statuses: ClassVar[type[StatusBits]]

    @property
    def messages(self) -> tuple[str, ...]:
        """What the status says, once for each kind of trouble anywhere in the batch; empty where all is well."""
        return self.statuses.messages_of(self.status)

    def raise_if_failed(self) -> Self:
        """Return self, or raise a `ResultError` that names the first of the batch whose status is not 0."""
        status = np.asarray(self.status)
        failed = np.argwhere(status)
        if len(failed):
            index = tuple(map(int, failed[0]))
            texts = " ".join(self.statuses.messages_of(status[index]))
            where = f" {index if len(index) > 1 else index[0]}" if index else ""
            share = f" ({len(failed)} of {status.size} failed)" if index else ""
            raise ResultError(f"{type(self).__name__}{where}: {texts}{share}")
        return self
