"""How a run looks: as a live panel on a terminal, as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from droptune.cli_output import Output, duration, parsed_time, percent, status_text, table
from droptune.client import Run
from droptune.watching import STAGES, RunView, State, Trial, now, stages_of

# With the stages above them, this many trials fit a terminal of 30 lines.
MAX_TRIALS = 8
MARKS = {"pending": ("·", "dim"), "running": ("●", "cyan"), "succeeded": ("✓", "green"), "failed": ("✗", "red")}
TRIAL_STATUSES = {"InProgress": "running", "Stopping": "running", "Completed": "succeeded", "Failed": "failed"}
VERDICTS = {
    "promoted": "the new model is live: it is the first, or better than the one before",
    "rejected": "the new model is not better; the live one stays",
    "unchanged": "nothing new in the dataset; nothing was trained",
}
# Step Functions ended the run itself, so that nothing could write down why.
STOPPED = {
    "ABORTED": "the execution was stopped from outside; every upload is kept",
    "TIMED_OUT": "the execution took longer than it may; every upload is kept",
}


def show(views: Iterable[RunView], output: Output) -> RunView:
    """Shows the views one after the other and returns the last; prints nothing with `--json`.

    Ctrl-C ends the showing, not the run: says so, and raises KeyboardInterrupt.
    """
    try:
        last = _show(views, output)
    except KeyboardInterrupt:
        output.progress("the run goes on; `droptune watch` shows it again")
        raise
    assert last is not None, "a followed run has at least one view"
    return last


def _show(views: Iterable[RunView], output: Output) -> RunView | None:
    last: RunView | None = None
    if output.as_json:
        *_, last = views
    elif output.console.is_terminal:
        with Live(console=output.console, auto_refresh=False) as live:
            for last in views:
                live.update(panel(last, now()), refresh=True)
    else:
        for view in views:
            for line in lines(last, view):
                output.console.print(line, markup=False, soft_wrap=True)
            last = view
    return last


def panel(view: RunView, at: datetime) -> Panel:
    """Returns the live panel of a run as it was observed at the time `at`."""
    run = view.run
    parts: list[RenderableType] = [_stage_table(view, at)]
    if view.trials:
        parts += ["", _trial_table(view, at)]
    if view.ended:
        parts += ["", *summary(run)]
    started_at, ended_at = parsed_time(run["started_at"]), parsed_time(run["ended_at"])
    elapsed = duration(((ended_at or at) - started_at).total_seconds()) if started_at else "-"
    return Panel(
        Group(*parts),
        title=f"[bold]{escape(run['dataset'])}[/bold] · {escape(run['id'])}",
        subtitle=f"{status_text(run['status'], run['verdict'])} · {elapsed}",
        title_align="left",
        subtitle_align="left",
        padding=(0, 1),
    )


def summary(run: Run) -> list[Text]:
    """Returns an ended run's result in a few lines: verdict, accuracy, or error and next step."""
    result = [Text.from_markup(f"[bold]result[/bold]     {status_text(run['status'], run['verdict'])}")]
    explanation = VERDICTS.get(run["verdict"] or "")
    if explanation:
        result[0].append(f": {explanation}")
    if run["accuracy"] is not None:
        result.append(Text.from_markup(f"[bold]accuracy[/bold]   {percent(run['accuracy'])} on the test images"))
    if run["model_version"] is not None:
        versions = f"{run['model_version']} (dataset version {run['dataset_version']})"
        result.append(Text.from_markup(f"[bold]model[/bold]      version {versions}"))
    error = run["error"]
    if error:
        result.append(Text.assemble(("error", "bold red"), f"      {error['message']}"))
        result.append(Text.assemble(("next step", "bold"), f"  {error['hint']}"))
    elif run["status"] in STOPPED:
        result.append(Text.assemble(("why", "bold"), f"        {STOPPED[run['status']]}"))
        result.append(Text.assemble(("next step", "bold"), "  Upload one file again: that starts the next run."))
    return result


def lines(before: RunView | None, view: RunView) -> list[str]:
    """Returns what happened between two views of a run as plain lines, each with its local time."""
    old = _happenings(before) if before else {}
    new = [happening for key, happening in _happenings(view).items() if key not in old]
    result = [f"{_clock(at)} {text}" for at, text in sorted(new, key=lambda happening: happening[0])]
    if view.ended:
        result += [line.plain for line in summary(view.run)]
    return result


