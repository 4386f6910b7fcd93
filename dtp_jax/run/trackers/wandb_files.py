"""What W&B's files of a run hold: the last records of a .wandb file.

They are blocks of 32 KiB. A block has pieces of records, each with a checksum, its length, and which piece
it is: the whole, the first, a middle one, the last. The file begins with seven bytes of its own.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, START, HEAD = 32 * 1024, 7, struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4
TAIL = 64 * BLOCK
"""Of a file, what is read: steps rise, so that the last one is in the end."""


def last_step(folder: Path, id: str) -> int | None:
    """The last step that offline folders of this run hold; None without such a folder.

    Raises:
      Exception: of protobuf's, or OSError; a file is none of these.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    files = list(folder.glob(f"offline-run-*-{id}/run-{id}.wandb"))
    records = (Record.FromString(record) for file in files for record in _records(file))
    steps = (record.history.step.num for record in records if record.HasField("history"))
    return max(steps, default=-1) if files else None


def _records(file: Path) -> Iterator[bytes]:
    """The last records that a file holds whole, in their order."""
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        at = max(0, (size - TAIL) // BLOCK * BLOCK)
        opened.seek(at)
        data, begin = opened.read(), at
    at, record = START if begin == 0 else 0, None
    while at + HEAD.size <= len(data):
        left = BLOCK - (begin + at) % BLOCK
        _, length, kind = HEAD.unpack_from(data, at)
        if left < HEAD.size or kind == 0:  # the rest of a block is empty
            at += left
            continue
        piece, at = data[at + HEAD.size : at + HEAD.size + length], at + HEAD.size + length
        if len(piece) < length:
            return  # half written
        if kind in (WHOLE, FIRST):
            record = b""
        if record is not None:
            record += piece
            if kind in (WHOLE, LAST):
                yield record
                record = None
