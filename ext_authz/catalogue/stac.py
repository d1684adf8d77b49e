"""The documents of the STAC API (STAC 1.1, API 1.0): landing page, collections, items, pages of items.

Times are UTC, `geometry` is null: no entry has a place. Models have the MLM extension, and that which it replaces
(`ml-model`) where the card says enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from ext_authz.catalogue.entry import DATASETS, MODELS, PROCESSORS, Entry, InGitlab, Published, Tensor

Json = dict[str, Any]

VERSION = "1.1.0"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
"""The latest that pystac reads; its fields are those of 1.5 too."""
ML_MODEL = "https://stac-extensions.github.io/ml-model/v1.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
CONFORMANCE = (
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/ogcapi-features#sort",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
    "https://api.stacspec.org/v1.0.0-rc.1/item-search#free-text",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/oas30",
)
JSON, GEOJSON = "application/json", "application/geo+json"
OPENAPI = "application/vnd.oai.openapi+json;version=3.1"
COLLECTIONS: Mapping[str, tuple[str, str]] = {
    MODELS: ("Models", "The models that you may call."),
    DATASETS: ("Datasets", "Data that members published: what is public, and what is yours."),
    PROCESSORS: ("Processors", "Operations that members published, with the parameters that they take."),
}
"""Title and description."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Places(Struct, frozen=True):
    """Where things are, as callers reach them; never what the header Host says."""

    stac: str
    """The landing page."""
    door: str
    """Origin of the models."""
    pages: str
    """Where people browse."""

    def collection(self, collection: str) -> str:
        return f"{self.stac}/collections/{collection}"

    def item(self, entry: Entry) -> str:
        return f"{self.collection(entry.collection)}/items/{entry.id}"


def landing(places: Places) -> Json:
    """`GET /`."""
    search = {"rel": "search", "type": GEOJSON, "href": f"{places.stac}/search", "title": "Search"}
    return {
        "type": "Catalog",
        "stac_version": VERSION,
        "id": "tollgate",
        "title": "Tollgate",
        "description": "What you may call here. Without a token: what is public.",
        "conformsTo": CONFORMANCE,
        "links": [
            _link("self", places.stac),
            _link("root", places.stac),
            _link("conformance", f"{places.stac}/conformance"),
            _link("data", f"{places.stac}/collections"),
            *({**search, "method": method} for method in ("GET", "POST")),
            {"rel": "service-desc", "type": OPENAPI, "href": f"{places.stac}/api"},
            {"rel": "service-doc", "type": "text/html", "href": places.pages},
            *(_link("child", places.collection(name)) | {"title": title} for name, (title, _) in COLLECTIONS.items()),
        ],
    }


def collections(places: Places) -> Json:
    """`GET /collections`: the same for everybody, whatever they may see of what is in them."""
    links = [_link("self", f"{places.stac}/collections"), _link("root", places.stac), _link("parent", places.stac)]
    return {"collections": [_collection(name, places) for name in COLLECTIONS], "links": links}


def collection(name: str, places: Places) -> Json | None:
    """None: there is none of this name."""
    return _collection(name, places) if name in COLLECTIONS else None


def _collection(name: str, places: Places) -> Json:
    title, description = COLLECTIONS[name]
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "id": name,
        "title": title,
        "description": description,
        "license": "other",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [
            _link("self", places.collection(name)),
            _link("root", places.stac),
            _link("parent", places.stac),
            _link("items", f"{places.collection(name)}/items", GEOJSON),
        ],
    }


def item(entry: Entry, places: Places) -> Json:
    """`GET /collections/{collection}/items/{item}`."""
    extensions, properties = [], _properties(entry)
    if entry.gitlab and entry.gitlab.assets:
        extensions.append(FILE)
    if entry.artifact:
        extensions.append(MLM)
        properties |= _mlm(entry)
    if entry.card.tasks and entry.card.learning_approach and entry.card.architecture:
        extensions.append(ML_MODEL)
        properties |= _ml_model(entry)
    parent = places.collection(entry.collection)
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": extensions,
        "id": entry.id,
        "collection": entry.collection,
        "geometry": None,
        "properties": properties,
        "links": [
            _link("self", places.item(entry), GEOJSON),
            _link("root", places.stac),
            _link("parent", parent),
            _link("collection", parent),
            *({"rel": "derived_from", "href": href} for href in entry.card.sources),
            *([_link("via", entry.gitlab.url, "text/html")] if entry.gitlab else []),
        ],
        "assets": _assets(entry, places),
    }


