"""Crystals for an energy and for a formula, and how near they come; the latent space before and after the fusion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core.composition import Composition

from configs.condition_reproduction import FOR_ENERGIES, FOR_FORMULAS, ConditionReproductionConfig
from dft.config import RelaxConfig
from generative.crystal.crystals import Crystal
from generative.metrics.metric import Metric
from generative.metrics.shares import percentage
from generative.metrics.validity import unreadable, verdicts
from generative.requests import Request
from tasks.papers.condition_cdvae import drawing
from tasks.papers.condition_cdvae.bilayers import energies_by_potential
from tasks.papers.results import Made, Measured, Progress, ResultKey, mean_error, share_error
from tasks.papers.samples import Drawn

if TYPE_CHECKING:
    from torch import Tensor

    from generative.crystal.batch import CrystalBatch
    from generative.systems.condition_cdvae.system import ConditionCDVAE
    from generative.training.data import TrainingSet

FREE = "free"
"""How crystals are asked for of which nothing is asked: the control beside those with a target."""

JUDGED, BY_POTENTIAL = "energy, judged", "energy, by the potential"

N_NEAREST = 10
"""Neighbours in the latent space that are asked whether they are of the same group."""
N_ENCODED = 600
"""Test crystals whose latent vectors are shown."""


# --- energies ---------------------------------------------------------------------------------------------------------


def target_key(dataset: str, target: float | None) -> ResultKey:
    """The result of asking for an energy; of None for nothing."""
    return ResultKey("energies", dataset, FOR_ENERGIES, FREE if target is None else f"to{target:g}")


def target_of(key: ResultKey) -> float | None:
    """The energy that a result was asked for; None for nothing."""
    return None if key.reverse == FREE else float(key.reverse.removeprefix("to"))


def energies_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What crystals for an energy, and the metrics of them, depend on.

    Raises: NotReadyError: if the system, or the network that judges, is not trained.
    """
    asked = config.energies
    return {
        **drawing.drawing_inputs(config, key),
        "judge": drawing.checkpoint_of(config, key.dataset, "")[1],
        "n": asked.n,
        "within": asked.within,
        "relax": None if asked.relax is None else asked.relax.model_dump(mode="json", exclude={"chunk_size"}),
    }


