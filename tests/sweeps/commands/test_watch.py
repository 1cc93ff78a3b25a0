"""`gcp-sweep status --watch`: what it shows, when it ends, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import io
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from analysis.show.terminal import as_text
from sweeps.cli import main
from sweeps.commands import watch as watching
from sweeps.commands.scene import Scene, look
from sweeps.commands.scene_view import headline, picture
from sweeps.commands.watch import LineView, watch
from sweeps.config.reading import parse_overrides
from sweeps.config.sweep_config import load_config
from sweeps.records import spool
from sweeps.records.folder import Entry, existing_entry, write_config, write_entry
from sweeps.records.job import Job
from sweeps.storage.following import Following, Sighting
from tests.sweeps.commands.played import Played
from tests.sweeps.inline import OF_PATHS, PATHS, config

pytestmark = pytest.mark.integration


def test_a_sweep_that_has_not_begun_is_waited_for_and_every_change_is_one_line_until_it_ends(
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    played = Played(tmp_path)
    scene = watch(played.folder, LineView(lines.append, played.step))
    assert lines[0] == f"{played.folder}: has not begun; waiting for its driver"
    assert lines[1] == "inline: running, 0 of 6 trials ended"
    ended = [line for line in lines if line.startswith("[")]
    assert [line.split("] ")[1][:5] for line in ended] == ["b0000", *(f"t{n:04d}" for n in range(6))]
    assert "hypervolume" in ended[-1]
    assert lines[-1].startswith("inline: complete, 6 of 6 trials ended, hypervolume 0.")
    assert len(lines) == 2 + 7 + 1
    assert scene.over


def test_the_hypervolume_and_the_front_are_those_of_the_front_command(tmp_path: Path) -> None:
    played = Played(tmp_path)
    scene = watch(played.folder, LineView(lambda line: None, played.step))
    assert scene.hypervolume == played.conductor._front.hypervolume()
    accuracies = [member.finals["val_accuracy"] for member in scene.front]
    costs = [member.finals["macs"] for member in scene.front]
    assert len(scene.front) >= 2
    assert accuracies == sorted(accuracies, reverse=True)
    assert costs == sorted(costs, reverse=True), "whoever is less accurate costs less"


def test_paths_tell_their_models_and_what_rests_says_why(tmp_path: Path) -> None:
    overrides = {**OF_PATHS, "prune.interval": {"choice": [1, 2, 3, 4]}, "search.trials": 4}
    lines: list[str] = []
    played = Played(tmp_path, overrides, PATHS)
    scene = watch(played.folder, LineView(lines.append, played.step))
    models = [line.split(":")[0].strip() for line in lines if line.startswith("  t")]
    assert models[:3] == ["t0000@0", "t0000@1", "t0000@2"]
    front = {member.model for member in scene.front}
    assert len(front) >= 2
    assert front <= set(models)


def test_the_picture_shows_who_runs_what_and_where(tmp_path: Path) -> None:
    played = Played(tmp_path)
    played.begin()
    for _ in range(3):
        played.step()
    job = played.conductor.next_job()
    spool.append(Path(job.folder), {"epoch": 1, "val/accuracy": 71.25, "cost/macs": 1.5e6})
    with Following(played.folder) as following:
        scene = look(following)
    scene = dataclasses.replace(
        scene,
        sightings={
            job.trial_id: Sighting({"epoch": 1, "val/accuracy": 71.25, "cost/macs": 1.5e6}, "node-7", True)
        },
    )
    said = as_text(picture(scene, 40))
    assert "2 of 6 trials ended" in said
    assert "Front so far: " in said
    (row,) = [line for line in said.splitlines() if "node-7" in line]
    assert row.split()[:6] == [job.trial_id, "node-7", "1/2", "71.25", "1.50", "M"]
    assert " MACs  settings" in said
    (title,) = [line for line in said.splitlines() if line.startswith("Front")]
    assert title.endswith(" (finished models only)")
    assert "drop (points)" in said


def test_sentences_that_a_narrow_terminal_breaks_count_for_their_lines(tmp_path: Path) -> None:
    played = Played(tmp_path, {"model.name": "third-broken", "search.trials": 30})
    scene = watch(played.folder, LineView(lambda line: None, played.step))
    records = [dataclasses.replace(r, error="word " * 20) if r.error else r for r in scene.records]
    shown = picture(dataclasses.replace(scene, records=tuple(records)), 24, width=60)
    sink = io.StringIO()
    Console(file=sink, width=60).print(shown)
    assert len(sink.getvalue().splitlines()) <= 24


def test_a_low_terminal_gets_fewer_rows_and_is_told_how_many_there_are(tmp_path: Path) -> None:
    played = Played(tmp_path, {"model.name": "third-broken", "search.trials": 30})
    scene = watch(played.folder, LineView(lambda line: None, played.step))
    failed = len(scene.failures)
    assert failed > 6
    tall, low = as_text(picture(scene, 60)), as_text(picture(scene, 16))
    assert f"(the first 6 of {failed})" in tall
    assert f"(the first 2 of {failed})" in low
    assert len(low.splitlines()) <= 16


def test_markup_and_escapes_in_names_and_errors_are_shown_and_mean_nothing() -> None:
    checked = Entry("a", "[bold]x[/bold]", None, "e", "r", "d", message="[/] \x1b[31mred")
    record = _record(error="no [link=y]z[/link] \x1b]0;title\x07", status="failed")
    scene = Scene("place", checked, (record,), objectives={"val_accuracy": "max"}, planned=1)
    said = as_text(picture(scene, 40))
    for words in ("[bold]x[/bold]", "[/] \\x1b[31mred", "no [link=y]z[/link] \\x1b]0;title\\x07"):
        assert words in said
    assert "\x1b" not in said
    lines: list[str] = []
    view = LineView(lines.append)
    view.show(dataclasses.replace(scene, records=()))
    view.show(scene)
    assert len(lines) == 2
    assert not {"\x1b", "\x07"} & set("".join(lines))
    assert "no [link=y]z[/link] \\x1b]0;title\\x07" in lines[1]


def _record(**values: object):
    from gcp_core.config import TrialConfig
    from sweeps.records.job import Record

    job = Job("t0000", "trial", 0, TrialConfig(), {"model.name": "[red]vgg"}, "nowhere")
    known = {"finals": {}, "error": "", "seconds": 1.0, "values": None, "violations": {}}
    return Record(job, "key", **{**known, **values})


def test_a_driver_that_died_is_said_with_the_command_that_goes_on_and_a_later_one_is_waited_for(
    tmp_path: Path, monkeypatch
) -> None:
    played = Played(tmp_path)
    played.begin()
    notes = iter(["", "process 7", ""])
    monkeypatch.setattr(Following, "lost_driver", lambda self: next(notes, ""))
    lines: list[str] = []
    watch(played.folder, LineView(lines.append, played.step))
    at = lines.index("interrupted: the driver, process 7, died")
    assert lines[at + 1] == f"continue:  gcp-sweep run {played.folder}/config.yaml"
    assert lines.index("its driver is back") > at


def test_a_sweep_that_ran_on_a_cluster_goes_on_there(tmp_path: Path, monkeypatch) -> None:
    played = Played(tmp_path)
    played.begin()
    write_entry(played.folder, dataclasses.replace(existing_entry(played.folder), address="head:6379"))
    monkeypatch.setattr(Following, "lost_driver", lambda self: "process 7")
    with Following(played.folder) as following:
        again = look(following).again
    assert again == f"gcp-sweep run {played.folder}/config.yaml --address head:6379"


def _with_one_at_work(tmp_path: Path, monkeypatch, lost: str = "") -> Scene:
    """After the baseline and two trials, with a third one at its first epoch."""
    played = Played(tmp_path)
    played.begin()
    for _ in range(3):
        played.step()
    job = played.conductor.next_job()
    for epoch in (1, 2):  # killed between the report of the second one and its checkpoint
        spool.append(Path(job.folder), {"epoch": epoch, "val/accuracy": 71.25, "cost/macs": 1.5e6})
    (Path(job.folder) / "epochs" / "epoch_0001").mkdir(parents=True)
    monkeypatch.setattr(Following, "lost_driver", lambda self: lost)
    with Following(played.folder) as following:
        return look(following)


def test_a_sweep_whose_driver_died_is_not_headed_running_and_says_what_was_interrupted_and_where_it_goes_on(
    tmp_path: Path, monkeypatch
) -> None:
    running = _with_one_at_work(tmp_path / "running", monkeypatch)
    assert running.left_s is not None
    scene = _with_one_at_work(tmp_path / "lost", monkeypatch, "process 7")
    shown = picture(scene, 40)
    said = as_text(shown).splitlines()
    assert said[0] == "inline: interrupted: the driver, process 7, died"
    assert shown.renderables[0].style == "bold red"
    assert said[1] == f"continue:  gcp-sweep run {scene.place}/config.yaml"
    assert not any("running" in line.lower() or "left" in line for line in said)
    assert any(line.startswith("1 interrupted") for line in said)
    unknown = as_text(picture(dataclasses.replace(scene, again=""), 40)).splitlines()
    assert unknown[1] == "continue:  gcp-sweep run, with the config that it was started with"
    at = said.index("Interrupted")
    assert said[at + 1].endswith("goes on")
    assert said[at + 3].startswith("t0002")
    assert said[at + 3].endswith("after epoch 1")
    assert headline(scene).startswith("inline: interrupted: the driver, process 7, died, 2 of 6 trials ended")


def test_the_command_that_continues_works_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = config(tmp_path, {"storage": "my runs"})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    write_config(folder, checked)
    for here in (tmp_path, folder, Path("/")):
        monkeypatch.chdir(here)
        with Following(folder) as following:
            program, verb, file, *overrides = shlex.split(following.continued_by(checked))
        assert (program, verb) == ("gcp-sweep", "run")
        assert load_config(file, parse_overrides(tuple(overrides))).folder == str(folder)
    elsewhere = folder.rename(tmp_path / "a copy")
    with Following(elsewhere) as following:
        assert following.continued_by(checked) == "", "it would begin another sweep"


def test_the_best_model_is_compared_with_the_baseline_in_one_line(tmp_path: Path, monkeypatch) -> None:
    scene = _with_one_at_work(tmp_path, monkeypatch)
    unpruned, best = scene.unpruned, scene.best
    assert unpruned.model == "b0000"
    drop, removed = best.finals["accuracy_drop"], best.finals["macs_removed"]
    (line,) = [line for line in as_text(picture(scene, 40)).splitlines() if "unpruned: " in line]
    assert line.startswith(f"unpruned: {unpruned.finals['val_accuracy']:.2f} % at ")
    assert f"; best accuracy so far {best.model}: {best.finals['val_accuracy']:.2f} % (" in line
    assert f"({abs(drop):.2f} points {'less' if drop >= 0 else 'more'})" in line
    assert line.endswith(f" at {100 * removed:.0f} % fewer MACs")


def test_counts_add_up_and_what_ended_is_told_apart_only_where_it_ended_in_several_ways(
    tmp_path: Path, monkeypatch
) -> None:
    scene = _with_one_at_work(tmp_path, monkeypatch)
    said = as_text(picture(scene, 40))
    assert "2 of 6 trials ended, all complete\n" in said
    assert "\n1 running, 3 not begun\n" in said
    worse = [
        dataclasses.replace(r, status="failed") if r.job.trial_id == "t0001" else r for r in scene.records
    ]
    scene = dataclasses.replace(
        scene, records=tuple(worse), entry=dataclasses.replace(scene.entry, seconds=150.0)
    )
    said = as_text(picture(scene, 40))
    assert "2 of 6 trials ended: 1 complete, 1 failed\n" in said
    assert "\n1 running, 3 not begun, 2 min with a driver at work\n" in said


def test_a_model_that_was_entered_before_its_baseline_ended_has_its_drop_in_the_front(
    tmp_path: Path, monkeypatch
) -> None:
    scene = _with_one_at_work(tmp_path, monkeypatch)
    known = as_text(picture(scene, 40))
    early = [
        dataclasses.replace(m, finals={k: v for k, v in m.finals.items() if k != "accuracy_drop"})
        for m in scene.front
    ]
    assert as_text(picture(dataclasses.replace(scene, front=tuple(early)), 40)) == known


def test_a_sweep_that_ended_long_ago_is_shown_once(tmp_path: Path) -> None:
    played = Played(tmp_path)
    watch(played.folder, LineView(lambda line: None, played.step))
    done = CliRunner().invoke(main, ["status", str(played.folder), "--watch"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("inline: complete, 6 of 6 trials ended")
    assert len(done.stdout.splitlines()) == 1


def test_watch_goes_with_no_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["status", str(tmp_path), "--watch", "--json"])
    assert done.exit_code == 2
    assert "--watch cannot be combined with --failed or --json" in done.stderr


def test_a_slow_look_is_followed_by_a_long_pause(tmp_path: Path, monkeypatch) -> None:
    played = Played(tmp_path)
    played.begin()
    spent, waits = [0.0], []

    def slow(following: Following) -> Scene:
        spent[0] += 3.0 if len(waits) < 2 else 30.0
        return look(following)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        played.step()

    monkeypatch.setattr(watching, "look", slow)
    watch(played.folder, LineView(lambda line: None, wait), cost=lambda: spent[0])
    assert waits[:3] == [27.0, 27.0, 60.0], "a tenth of the time, and news within a minute"


def test_ctrl_c_ends_the_view_with_exit_code_1_and_leaves_the_sweep(tmp_path: Path, monkeypatch) -> None:
    played = Played(tmp_path)
    played.begin()

    def press(self: LineView, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LineView, "show", press)
    done = CliRunner().invoke(main, ["status", str(played.folder), "--watch"])
    assert done.exit_code == 1
    assert done.stderr == "the view has ended; the sweep continues\n"
    assert existing_entry(played.folder).state == "running"
    assert not (played.folder / "stop.request").exists()


def test_time_left_is_not_told_before_a_trial_has_ended_nor_at_the_end(tmp_path: Path) -> None:
    played = Played(tmp_path)
    seen: list[Scene] = []

    class Keep(LineView):
        def show(self, scene: Scene, note: str = "") -> None:
            seen.append(scene)

    wait: Callable[[float], None] = played.step
    watch(played.folder, Keep(lambda line: None, wait))
    told = [scene.left_s is not None for scene in seen]
    assert told[:2] == [False, False]
    assert any(told)
    assert not told[-1]
    assert "about" not in headline(seen[-1])
