"""Energy and carbon of a run, as an estimate: processor time x watts a core x grams of CO2 a kilowatt hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headstart.report.reading import number, part, text
from headstart.report.words import duration

__all__ = ["CARBON", "GPU_WATTS", "WATTS", "Footprint", "footprint", "footprint_words"]

WATTS = 12.0
"""Watts of a busy core: the value for any processor in Green Algorithms (Lannelongue et al. 2021, TDP_cpu.csv)."""

GPU_WATTS = 300.0
"""Watts of a graphics card at work."""

CARBON = 475.0
"""Grams of CO2 a kilowatt hour: the world's average (IEA, Global Energy & CO2 Status Report 2019)."""


class Footprint(NamedTuple):
    """An estimate with what it was made of. `whole`: no earlier part of the run, before a resume, is left out."""

    kwh: float
    grams: float
    processor_seconds: float
    gpu_seconds: float
    watts: float
    carbon: float
    whole: bool


def footprint(run: Mapping[str, Any], *, watts: float = WATTS, carbon: float = CARBON) -> Footprint | None:
    """The estimate for a run's record; None where it holds no processor time.

    `watts` are those of a busy core, `carbon` the grams of CO2 a kilowatt hour. Where a graphics card was used, it
    counts with GPU_WATTS over the run's whole time. Of several processes each is taken to have worked like the first.
    """
    own = number(run, "work", "processor", "seconds")
    if own is None:
        return None
    processes = max(1.0, number(run, "environment", "processes") or 1.0)
    on_gpu = text(run, "environment", "device").startswith("cuda")
    seconds, gpu = own * processes, (number(run, "seconds", "total") or 0.0) * processes * on_gpu
    kwh = (seconds * watts + gpu * GPU_WATTS) / 3.6e6
    whole = part(run, "work", "processor", "whole") is not False
    return Footprint(kwh, kwh * carbon, seconds, gpu, watts, carbon, whole)


def footprint_words(found: Footprint | None) -> str:
    """The estimate in words, with its assumptions; "" without one."""
    if found is None:
        return ""
    gpu = f", {duration(found.gpu_seconds)} of a graphics card at {GPU_WATTS:g} W" if found.gpu_seconds else ""
    power = " (the Green Algorithms value for any processor)" if found.watts == WATTS else ""
    grid = " (the world's average, IEA 2019)" if found.carbon == CARBON else ""
    left = "" if found.whole else " What the run used before it was resumed is not counted."
    return (
        f"About {_amount(1000 * found.kwh)} Wh and {_amount(found.grams)} g of CO2, an estimate and no measurement: "
        f"{duration(found.processor_seconds)} of processor time (measured, over all cores) at {found.watts:g} W a "
        f"core{power}{gpu}, and {found.carbon:g} g of CO2 a kWh{grid}.{left} Memory, disks, cooling, what "
        "earlier runs had kept and the pretraining of the source are not counted."
    )


def _amount(value: float) -> str:
    """Two digits that count: an estimate has no more."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
