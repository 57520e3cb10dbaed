"""What the DP-CDVAE paper says of its systems, claim by claim, and its numbers beside ours.

Source: Pakornchote et al., Sci. Rep. 14, 1275 (2024), sections on reconstruction, generation and ground state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from generative.metrics.papers import papers
from tasks.papers.claims import NETWORK_CALLS, Claim, Number, stated_share

PAPER_NAMES: dict[str, str] = {
    "cdvae": "CDVAE",
    "cdvae-fourier": "CDVAE+Fourier",
    "dp-cdvae": "DP-CDVAE",
    "dp-cdvae-na": "DP-CDVAE+Na",
    "dp-cdvae-gine": "DP-CDVAE+GINE",
    "dp-cdvae-na-gine": "DP-CDVAE+Na+GINE",
}
VARIANTS = ("dp-cdvae", "dp-cdvae-na", "dp-cdvae-gine", "dp-cdvae-na-gine")
GINE, NO_GINE = ("dp-cdvae-gine", "dp-cdvae-na-gine"), ("dp-cdvae", "dp-cdvae-na")
DATASETS = ("perov-5", "carbon-24", "mp-20")
OUR_METRICS = {
    ("reconstruct", "match rate"): "match rate, published gate",
    ("reconstruct", "mean rms"): "mean rms, published gate",
}
"""Names of our metrics where they differ from the paper's."""


class PaperNumbers:
    """The paper's tables, as papers.yaml states them."""

    PROTOCOLS: Mapping[str, str] = {
        "reconstruct": "cdvae reconstruction",
        "generate": "cdvae generation",
        "ground-state": "ground state by DFT",
    }
    CALLS: Mapping[str, float] = {"langevin": 5000.0, "eq7": 999.0, "eq6": 999.0}
    """Network calls per batch that the published settings make."""
    TEST_CRYSTALS: Mapping[str, int] = {"perov-5": 3785, "carbon-24": 2030, "mp-20": 9046}
    COUNTS: Mapping[str, int] = {"generate": 10_240, "ground-state": 100}
    """Denominators of its shares, from which their errors follow; for other metrics it states none."""

    def number(self, stage: str, dataset: str, system: str, reverse: str, metric: str) -> Number | None:
        """A value of Tables 1, S1, 2 or 3."""
        if metric == NETWORK_CALLS:
            return Number(self.CALLS[reverse])
        conditions = "reverse step of Eq. 6" if reverse == "eq6" else ""
        value = _stated().get((self.PROTOCOLS[stage], dataset, PAPER_NAMES[system], conditions), {}).get(metric)
        if value is None:
            return None
        if _units()[metric] != "%":
            return Number(value)
        n = self.TEST_CRYSTALS[dataset] if stage == "reconstruct" or metric == "COV-R" else self.COUNTS[stage]
        return stated_share(value, n)


@lru_cache(maxsize=1)
def _units() -> dict[str, str]:
    return {name: unit for row in papers() for name, unit in row.units.items()}


@lru_cache(maxsize=1)
def _stated() -> dict[tuple[str, str, str, str], dict[str, float]]:
    rows = [row for row in papers() if row.table.startswith("dp-cdvae-")]
    return {
        (row.protocol, row.dataset, row.system, row.conditions if "Eq. 6" in row.conditions else ""): row.values
        for row in rows
    }


def name_of(system: str, reverse: str) -> str:
    """A system's name in the paper, with the reverse step where it is not the default."""
    return PAPER_NAMES[system] + (", Eq. 6" if reverse == "eq6" else "")


def _all(systems: tuple[str, ...] | str, reverse: str = "") -> tuple[tuple[str, str], ...]:
    names = (systems,) if isinstance(systems, str) else systems
    return tuple((name, reverse or ("eq7" if name.startswith("dp-") else "langevin")) for name in names)


def claims() -> tuple[Claim, ...]:
    """All claims, in the order of the tables."""
    return (*_reconstruction(), *_reverse_steps(), *_generation(), *_ground_state(), *_calls())


