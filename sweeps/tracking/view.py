"""A ready-made view of the sweep in MLflow's runs page: columns, order and charts, kept with the experiment.

The page restores its state from a tag of the experiment, the one that its own "save view" button writes, and an address
names the tag; the menu "Views" lists it. Nothing of that is documented: it is used with the versions
that were seen to take it, and for all others :func:`clicks` says how to have the same by hand.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcp_core.errors import first_line
from gcp_core.schema import FINALS, Tag
from sweeps.config.sweep_config import SweepConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

#: MLflow versions that open such a view: seen with 3.17.2, the first that was tried with saved views that have names.
#: Later pages have to read what this one saved, up to the next major version. 3.10.1 shows an error page instead.
OLDEST, BEFORE = (3, 17), (4, 0)
TAG_PREFIX = "mlflow.sharedViewState."
#: A longer tag is refused by MLflow.
_LONGEST_TAG = 5000
#: Which final values the table shows, in this order. Never the test accuracy: it steers no choice, not even one by eye.
COLUMNS = ("val_accuracy", "accuracy_drop", "macs", "macs_removed", "params", "latency_ms")
#: Settings that are shown although no range is searched, where they say something.
_USUAL = ("prune.criterion", "prune.interval", "prune.ratio")
_MOST_SETTINGS = 6
_ANSWER_S = 5.0
#: The table's own columns: before ours, and behind them.
_FIRST = ("0", "attributes.`Run Name`", "runDateAndNestInfo")
_LAST = ("duration",)
#: Pixels; names as long as ours are cut off at the 100 that columns have by themselves.
_METRIC_WIDTH, _SETTING_WIDTH = 140, 120
_SORTED_BY = f"metrics.`{FINALS['val_accuracy'].key}`"


@dataclass(frozen=True)
class View:
    """One state of the runs page.

    Attributes:
        title: what it shows, in a few words.
        name: under which the page lists it; unique in the experiment, which several sweeps may share.
        key: the end of the tag that keeps it.
        state: as the page reads it.
        charts: whether it opens with the charts instead of the table.
    """

    title: str
    name: str
    key: str
    state: Mapping[str, Any]
    charts: bool = False

    def address(self, experiment_id: str) -> str:
        """The address below the UI's own. It must not contain a search field, or the page ignores the view."""
        mode = "&compareRunsMode=CHART" if self.charts else ""
        where = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        return f"{where}&viewStateShareKey={self.key}{mode}"

    def tag(self, created_ms: int) -> tuple[str, str]:
        """Key and value of the experiment's tag, as the page itself saves a view."""
        times = {"createdAt": created_ms, "updatedAt": created_ms}
        saved = {"name": self.name, **times, "state": json.dumps(self.state, separators=(",", ":"))}
        return TAG_PREFIX + self.key, json.dumps(saved, separators=(",", ":"))


def views(config: SweepConfig, sweep_id: str) -> tuple[View, ...]:
    """The table of finished models, best validation accuracy first; their charts; of paths also their epochs."""
    of_sweep = f"tags.`{Tag.SWEEP_ID}` = '{sweep_id}' and tags.`{Tag.KIND}` != 'sweep'"
    settings = _settings(config)
    curves = [_line(key) for key in ("val/accuracy", "cost/macs")]
    models = [_scatter(), _parallel(settings)]
    key = f"gcp-{sweep_id}"
    if not config.of_paths:
        state = _state(of_sweep, settings, {"Finished models": models, "Over the epochs": curves})
        name = f"Finished models ({sweep_id})"
        return View("models, best first", name, key, state), View("charts", name, key, state, True)
    # A path's own run says what its last snapshot says; it alone has the epochs.
    snapshots = f"{of_sweep} and tags.`{Tag.KIND}` != 'trial' and tags.`{Tag.KIND}` != 'confirm'"
    state = _state(snapshots, settings, {"Finished models": models})
    of_paths = f"{of_sweep} and tags.`{Tag.KIND}` != 'snapshot'"
    over_epochs = _state(of_paths, settings, {"Over the epochs": curves})
    name, epochs = f"Finished models ({sweep_id})", f"Paths over the epochs ({sweep_id})"
    return (
        View("models, best first", name, key, state),
        View("charts", name, key, state, True),
        View("paths over the epochs", epochs, f"{key}-epochs", over_epochs, True),
    )


