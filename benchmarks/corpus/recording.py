"""A long recording for the benchmarks: a short one repeated, packet by packet, without encoding."""

from __future__ import annotations

from pathlib import Path

import av
from av.audio.stream import AudioStream

DEMO = Path(__file__).parents[2] / "examples/demo/feira-dora.webm"


def repeated(source: Path, minutes: float, target: Path) -> Path:
    """Write the audio track of `source` to `target` until it lasts at least `minutes`."""
    offset = 0
    seconds = 0.0
    with av.open(str(target), "w", format="webm") as out:
        stream: AudioStream | None = None
        while seconds < minutes * 60:
            with av.open(str(source)) as container:
                track = container.streams.audio[0]
                if stream is None:
                    stream = out.add_stream_from_template(track)
                end = offset
                for packet in container.demux(track):
                    if packet.pts is None or packet.dts is None:
                        continue
                    end = offset + packet.pts + (packet.duration or 0)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    out.mux(packet)
                    seconds = float(end * packet.time_base)
                offset = end
    return target