def _reconstruction() -> Iterator[Claim]:
    for dataset in DATASETS:

        def claim(text: str, metric: str, high: str | tuple[str, ...], low: str | tuple[str, ...]) -> Claim:
            return Claim(text, "Table 1", "reconstruct", dataset, metric, _all(high), _all(low))  # noqa: B023

        yield claim("CDVAE matches more than every DP-CDVAE", "match rate", "cdvae", VARIANTS)
        yield claim("+Na raises the match rate of DP-CDVAE", "match rate", "dp-cdvae-na", "dp-cdvae")
        if dataset == "perov-5":
            yield claim("+Na lowers the rms of DP-CDVAE", "mean rms", "dp-cdvae", "dp-cdvae-na")
        else:
            yield claim("+Na worsens the rms of DP-CDVAE", "mean rms", "dp-cdvae-na", "dp-cdvae")
        if dataset == "mp-20":
            yield claim("GINE raises the match rate of DP-CDVAE", "match rate", GINE, "dp-cdvae")
            yield claim("GINE worsens the rms of DP-CDVAE", "mean rms", GINE, "dp-cdvae")
        else:
            yield claim("GINE lowers the match rate of DP-CDVAE", "match rate", "dp-cdvae", GINE)


def _reverse_steps() -> Iterator[Claim]:
    for dataset in DATASETS:
        for system in VARIANTS:
            text = f"{PAPER_NAMES[system]}: Eq. 7 matches more than Eq. 6"
            high, low = _all(system, "eq7"), _all(system, "eq6")
            yield Claim(text, "Tables 1 and S1", "reconstruct", dataset, "match rate", high, low)


def _generation() -> Iterator[Claim]:
    everyone = _all(("cdvae", *VARIANTS))
    for dataset in DATASETS:

        def claim(text: str, metric: str, high: str | tuple[str, ...], low: str | tuple[str, ...]) -> Claim:
            return Claim(text, "Table 2", "generate", dataset, metric, _all(high), _all(low))  # noqa: B023

        def close(text: str, metric: str) -> Claim:
            sides = (_all(VARIANTS), _all("cdvae"))
            return Claim(text, "Table 2", "generate", dataset, metric, *sides, "within", 5.0)  # noqa: B023

        text = "Nearly all crystals are structurally valid (98 % at least)"
        yield Claim(text, "Table 2", "generate", dataset, "structural validity", everyone, (), "at least", 98.0)
        if dataset != "carbon-24":
            yield close("Composition validity is comparable to CDVAE's (5 points)", "composition validity")
        yield close("COV-R is comparable to CDVAE's (5 points)", "COV-R")
        yield claim("COV-P of CDVAE is higher than of every DP-CDVAE", "COV-P", "cdvae", VARIANTS)
        if dataset != "perov-5":
            yield claim("Density: every DP-CDVAE is closer to the test set than CDVAE", "W density", "cdvae", VARIANTS)
        if dataset == "mp-20":
            for metric in ("W energy", "W number of elements"):
                text = f"{metric[2:].capitalize()}: every DP-CDVAE is closer than CDVAE"
                yield claim(text, metric, "cdvae", VARIANTS)
            for metric in ("W density", "W energy", "W number of elements"):
                yield claim(f"{metric[2:].capitalize()}: GINE brings DP-CDVAE closer", metric, NO_GINE, GINE)


def _ground_state() -> Iterator[Claim]:
    def claim(text: str, metric: str, high: str | tuple[str, ...], low: str | tuple[str, ...]) -> Claim:
        return Claim(text, "Table 3", "ground-state", "carbon-24", metric, _all(high), _all(low))

    others = ("cdvae", "cdvae-fourier")
    yield claim("DP-CDVAE matches its relaxed crystals most often", "match rate", "dp-cdvae", others)
    yield claim("DP-CDVAE has the lowest rms to its relaxed crystals", "mean rms", others, "dp-cdvae")
    yield claim("DP-CDVAE has the lowest rms change of energy", "dE rms", others, "dp-cdvae")
    yield claim("DP-CDVAE changes its volume less than CDVAE", "dV rms", "cdvae", "dp-cdvae")
    yield claim("CDVAE+Fourier has the lowest rms change of volume", "dV rms", ("cdvae", "dp-cdvae"), "cdvae-fourier")


def _calls() -> Iterator[Claim]:
    for dataset in DATASETS:
        text = "DP-CDVAE calls its network less often for a crystal than CDVAE"
        high, low = _all("cdvae"), _all(VARIANTS)
        yield Claim(text, "settings", "generate", dataset, NETWORK_CALLS, high, low)