def for_energy(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Crystals for an energy, and the energies that they have by the judge and by the potential."""
    target, entry, asked = target_of(key), config.dataset(key.dataset), config.energies
    request = Request() if target is None else Request(formation_energy_ev_per_atom=target)
    drawn = drawing.answered(config, key, [request] * asked.n, progress)
    valid = valid_ones(drawn)
    judged = drawing.judge_of(config, key.dataset).predict(valid.crystals, ())
    values: dict[str, Sequence[float]] = {JUDGED: judged.tolist()}
    if asked.relax is not None:
        values[BY_POTENTIAL] = energies_by_potential(config, asked.relax, valid, key.folder(config), progress)
    shares = [percentage("conditional", "valid samples", len(valid.ids), len(drawn.ids), {})]
    metrics = [share_error(share) for share in shares]
    for name, found in values.items():
        metrics += number_metrics(name, found, entry.unit, target, asked.within)
    curves = {name: [[float(i), v] for i, v in enumerate(found) if math.isfinite(v)] for name, found in values.items()}
    return Made(tuple(metrics), drawn.sampling, curves)


def number_metrics(
    name: str, values: Sequence[float], unit: str, target: float | None, within: float
) -> tuple[Measured, ...]:
    """Mean, spread and distance from the target of numbers, and the share that comes near it.

    Args:
        name: of the energy or other property.
        values: of the valid samples; NaN where there is none, which counts in nothing.
        unit: theirs.
        target: what was asked for; None for nothing.
        within: how close counts as met.
    """
    known = np.array([value for value in values if math.isfinite(value)])
    n, reason = len(known), "" if len(known) else "no sample has this number"

    def mean(what: str, of: np.ndarray) -> Measured:
        value = float(of.mean()) if n else math.nan
        return mean_error(Metric("conditional", f"{name}: {what}", value, unit, n, reason), of.tolist())

    spread = float(known.std(ddof=1)) if n > 1 else math.nan
    found = [
        mean("mean", known),
        Measured(Metric("conditional", f"{name}: standard deviation", spread, unit, n, reason)),
    ]
    if target is not None:
        away = np.abs(known - target)
        found.append(mean("mean distance from the target", away))
        near = percentage("conditional", f"{name}: within reach", int((away <= within).sum()), n, {"within": within})
        found.append(share_error(near))
    return tuple(found)


def valid_ones(drawn: Drawn) -> Drawn:
    """Those that CDVAE's rule calls structurally valid."""
    sound = verdicts(drawn.crystals).structure
    kept = [i for i, crystal in enumerate(drawn.crystals) if sound[i] and not unreadable(crystal)]
    return Drawn(tuple(drawn.ids[i] for i in kept), tuple(drawn.crystals[i] for i in kept), drawn.sampling)


def code_of_potential(config: ConditionReproductionConfig) -> tuple[Any, ...]:
    """Code of the potential that computes energies anew, if one does."""
    from tasks.loading import potential_code

    relax: RelaxConfig | None = config.energies.relax
    return () if relax is None else potential_code(relax)


# --- formulas ---------------------------------------------------------------------------------------------------------


def formula_key(dataset: str, formula: str | None) -> ResultKey:
    """The result of asking for a formula; of None for nothing."""
    return ResultKey("formulas", dataset, FOR_FORMULAS, FREE if formula is None else formula)


def formulas_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What crystals for a formula, and the metrics of them, depend on.

    Raises: NotReadyError: if the system is not trained.
    """
    chosen = config.formulas.formulas if key.reverse == FREE else (key.reverse,)
    return {**drawing.drawing_inputs(config, key), "n": config.formulas.n, "formulas": chosen}


def for_formula(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Crystals for a formula, nothing forced, and how many are of it; for none, how many are of one of those asked."""
    free = key.reverse == FREE
    request = Request() if free else Request.of(counts_of(key.reverse))
    drawn = drawing.answered(config, key, [request] * config.formulas.n, progress)
    wanted = [counts_of(formula) for formula in (config.formulas.formulas if free else (key.reverse,))]
    return Made(formula_metrics(drawn.crystals, wanted), drawn.sampling)


def counts_of(formula: str) -> dict[str, int]:
    """Atoms of each element in a cell of this formula."""
    return {str(symbol): int(n) for symbol, n in Composition(formula).get_el_amt_dict().items()}


def formula_metrics(crystals: Sequence[Crystal], wanted: Sequence[Mapping[str, int]]) -> tuple[Measured, ...]:
    """Shares of samples of a wanted formula, of its elements, of its number of atoms; of all samples.

    Args: samples, failed ones among them; cells of the formulas, of which one is enough.
    """
    hits: Counter[str] = Counter()
    cells = [Composition(counts) for counts in wanted]
    for crystal in crystals:
        if unreadable(crystal):
            continue
        found = crystal.to_structure().composition
        hits["of the formula"] += any(found.reduced_formula == cell.reduced_formula for cell in cells)
        hits["of its elements"] += any(set(found.elements) == set(cell.elements) for cell in cells)
        hits["of its number of atoms"] += any(found.num_atoms == cell.num_atoms for cell in cells)
    valid = sum(verdicts(crystals).structure)
    names = ("of the formula", "of its elements", "of its number of atoms")
    shares = [percentage("conditional", name, hits[name], len(crystals), {}) for name in names]
    shares.append(percentage("conditional", "valid samples", valid, len(crystals), {}))
    return tuple(share_error(share) for share in shares)


# --- the latent space -------------------------------------------------------------------------------------------------


def latents_inputs(config: ConditionReproductionConfig, key: ResultKey) -> dict[str, Any]:
    """What the picture of a latent space depends on.

    Raises: NotReadyError: if the system is not trained.
    """
    return drawing.drawing_inputs(config, key)


def latents(config: ConditionReproductionConfig, key: ResultKey, progress: Progress) -> Made:
    """Test crystals in the latent space, before (z) and after the fusion (z_c): t-SNE, and whose neighbours are alike.

    Groups are thirds of the energies, or the most frequent formulas: what the model is told. A crystal's own condition
    enters z_c, so alike neighbours say that the fusion hears it, not that the encoder has understood it.
    """
    import torch
    from sklearn.manifold import TSNE

    from generative.systems.condition_cdvae.system import ConditionCDVAE
    from tasks.loading import checkpoint as load

    entry = config.dataset(key.dataset)
    test = drawing.parts_of(config, entry).test
    some = test.subset(drawing.rows_of(len(test), N_ENCODED, config.seed))
    system = load(drawing.checkpoint_of(config, key.dataset, key.system)[0], config.execution).system
    assert isinstance(system, ConditionCDVAE)
    bonds = drawing.bonds_of(config, entry, some.crystals)
    groups = _energy_groups(some.energies) if key.system == FOR_ENERGIES else _formula_groups(some.crystals)
    kept = [i for i, group in enumerate(groups) if group and bonds[i] is not None]
    known = some.subset(kept)
    known.bonds = [bond for i in kept if (bond := bonds[i]) is not None]
    with torch.no_grad():
        z = encoded(system, known)
        heard = system.heard_of(_batch(system, known), z)
    spaces = {"z": z.cpu().numpy(), "z_c": heard.cpu().numpy()}
    names = [groups[i] for i in kept]
    metrics, curves = [], {}
    for space, vectors in spaces.items():
        progress(f"latent space {space}", 0, 1)
        metrics.append(_alike(space, vectors, names))
        perplexity = min(30.0, max(2.0, len(vectors) / 4))
        points = TSNE(random_state=config.seed, init="pca", perplexity=perplexity).fit_transform(vectors)
        for group in sorted(set(names)):
            curves[f"{space}, {group}"] = [
                [float(x), float(y)] for (x, y), name in zip(points, names, strict=True) if name == group
            ]
    return Made(tuple(metrics), {"n": len(kept)}, curves)


def _energy_groups(energies: Sequence[float | None]) -> list[str]:
    known = np.array([value for value in energies if value is not None])
    low, high = np.quantile(known, [1 / 3, 2 / 3]) if len(known) else (0.0, 0.0)
    named = {True: f"1 below {low:.2f}", False: f"3 above {high:.2f}"}
    return [
        "" if value is None else named[value < low] if not low <= value <= high else "2 between" for value in energies
    ]


def _formula_groups(crystals: Sequence[Crystal]) -> list[str]:
    """Reduced formulas, the six most frequent; others are in no group."""
    formulas = [crystal.to_structure().composition.reduced_formula for crystal in crystals]
    often = {formula for formula, _ in Counter(formulas).most_common(6)}
    return [formula if formula in often else "" for formula in formulas]


def _batch(system: ConditionCDVAE, data: TrainingSet) -> CrystalBatch:
    return system.arranged(data)[list(range(len(data)))].to(system.lattice_shift.device)


def encoded(system: ConditionCDVAE, data: TrainingSet) -> Tensor:
    """Means of the latent vectors of crystals with bonds, (n, L)."""
    return system.encode(_batch(system, data)).mean


def _alike(space: str, vectors: np.ndarray, groups: Sequence[str]) -> Measured:
    """The share of a crystal's nearest neighbours that are of its group."""
    away = np.square(vectors[:, None] - vectors[None]).sum(-1)
    np.fill_diagonal(away, np.inf)
    k = min(N_NEAREST, len(vectors) - 1)
    nearest = np.argpartition(away, k - 1, axis=1)[:, :k]
    names = np.array(groups)
    shares = 100 * (names[nearest] == names[:, None]).mean(1)
    metric = Metric("latent space", f"neighbours of the group, {space}", float(shares.mean()), "%", len(shares), "")
    return mean_error(metric, shares.tolist())
