"""What a server accepts, and how it gathers requests. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of a server. Each is positive, except `gather_ms`, which may be 0.

    Attributes:
        max_body: bytes of a request's body; more: 413.
        max_texts: inputs of a request; more: 422.
        max_tokens: tokens of a request's inputs, before any is cut to the encoder's limit; more: 422.
        max_queue_tokens: tokens that wait for the model, counted apart for each lane (see `Lanes`); more: 429.
        max_connections: open connections; more: 503.
        timeout: seconds that a request may wait for its answer; longer: 503.
        body_timeout: seconds in which a request's body must have arrived; longer: 408.
        gather_ms: milliseconds that a request waits for others, so that they share a pass of the encoder.
        batch_tokens: tokens of one pass of the encoder; a single longer text is a pass by itself. The default is for
            CPUs, where longer passes are hardly faster.
    """

    max_body: int = 2**20
    max_texts: int = 256
    max_tokens: int = 16384
    max_queue_tokens: int = 65536
    max_connections: int = 512
    timeout: float = 60
    body_timeout: float = 10
    gather_ms: float = 2
    batch_tokens: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "gather_ms" else 1
            if not value >= least:
                raise InputError(f"--{field.name} is {value}, but must be {least} or more")