def clicks(experiment: str, of_paths: bool) -> str:
    """How to get the same view by hand, in one line."""
    shown = ", ".join(FINALS[name].key for name in COLUMNS[:3])
    kind = "snapshot" if of_paths else "trial"
    return (
        f"experiment {experiment}, Runs: type tags.{Tag.KIND} = '{kind}' into the search field; "
        f"Columns: tick {shown}; Sort: {FINALS['val_accuracy'].key}, descending; "
        "then the chart icon beside the search field, Add chart, Scatter chart"
    )


def keep_views(client: MlflowClient, experiment: Any, wanted: tuple[View, ...]) -> dict[str, str]:
    """Write the tags that differ; title -> address of each view, empty where the MLflow behind ``client`` opens none.

    A view is a convenience: whatever goes wrong here is said in the log and does not end the sweep.
    """
    try:
        if not OLDEST <= _version(str(client.tracking_uri)) < BEFORE:
            return {}
        tags = dict(view.tag(int(experiment.creation_time or 0)) for view in wanted)
        if max(map(len, tags.values())) > _LONGEST_TAG:
            _log.warning("no ready-made view in MLflow: it would not fit into a tag")
            return {}
        for key, value in tags.items():
            if experiment.tags.get(key) != value:
                client.set_experiment_tag(experiment.experiment_id, key, value)
    except Exception as exc:  # whatever a client or a server raises
        _log.warning("no ready-made view in MLflow: %s", first_line(exc))
        return {}
    return {view.title: view.address(experiment.experiment_id) for view in wanted}


def _version(uri: str) -> tuple[int, int]:
    """Of the MLflow whose pages will be looked at: a server's own, or the one installed here; (0, 0) = unknown."""
    import mlflow

    text = mlflow.__version__
    if uri.startswith(("http://", "https://")):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        asked = http_request(get_default_host_creds(uri), "/version", "GET", max_retries=0, timeout=_ANSWER_S)
        text = asked.text if asked.status_code == 200 else ""
    elif "://" not in uri or uri.startswith(("databricks", "uc:", "file:")):
        return 0, 0
    found = re.match(r"(\d+)\.(\d+)", text.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _settings(config: SweepConfig) -> list[str]:
    """Paths of the settings that tell the models apart, those that are searched first."""
    searched = [dimension.path for dimension in config.space.dimensions]
    prune = config.space.base.get("prune") or {}
    usual = [
        path for path in _USUAL if path not in searched and prune.get(path.partition(".")[2]) is not None
    ]
    return [*searched, *usual][:_MOST_SETTINGS]


def _state(runs: str, settings: list[str], sections: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The page's state: which runs, which columns, and the charts by their section's name."""
    metrics = [f"metrics.`{FINALS[name].key}`" for name in COLUMNS]
    about = [f"tags.`{Tag.FRONT}`", f"tags.`{Tag.STATUS}`", *(f"params.`{path}`" for path in settings)]
    charts: list[dict[str, Any]] = []
    for number, made in enumerate(sections.values()):
        for chart in made:
            place = {"uuid": f"chart{len(charts)}", "metricSectionId": f"section{number}"}
            charts.append({**chart, **place, "deleted": False, "isGenerated": False})
    return {
        "searchFilter": runs,
        "orderByKey": _SORTED_BY,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*metrics, *about],
        "columnOrder": [*_FIRST, *metrics, *about, *_LAST],
        "columnWidths": dict.fromkeys(metrics, _METRIC_WIDTH) | dict.fromkeys(about, _SETTING_WIDTH),
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": f"section{number}",
                "name": name,
                "display": True,
                "isReordered": False,
                "deleted": False,
                "isGenerated": False,
                "columns": 2,
                "cardHeight": 420,
            }
            for number, name in enumerate(sections)
        ],
        "compareRunCharts": charts,
    }


def _scatter() -> dict[str, Any]:
    axes = {"xaxis": FINALS["macs"].key, "yaxis": FINALS["val_accuracy"].key}
    chosen = {axis: {"key": key, "type": "METRIC"} for axis, key in axes.items()}
    return {"type": "SCATTER", "runsCountToCompare": 1000, **chosen}


def _parallel(settings: list[str]) -> dict[str, Any]:
    metrics = [FINALS["macs"].key, FINALS["val_accuracy"].key]
    chosen = {"selectedParams": settings, "selectedMetrics": metrics, "showAllRuns": True}
    return {"type": "PARALLEL", "runsCountToCompare": 1000, **chosen}


def _line(key: str) -> dict[str, Any]:
    how = {"xAxisKey": "step", "lineSmoothness": 0, "scaleType": "linear"}
    return {"type": "LINE", "runsCountToCompare": 100, "metricKey": key, "selectedMetricKeys": [key], **how}
