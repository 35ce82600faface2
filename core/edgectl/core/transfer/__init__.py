"""The transfer protocol: one upload over MQTT fans out to many devices, and each proves completeness by hash.

A seeder broadcasts 64 KiB chunks; a device says with a bitmap what it misses; the seeder broadcasts the union
and repairs what is left with sums (XOR) of chunks that different devices miss. An acknowledged message may
still be lost (measured: Mosquitto dropped 38 % of acknowledged chunks), so only hashes count. Everything
here is pure: time in seconds of any monotonic clock is an argument, bytes go in and come out.

Verify chain: signed target → index.json → manifest → descriptor → chunk list (its digest is the annotation
``io.edgectl.chunks``) → each chunk on arrival. Blobs that carry no such annotation are verified as a whole.

:mod:`.messages` is what travels, :mod:`.receiver` the device's side, :mod:`.seeder` the sender's,
:mod:`.limits` the token buckets, :mod:`.peers` who keeps silent when several could send.
"""

from edgectl.core.transfer.limits import Bucket, Rates, TransferLimits
from edgectl.core.transfer.messages import (
    FRAME_BYTES,
    INLINE_BYTES,
    MAX_SUM,
    ChunkFrame,
    DeltaOffer,
    ManifestPage,
    Need,
    Round,
    bitmap,
    chunk_count,
    chunk_hashes,
    chunks_digest,
    decode_frame,
    describe,
    encode_frame,
    indices_of,
    pages_of,
    sum_chunks,
)
from edgectl.core.transfer.peers import Suppression
from edgectl.core.transfer.receiver import Receiver
from edgectl.core.transfer.seeder import Broadcast, Marker, Repair, Seeder, Sum

__all__ = [
    "FRAME_BYTES",
    "INLINE_BYTES",
    "MAX_SUM",
    "Broadcast",
    "Bucket",
    "ChunkFrame",
    "DeltaOffer",
    "ManifestPage",
    "Marker",
    "Need",
    "Rates",
    "Receiver",
    "Repair",
    "Round",
    "Seeder",
    "Sum",
    "Suppression",
    "TransferLimits",
    "bitmap",
    "chunk_count",
    "chunk_hashes",
    "chunks_digest",
    "decode_frame",
    "describe",
    "encode_frame",
    "indices_of",
    "pages_of",
    "sum_chunks",
]