def _happenings(view: RunView) -> dict[tuple[str, str], tuple[datetime, str]]:
    """Returns all that has happened in a run, by a key that stays the same from view to view."""
    run = view.run
    result = {}
    started_at = parsed_time(run["started_at"])
    if started_at:
        result["run", run["id"]] = (started_at, f"{run['dataset']}: run {run['id']} started")
    for stage in stages_of(view.states):
        result["start", stage.name] = (stage.started_at, f"{stage.name} started")
        if stage.ended_at and _is_over(stage, view):
            result["end", stage.name] = (stage.ended_at, f"{stage.name} {stage.status} after {_seconds(stage)}")
    for trial in view.trials:
        if trial.ended_at:
            result["trial", trial.name] = (trial.ended_at, _trial_line(trial))
    return result


def _is_over(stage: State, view: RunView) -> bool:
    # A stage's states come one by one: only the next stage, or the end, shows that it is over.
    return view.ended or stages_of(view.states)[-1].name != stage.name


def _stage_table(view: RunView, at: datetime) -> Table:
    stages = {stage.name: stage for stage in stages_of(view.states)}
    names = [name for name in STAGES if name != "Explain" or name in stages]
    rows = table("mark", "stage", "time", "note", right=("time",))
    rows.show_header = False
    for name in names:
        stage = stages.get(name)
        if stage is None:
            mark, style = MARKS["pending"]
            word = "" if not view.ended else "not needed" if view.succeeded else "not reached"
            rows.add_row(f"[{style}]{mark}[/{style}]", f"[dim]{name}[/dim]", "", f"[dim]{word}[/dim]")
            continue
        running = not _is_over(stage, view)
        mark, style = MARKS["running" if running else stage.status]
        end = at if running else stage.ended_at or at
        seconds = duration((end - stage.started_at).total_seconds())
        rows.add_row(f"[{style}]{mark}[/{style}]", name, seconds, _note(name, view))
    return rows


def _note(stage: str, view: RunView) -> str:
    if stage != "Tune" or not view.trials:
        return ""
    done = sum(trial.ended_at is not None for trial in view.trials)
    best = view.best_trial
    note = f"{done} of {view.max_trials or len(view.trials)} trials"
    return f"{note}, best {percent(best.metric)}" if best else note


def _trial_table(view: RunView, at: datetime) -> Table:
    shown, best = _shown_trials(view), view.best_trial
    names = sorted({name for trial in view.trials for name in trial.hyper_parameters})
    # Headers are broken at their underscores, so that seven hyper-parameters fit beside each other.
    headers = [name.replace("_", "\n") for name in names]
    objective = next((trial.metric_name for trial in view.trials if trial.metric_name), "objective")
    metric = objective.rpartition(":")[2]
    rows = table("", "trial", metric, "time", *headers, right=("trial", metric, "time", *headers))
    for trial in shown:
        mark, style = MARKS[TRIAL_STATUSES.get(trial.status, "pending")]
        end = trial.ended_at or at
        seconds = duration((end - trial.started_at).total_seconds()) if trial.started_at else "-"
        accuracy = percent(trial.metric)
        rows.add_row(
            f"[{style}]{mark}[/{style}]",
            str(trial.number),
            f"[bold green]{accuracy}[/bold green]" if trial is best else accuracy,
            seconds,
            *(_short(trial.hyper_parameters.get(name, "-")) for name in names),
        )
    if len(shown) < len(view.trials):
        rows.caption = f"and {len(view.trials) - len(shown)} more, not better"
        rows.caption_justify = "left"
    return rows


def _shown_trials(view: RunView) -> list[Trial]:
    by_worth = sorted(view.trials, key=lambda trial: (trial.ended_at is None, trial.metric or 0.0), reverse=True)
    return sorted(by_worth[:MAX_TRIALS], key=lambda trial: trial.number)


def _trial_line(trial: Trial) -> str:
    setting = ", ".join(f"{name} {_short(value)}" for name, value in trial.hyper_parameters.items())
    metric = f": {trial.metric_name} {trial.metric:.3f}" if trial.metric is not None else ""
    return f"trial {trial.number} {trial.status.lower()}{metric} ({setting})"


def _short(value: str) -> str:
    """Returns a hyper-parameter's value with three significant digits if it is a fraction."""
    text = value.strip('"')
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.3g}"
    except ValueError:
        return text


def _clock(at: datetime | None) -> str:
    return at.astimezone().strftime("%H:%M:%S") if at else "--:--:--"


def _seconds(stage: State) -> str:
    return duration((stage.ended_at - stage.started_at).total_seconds()) if stage.ended_at else "-"