def items(found: Sequence[Entry], matched: int, links: Sequence[Json], places: Places) -> Json:
    """A page of them; `links`: to itself and the next one."""
    return {
        "type": "FeatureCollection",
        "features": [item(entry, places) for entry in found],
        "numberMatched": matched,
        "numberReturned": len(found),
        "links": [_link("root", places.stac), *links],
    }


def _properties(entry: Entry) -> Json:
    card, at = entry.card, _time(entry.at)
    found: Json = {"title": entry.title, "datetime": at, "updated": at}
    run = entry.origins[-1].run if entry.origins else card.mlflow_run_id
    texts = {"description": card.description, "license": card.license, "mlflow:run_id": run}
    found |= {name: text for name, text in texts.items() if text}
    if card.keywords:
        found["keywords"] = list(card.keywords)
    if entry.versions:
        found["tollgate:versions"] = list(entry.versions)
    if entry.origins:
        found["tollgate:origins"] = [asdict(each) for each in entry.origins]
    if entry.stars and not entry.gitlab:
        found["tollgate:stars"] = entry.stars
    found |= _published(entry.published) if entry.published else {}
    return found | (_in_gitlab(entry.gitlab, entry.stars) if entry.gitlab else {})


def _in_gitlab(project: InGitlab, stars: int) -> Json:
    """As SharingHub names it."""
    return {
        "tollgate:visibility": project.visibility,
        "sharinghub:id": project.number,
        "sharinghub:name": project.name,
        "sharinghub:path": project.path,
        "sharinghub:stars": stars,
        "sharinghub:default-branch": project.branch,
    }


def _published(said: Published) -> Json:
    found: Json = {
        "tollgate:published": list(said.versions),
        "tollgate:latest": said.version,
        "tollgate:visibility": said.visibility,
    }
    if said.owner:
        found["tollgate:owner"] = said.owner
    if said.parameters:
        found["tollgate:parameters"] = list(said.parameters)
    return found


def _mlm(entry: Entry) -> Json:
    card = entry.card
    found: Json = {
        "mlm:name": entry.id if _is_named(entry.id) else f"model {entry.id} here",
        "mlm:architecture": card.architecture or "unknown",
        "mlm:tasks": list(card.tasks),
        "mlm:input": [{"name": each.name, "bands": [], "input": _structure(each)} for each in entry.inputs],
        "mlm:output": [
            {"name": each.name, "tasks": list(card.tasks), "result": _structure(each)} for each in entry.outputs
        ],
    }
    return found | ({"mlm:framework": entry.framework} if entry.framework else {})


def _ml_model(entry: Entry) -> Json:
    return {
        "ml-model:type": "ml-model",
        "ml-model:learning_approach": entry.card.learning_approach,
        "ml-model:prediction_type": entry.card.tasks[0],
        "ml-model:architecture": entry.card.architecture,
    }


def _structure(tensor: Tensor) -> Json:
    rest = [f"dim-{_LETTERS[at]}" for at in range(len(tensor.shape) - tensor.batched)]
    order = ["batch", *rest] if tensor.batched else rest
    return {"shape": list(tensor.shape), "dim_order": order, "data_type": tensor.data_type}


def _assets(entry: Entry, places: Places) -> Json:
    declared = entry.published.assets if entry.published else {}
    own = _assets_of_model(entry, places) if entry.is_served else {}
    files = dict(entry.gitlab.assets) if entry.gitlab else {}
    return {name: {"roles": ["data"], **asset} for name, asset in declared.items()} | own | files


def _assets_of_model(entry: Entry, places: Places) -> Json:
    model = f"{places.door}/v2/models/{entry.id}"
    found: Json = {
        "inference": {
            "href": f"{model}/infer",
            "type": JSON,
            "title": "Call it: POST an inference request (Open Inference Protocol)",
            "roles": ["inference-runtime", "mlm:inference-runtime"],
        }
    }
    if entry.artifact:
        found["model"] = {
            "href": model,
            "type": JSON,
            "title": "What its server says of it",
            "roles": ["metadata", "mlm:model"],
            "mlm:artifact_type": entry.artifact,
        }
    return found


def _is_named(name: str) -> bool:
    """As the MLM extension wants its names."""
    return len(name) > 2 and name[0].isalpha() and name[-1].isalnum()  # the rest is that of a model's name


def _link(rel: str, href: str, media_type: str = JSON) -> Json:
    return {"rel": rel, "type": media_type, "href": href}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
