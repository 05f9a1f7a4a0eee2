"""The simulated answer. Every system returns the same text, so that each byte can be checked."""

from __future__ import annotations

TOKENS = tuple(f" t{number:03d}" for number in range(1000))
MODEL = "sim"
PADDING = "x" * 200


def text_of(seed: int, tokens: int) -> str:
    return "".join(TOKENS[(seed + at) % 1000] for at in range(tokens))


def request_body(seed: int, tokens: int, *, stream: bool, itl: int, background: bool = False) -> bytes:
    """Returns a request as an SDK sends it, always equally long, so that its headers are the same. `itl`:
    milliseconds.
    """
    more = ',"background":true' if background else ""
    return (
        f'{{"model":"{MODEL}","messages":[{{"role":"system","content":"You are a helpful assistant."}},'
        f'{{"role":"user","content":"seed={seed % 1000:03d} itl={itl} {PADDING}"}}],'
        f'"max_tokens":{tokens},"stream":{"true" if stream else "false"},"temperature":0.7{more}}}'
    ).encode()
