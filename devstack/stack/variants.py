"""Which Tritons a policy needs: one that serves every model, and one for each other variant of its experiments."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from devstack.stack.addresses import MAIN
from ext_authz.errors import ConfigError
from ext_authz.policy.model import Experiment, Policy

_CONFIG = "config.pbtxt"


class Instance(Struct, frozen=True):
    """One Triton."""

    name: str = MAIN
    """Of the part."""
    variant: str = ""
    """That it serves, as its models read it in TOLLGATE_VARIANT; empty: there is no experiment."""
    versions: Mapping[str, str] = {}
    """Models in experiments, each with the only version that is served; empty: all of them are."""
    serves_others: bool = True
    """Models that no experiment names, too."""
    absent: tuple[str, ...] = ()
    """Variants whose Tritons cannot be started: it does not stand in for them."""


def instances(experiments: Iterable[Experiment]) -> tuple[Instance, ...]:
    """The one for every model is the first. A name that two experiments use stands for one Triton."""
    known = list(experiments)
    firsts = list(dict.fromkeys(next(iter(each.weights)) for each in known))
    # With experiments whose first variants differ, the one Triton that serves them all has no name among them.
    main = Instance(variant=firsts[0] if len(firsts) == 1 else "", versions=_versions(known, firsts))
    others = dict.fromkeys(variant for each in known for variant in each.weights if variant not in firsts)
    rest = (Instance(f"{MAIN}-{name}", name, _versions(known, [name]), serves_others=False) for name in others)
    return main, *rest


def without(found: Sequence[Instance], names: Collection[str]) -> tuple[Instance, ...]:
    """Callers of these get 503, as wherever a variant is away: the first one would answer by another version."""
    main, *others = found
    absent = tuple(each.variant for each in others if each.name in names)
    return replace(main, absent=absent), *(each for each in others if each.name not in names)


def with_copies(policy: Policy, variants: Collection[str]) -> Policy:
    """Without copies to variants that have no address of their own: they would be calls of the one that is called."""
    experiments = {
        model: replace(each, mirror=each.mirror if each.mirror and each.mirror.to in variants else None)
        for model, each in policy.experiments.items()
    }
    return replace(policy, experiments=experiments)


def _versions(experiments: Iterable[Experiment], variants: Sequence[str]) -> dict[str, str]:
    return {
        each.model: each.versions.get(variant, "")
        for each in experiments
        for variant in each.weights
        if variant in variants
    }


def lay_out(built: Path, served: Path, instance: Instance) -> None:
    """Fill the directory `served` with links to what the instance serves of the built models.

    Raises:
        ConfigError: a model, or its version, is not there.
    """
    shutil.rmtree(served, ignore_errors=True)
    served.mkdir()
    for name, version in instance.versions.items():
        if not (built / name / version).is_dir() and not (instance.serves_others and not (built / name).exists()):
            what = f"version {version} of the model {name}" if version else f"the model {name}"
            raise ConfigError(
                f"the variant {instance.variant} of an experiment in the policy serves {what}, which is not built: add "
                "it to the models' repository, or change versions of the experiment"
            )
    for model in built.iterdir():
        if model.name in instance.versions:
            _link_version(model, served / model.name, instance.versions[model.name])
        elif instance.serves_others and model.is_dir():
            (served / model.name).symlink_to(model)


def _link_version(model: Path, served: Path, version: str) -> None:
    """Without its other versions; Triton's configuration may name these."""
    served.mkdir()
    for part in model.iterdir():
        if part.name == _CONFIG and version:
            told = re.sub(r"(?m)^version_policy .*\n", "", part.read_text())
            (served / _CONFIG).write_text(f"{told}version_policy {{ specific {{ versions: [{version}] }} }}\n")
        elif not part.name.isdigit() or version in ("", part.name):
            (served / part.name).symlink_to(part)
