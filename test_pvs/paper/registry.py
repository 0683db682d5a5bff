"""The systems in the paper's tables: which system, config and weights make each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from i2v.build_i2v import build_meta_model
from i2v.load_config import DEFAULT_CONFIG, load_config, shipped_checkpoint
from i2v.modeling.sam_i2v import SAMI2V
from i2v.utils.json_form import NUMBER, require_form
from i2v.utils.messages import nearest
from i2v.utils.published_checkpoints import advice
from i2v.utils.yaml_files import check_yaml
from test_pvs.tables import LAYOUTS

REGISTRY = Path(__file__).parent / "systems.yaml"
_SAM_I2V = "sam-i2v"
_FORMS = {
    **dict.fromkeys(("like", "system", "config", "checkpoint", "source"), str),
    **dict.fromkeys(("parameters", "cost"), NUMBER),
    "overrides": [str],
}


@dataclass(frozen=True)
class PaperSystem:
    """A system in a table; see the comments in systems.yaml.

    Attributes:
        key (str): its name in the registry.
        system (str): name of the system in the harness.
        config (str or None): its config.
        overrides (tuple of str): overrides of the config.
        checkpoint (str or None): its weights; None for those that come with the config.
        source (str or None): where to get them.
        parameters (float or None): number of parameters in millions, if it cannot be counted.
        cost (float or None): cost of the training of the weights in GPUs x GB x hours, above 0; None without a training, or if
            unknown, as for the user's weights.
        trained (bool): the weights are of a training with just these overrides, or named by the user; they do not come with
            another config.
    """

    key: str
    system: str = _SAM_I2V
    config: str | None = None
    overrides: tuple[str, ...] = ()
    checkpoint: str | None = None
    source: str | None = None
    parameters: float | None = None
    cost: float | None = None
    trained: bool = False

    def with_config(self, config: str, row: str) -> tuple[str, PaperSystem]:
        """Return the name of the row and its system with another config, where the system is made of SAM-I2V.

        The weights are those that come with the config, unless the system has its own. A row that is named by an image SAM,
        such as TinySAM + TA, is named by the trunk instead if the config has another one.

        Raises:
            ValueError, FileNotFoundError: see `load_config`.
        """
        if self.system != _SAM_I2V:
            return row, self
        checkpoint = self.checkpoint if self.trained else None
        other = replace(self, config=config, checkpoint=checkpoint, parameters=None, cost=None)
        image_sam, plus, upgrade = row.partition(" + ")
        trunk, name = other._trunk(), row
        if image_sam.endswith("SAM") and plus and trunk != self._trunk():
            name = f"{trunk['_target_'].rpartition('.')[2]} + {upgrade}"
        return f"{name} ({Path(config).stem})", other

    def check_config(self) -> None:
        """Check that the config of a SAM-I2V system exists and takes the overrides.

        Raises:
            ValueError, FileNotFoundError: see `load_config`.
        """
        if self.system == _SAM_I2V:
            self._load_config()

    def missing_weights(self) -> str:
        """What is missing, and where to get it; empty if the weights are there."""
        if self.checkpoint is not None:
            path = Path(self.checkpoint)
            if path.is_file():
                return ""
            where = f"; get it from: {self.source}" if self.source else advice(path)
            return f"no such file: {path}{where}"
        if self.system == _SAM_I2V and shipped_checkpoint(self._load_config()) is None:
            return f"the config {self.config} comes without weights"
        return ""

    def count_parameters(self) -> float | None:
        """Number of parameters in millions; None if it is unknown."""
        if self.parameters is not None or self.system != _SAM_I2V:
            return self.parameters
        return sum(parameter.numel() for parameter in self.meta_model().parameters()) / 1e6

    def meta_model(self) -> SAMI2V:
        """The network of a SAM-I2V system; see `build_meta_model`."""
        return build_meta_model(self.config or DEFAULT_CONFIG, self.overrides)

    def _trunk(self) -> Any:
        """The section of the image trunk in the config, as a dictionary."""
        return OmegaConf.to_container(self._load_config().model.image_encoder.trunk_image)

    def _load_config(self) -> DictConfig:
        return load_config(self.config or DEFAULT_CONFIG, self.overrides)


@dataclass(frozen=True)
class Registry:
    """The content of a registry.

    Attributes:
        systems (dict[str, PaperSystem]): the systems by key.
        tables (dict[str, dict[str, str]]): for each table (a key of `LAYOUTS`) the keys of the systems by name of the row.
        data (dict[str, Path]): folders of the data sets by name.
    """

    systems: dict[str, PaperSystem]
    tables: dict[str, dict[str, str]]
    data: dict[str, Path]

    def rows(self, table: str, keys: list[str] | None = None) -> dict[str, PaperSystem]:
        """The systems of a table by name of the row.

        Args:
            table (str): a key of `LAYOUTS`.
            keys (list of str or None): the systems to take; None for all.

        Raises:
            ValueError: the registry has no such table, or the table no such system.
        """
        if table not in self.tables:
            raise ValueError(f"the registry has no table {table}: it has {', '.join(self.tables)}")
        rows = self.tables[table]
        if unknown := sorted(set(keys or ()) - set(rows.values())):
            raise ValueError(f"{LAYOUTS[table].heading} has no system {unknown[0]}: it has {', '.join(rows.values())}")
        return {name: self.systems[key] for name, key in rows.items() if keys is None or key in keys}


def with_config(rows: Mapping[str, PaperSystem], config: str) -> dict[str, PaperSystem]:
    """Return the rows of a table with another config; see `PaperSystem.with_config`.

    Args:
        rows (Mapping[str, PaperSystem]): the systems by name of the row.
        config (str): the config.

    Raises:
        ValueError, FileNotFoundError: see `load_config`.
    """
    others: dict[str, PaperSystem] = {}
    for row, system in rows.items():
        name, other = system.with_config(config, row)
        # The rows of image SAMs with one trunk, such as TinySAM and MobileSAM, differ only in their weights.
        others[f"{name}, {system.key}" if name in others else name] = other
    return others


def read_registry(path: Path = REGISTRY, checkpoints: Mapping[str, str] | None = None) -> Registry:
    """Read a registry.

    Args:
        path (Path): a YAML file like systems.yaml.
        checkpoints (Mapping[str, str] or None): other weights by key of the system; systems that are `like` it, and have no
            checkpoint of their own, take them too.

    Raises:
        ValueError: the file is not a registry, or `checkpoints` names a system that it does not have.
        FileNotFoundError: there is no such file.
    """
    check_yaml(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    form = {"systems": {str: dict}, "tables": {str: {str: str}}, "data": {str: str}}
    require_form(content, form, str(path))
    given = dict(checkpoints or {})
    if unknown := sorted(given.keys() - content["systems"].keys()):
        guess = nearest(unknown[0], content["systems"])
        hint = f"did you mean {guess}?" if guess else f"it has {', '.join(content['systems'])}"
        raise ValueError(f"{path} has no system {unknown[0]}, for which a checkpoint is given: {hint}")
    systems: dict[str, PaperSystem] = {}
    for key, entry in content["systems"].items():
        systems[key] = _system(key, entry, systems, given.get(key), f"{path}: {key}")
    for table, rows in content["tables"].items():
        if table not in LAYOUTS:
            raise ValueError(f"{path}: unknown table {table}; expected one of {', '.join(LAYOUTS)}")
        if unknown := sorted(set(rows.values()) - systems.keys()):
            raise ValueError(f"{path}: table {table} has the unknown system {unknown[0]}")
        if twice := [key for key, count in Counter(rows.values()).items() if count > 1]:
            raise ValueError(f"{path}: table {table} has the system {twice[0]} in several rows")
    return Registry(systems, content["tables"], {name: Path(folder) for name, folder in content["data"].items()})


def _system(
    key: str, entry: dict[str, Any], known: Mapping[str, PaperSystem], checkpoint: str | None, where: str
) -> PaperSystem:
    """Make a system from its entry.

    Args:
        key (str): its name.
        entry (dict[str, Any]): its entry.
        known (Mapping[str, PaperSystem]): the systems above.
        checkpoint (str or None): the user's checkpoint for it, the cost of whose training is unknown.
        where (str): place of the entry, for error messages.

    Raises:
        ValueError: the entry has an unknown field or a bad value, or is like a system that is not above it.
    """
    for name, value in entry.items():
        if name not in _FORMS:
            raise ValueError(f"{where} has the unknown field {name}; expected some of {', '.join(_FORMS)}")
        require_form(value, _FORMS[name], f"{where}: {name!r}")
    if entry.get("cost", 1) <= 0:
        raise ValueError(f"{where}: 'cost' is {entry['cost']}, expected more than 0: leave it out if there was no training")
    like = entry.get("like")
    if like is not None and like not in known:
        raise ValueError(f"{where} is like {like}, which is not a system above it")
    base = known[like] if like else PaperSystem(key)
    own = {name: value for name, value in entry.items() if name in {field.name for field in fields(PaperSystem)}}
    if "overrides" in own:
        own["overrides"] = tuple(own["overrides"])
    trained = base.trained or (like is not None and "checkpoint" in entry)
    if "checkpoint" in entry:  # the cost is that of other weights
        own.setdefault("cost", None)
    if checkpoint is not None:
        own["checkpoint"], own["cost"], trained = checkpoint, None, True
    return replace(base, key=key, **own, trained=trained)
