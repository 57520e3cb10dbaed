"""A campaign: which DFT jobs belong together, where their folders are, and how they are run.

`campaign.json` in a folder of its own (a discovery run's, or one made for files) names the jobs by their keys; the job
folders lie in one root that campaigns share, so that what one has computed another finds done.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pymatgen.core.structure import Structure

from dft.campaign.config import DftConfig
from dft.config import StoreConfig
from dft.job_folder import Job as Calculation
from dft.job_folder import Purpose, planned_job, write_job
from dft.structures import read_structure
from dft.submission.files import write_json
from storage.atomic import sweep
from storage.checksums import DamagedFileError
from storage.documents import read_document

SCHEMA_VERSION = "1"
FILE = "campaign.json"


class CampaignError(ValueError):
    """A folder without a campaign, or one that cannot be used."""


class DamagedCampaignError(CampaignError):
    """A campaign whose file does not hold what was written."""


@dataclass(frozen=True)
class Wanted:
    """A crystal to be computed.

    Attributes:
        id: of the candidate or competing phase.
        structure: what the job starts from.
        purpose: 'relaxation' of a candidate, 'reference' for a competing phase.
        generated: the crystal as it was generated, where `structure` was relaxed before.
        lineage: plain JSON, from the crystal back to where it came from.
    """

    id: str
    structure: Structure
    purpose: str
    generated: Structure | None = None
    lineage: dict[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """One job of a campaign.

    Attributes:
        key: of its folder.
        candidate_id: of the candidate or competing phase.
        purpose: 'relaxation', 'reference' or 'static'.
        formula: reduced.
        generated: Structure.as_dict() of the crystal as generated; None if it was not relaxed before.
        static_key: of the job that computes the generated crystal as it is; None where the job itself begins with it.
    """

    key: str
    candidate_id: str
    purpose: str
    formula: str
    generated: dict[str, Any] | None = None
    static_key: str | None = None

    @property
    def generated_structure(self) -> Structure | None:
        """The crystal as it was generated.

        Raises: CampaignError: if it is no crystal.
        """
        try:
            return None if self.generated is None else read_structure(self.generated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CampaignError(f"the generated crystal of job {self.key} cannot be read: {error}") from error


@dataclass(frozen=True)
class Campaign:
    """Jobs that belong together.

    Attributes:
        folder: holds campaign.json, the job store and the tables.
        name: of the campaign.
        root: of the job folders.
        dft: engine and submission.
        store: where records go.
        jobs: in the order in which they are submitted.
        notes: what the user should know of the choice of jobs.
    """

    folder: Path
    name: str
    root: Path
    dft: DftConfig
    store: StoreConfig
    jobs: tuple[Job, ...]
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Keys of all jobs, in order."""
        return [job.key for job in self.jobs]

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Keys of the jobs named by key (or its beginning), candidate id or formula; all if none is named.

        Raises: CampaignError: if a name is that of no job.
        """
        if not names:
            return self.keys
        found: list[str] = []
        for name in names:
            keys = [job.key for job in self.jobs if name in (job.candidate_id, job.formula) or job.key.startswith(name)]
            if not keys:
                raise CampaignError(
                    f"{name!r} is no job of campaign {self.name}: expected a key, a candidate's id or a formula, as "
                    "`hullward dft status` lists them"
                )
            found += [key for key in keys if key not in found]
        return found

    def write(self) -> None:
        """Put campaign.json in place by one rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        root = Path(os.path.relpath(self.root.absolute(), self.folder.absolute()))
        document = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "root": str(root),  # relative, so that both can be moved together
            "dft": self.dft.model_dump(mode="json"),
            "store": self.store.model_dump(mode="json"),
            "jobs": [asdict(job) for job in self.jobs],
            "notes": list(self.notes),
        }
        write_json(self.folder / FILE, document, checksum=True)

    @classmethod
    def read(cls, folder: Path) -> Campaign:
        """The campaign of a folder.

        Raises: CampaignError: if it holds none that can be used.
        """
        remedy = "submit the same crystals again, which makes it anew; jobs that are done stay done"
        try:
            stated = read_document(folder / FILE, remedy)
        except DamagedFileError as error:
            raise DamagedCampaignError(str(error)) from None
        except OSError:
            stated = {}
        if not stated:
            raise CampaignError(
                f"{folder} has no DFT jobs: expected a folder with {FILE}; `hullward dft submit` makes one of a "
                "finished run or of crystals"
            )
        if (version := stated.get("schema_version")) != SCHEMA_VERSION:
            raise CampaignError(
                f"{folder} holds no {FILE} of version {SCHEMA_VERSION} (found {version}): expected the folder of a run "
                "or of `hullward dft submit`"
            )
        try:
            return cls(
                folder=folder,
                name=stated["name"],
                root=(folder / stated["root"]).resolve(),
                dft=DftConfig.model_validate(stated["dft"]),
                store=StoreConfig.model_validate(stated["store"]),
                jobs=tuple(Job(**job) for job in stated["jobs"]),
                notes=tuple(stated.get("notes", ())),
            )
        except (KeyError, TypeError, ValidationError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DamagedCampaignError(f"{folder / FILE} is damaged ({said}): {remedy}") from None


@dataclass(frozen=True)
class PlannedCampaign:
    """A campaign as it will be on disk.

    Attributes:
        campaign: jobs that are wanted now, then those of other settings that its folder names already.
        calculations: what the folders of the jobs wanted now hold, in their order.
        fault: of the campaign.json that is there; None where it is sound, or there is none.
    """

    campaign: Campaign
    calculations: tuple[Calculation, ...]
    fault: DamagedCampaignError | None = None

    def write(self) -> Campaign:
        """Make the job folders and write the campaign; done twice, the same. Nothing is submitted.

        Returns: The campaign, as written.
        """
        folder, root = self.campaign.folder, self.campaign.root
        root.mkdir(parents=True, exist_ok=True)
        sweep(folder, below=False)
        sweep(root)
        for calculation in self.calculations:
            write_job(root, calculation)
        if self.fault is not None:
            os.replace(folder / FILE, _aside(folder))
        self.campaign.write()
        return Campaign.read(folder)


def plan_campaign(
    folder: Path,
    name: str,
    root: Path,
    dft: DftConfig,
    store: StoreConfig,
    wanted: Sequence[Wanted],
    notes: Sequence[str] = (),
) -> PlannedCampaign:
    """A campaign of these crystals; nothing is written.

    A campaign that is there already is extended: jobs of other settings stay in it, after the ones that are wanted now.

    Args:
        folder: of the campaign.
        name: of the campaign.
        root: of the job folders; made if it is not there.
        dft: engine and submission.
        store: where records are to go.
        wanted: crystals in the order in which they are to be submitted; repeats (same key) are one job.
        notes: what the user should know of the choice.

    Raises: StructureError, JobFolderError: as for dft.job_folder.make_job_folder.
    """
    jobs: dict[str, Job] = {}
    statics: dict[str, Job] = {}
    calculations: dict[str, Calculation] = {}

    def key_of(one: Wanted, structure: Structure, purpose: Purpose) -> str:
        found = planned_job(structure, dft.engine, candidate_id=one.id, purpose=purpose, lineage=one.lineage)
        return calculations.setdefault(found.key, found).key

    for one in wanted:
        formula, purpose = one.structure.composition.reduced_formula, Purpose(one.purpose)
        key, static_key = key_of(one, one.structure, purpose), None
        if dft.with_generated and one.generated is not None:
            static_key = key_of(one, one.generated, Purpose.STATIC)
            statics.setdefault(static_key, Job(static_key, one.id, Purpose.STATIC.value, formula))
        generated = None if one.generated is None else one.generated.as_dict()
        jobs.setdefault(key, Job(key, one.id, purpose.value, formula, generated, static_key))
    jobs |= statics  # what a hull is made of goes first
    said, fault = list(notes), None
    if (folder / FILE).exists():
        try:
            for job in Campaign.read(folder).jobs:
                jobs.setdefault(job.key, job)
        except DamagedCampaignError as error:
            fault = error
            said.append(
                f"{error}; made anew, and kept as {_aside(folder).name}: jobs of other settings that it named are no "
                "longer followed"
            )
    campaign = Campaign(folder, name, root, dft, store, tuple(jobs.values()), tuple(said))
    return PlannedCampaign(campaign, tuple(calculations.values()), fault)


def _aside(folder: Path) -> Path:
    return folder / f"{FILE}.damaged"
