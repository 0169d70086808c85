"""RUN/report.html: what a run claimed, what it found, what that cost, and the clips to listen to; one file beside its sounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audioadv.audio.files import read_clip
from audioadv.errors import InputError
from audioadv.evaluation.run.ledger import check_results, read_results
from audioadv.evaluation.run.run_file import read_run, shown
from audioadv.evaluation.run.summary import KEYS, NEEDED, settings_of, summarise
from audioadv.report.charts import density_chart, success_chart
from audioadv.report.page import write_from_template
from audioadv.report.pictures import draw_pair
from audioadv.report.tables import printable

MOST_FAILURES = 50  # clips told for each outcome
UNSAID = ("-", "none")  # of a setting
SOME = " (of some, it is not recorded)"
Lines = Sequence[dict[str, Any]]


def write_report(folder: Path, *, clips: int = 6, pictures: bool = True) -> Path:
    """Write FOLDER/report.html from the results there: a run of `audioadv bench`, or what `audioadv craft` wrote.

    `clips` of each setting can be listened to. With `pictures`, those that have none are drawn first (NAME.png).
    Raises InputError where there are no results, UnwritableOutput.
    """
    lines = read_results(folder / "results.jsonl")
    if not lines:
        raise InputError(f"{folder}: no result yet. Wait for the first batch, or look at what audioadv bench says on standard error")
    check_results(folder / "results.jsonl", lines, (*NEEDED, "note"))
    run = read_run(folder)
    rows = summarise(lines)
    groups = list(zip(rows, settings_of(lines).values(), strict=True))
    varied = [key for key in KEYS if len({row[key] for row in rows}) > 1] or ["bound"]
    for row, some in groups:
        row["label"] = ", ".join(printable(row[key]) for key in varied)
        for line in some:
            line |= {"label": row["label"], "title": printable(line["name"].rpartition("/")[2])}
    chosen = [(row, *to_listen_to(folder, some, clips)) for row, some in groups]
    for _, shown_lines, _ in chosen:
        for line in shown_lines:
            line["picture"] = picture_of(folder, line, pictures)
    labelled = [(row["label"], some) for row, some in groups]
    same = ", ".join(f"{key} {printable(rows[0][key])}" for key in KEYS if key not in varied and rows[0][key] not in UNSAID)
    return write_from_template(
        folder / "report.html",
        "report.html",
        title=f"Robustness of {' and '.join(dict.fromkeys(row['model'] for row in rows))}"
        if rows[0]["model"] != "-"
        else "Adversarial examples",
        lede=lede(lines, rows, run),
        done=len(lines),
        jobs=max(len(lines), run.get("jobs", 0)) if run else len(lines),
        total=total(lines, rows),
        run=run,
        claims=claims(run, rows),
        channels=any(row["channel"] != "none" for row in rows),
        arguments=[(name, shown(value)) for name, value in run.get("arguments", {}).items()] if run else [],
        same=f"In all rows: {same}." if same else "",
        varied=varied,
        rows=rows,
        charts=[chart for chart in (success_chart(labelled), density_chart(labelled)) if chart is not None],
        groups=[{"label": row["label"], "clips": some, "left_out": left} for row, some, left in chosen if some],
        failures=failures(lines),
    )


def lede(lines: Lines, rows: Lines, run: Mapping[str, Any] | None) -> str:
    """What was done, in a sentence."""
    clips = len({line.get("audio_filepath", line["name"]) for line in lines})
    parts = [f"{clips} clip{'s' * (clips != 1)}"]
    for key, word in (("attack", "attack"), ("bound", "bound"), ("channel", "channel")):
        kinds = list(dict.fromkeys(row[key] for row in rows if row[key] not in UNSAID))
        unknown = SOME if key == "attack" and any(row[key] == "-" for row in rows) else ""
        parts += [(f"{word} {printable(kinds[0])}" if len(kinds) == 1 else f"{len(kinds)} {word}s") + unknown] if kinds else []
    if run is None:
        seeds = sorted({line["seed"] for line in lines if "seed" in line})
        unknown = "" if all("seed" in line for line in lines) else SOME
        parts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{unknown}"] if seeds else []
        return f"{', '.join(parts)}; made by audioadv craft."
    arguments = run.get("arguments", {})
    starts = arguments.get("--restarts") or 1
    steps = f"at most {arguments.get('--steps')} steps{f' in each of {starts} starts' if starts > 1 else ''}"
    return f"{', '.join(parts)}; {steps}, seed {arguments.get('--seed')}."


def claims(run: Mapping[str, Any] | None, rows: Lines) -> list[list[str]]:
    """The threat models in words, sentence by sentence: one version of what all share, all versions of what they do not."""
    if run is None:
        bounds = "; ".join(dict.fromkeys(row["bound"] for row in rows))
        return [
            [f"Single examples, crafted within {bounds}."],
            ["They show what can be done to these clips; they are no rate over a test set."],
        ]
    told = [[f"{part.rstrip('.')}." for part in threat["claim"].split(". ")] for threat in run.get("threat_models", [])]
    if len({len(sentences) for sentences in told}) > 1:  # some go over a channel
        return [[" ".join(sentences) for sentences in told]]
    return [list(dict.fromkeys(versions)) for versions in zip(*told, strict=True)]


def total(lines: Lines, rows: Lines) -> dict[str, Any]:
    """The figures at the top: of one setting, or from the least to the greatest of several, which share their clips."""
    seconds = sum(line["seconds"] for line in lines)
    known = [row for row in rows if row["wer_before"] is not None]
    return {
        "rate": reach([100 * row["rate"] for row in rows], 0),
        "snr_db": reach([row["snr_db"] for row in rows if row["snr_db"] is not None], 1),
        "wer_before": reach([100 * row["wer_before"][0] for row in known], 0),
        "wer_after": reach([100 * row["wer_after"][0] for row in known], 0),
        "forwards": sum(line["forwards"] for line in lines),
        "backwards": sum(line["backwards"] for line in lines),
        "time": f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h",
    }


def reach(values: Sequence[float], digits: int) -> str:
    """The one value, or the least and the greatest."""
    ends = list(dict.fromkeys(f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in sorted(values)))
    return " to ".join(ends[:: max(len(ends) - 1, 1)])


def to_listen_to(folder: Path, lines: Lines, count: int) -> tuple[Lines, int]:
    """Up to `count` clips of one setting whose files are there, evenly from the quietest change to the loudest; how many are left out."""
    there = [line for line in lines if line["reached"] and (folder / f"{line['name']}.wav").exists()]
    there.sort(key=lambda line: (line["snr_db"] is None, -(line["snr_db"] or 0)))
    if len(there) <= count:
        return there, 0
    places = [round(i * (len(there) - 1) / max(count - 1, 1)) for i in range(count)]
    return [there[place] for place in places], len(there) - count


def picture_of(folder: Path, line: Mapping[str, Any], draw: bool) -> bool:
    """Whether a clip has its picture, which is drawn if need be."""
    path, clean = folder / f"{line['name']}.png", folder / f"{line['name']}.clean.wav"
    if draw and not path.exists() and clean.exists():
        pair = [read_clip(file) for file in (clean, folder / f"{line['name']}.wav")]
        title = f"{line['title']} on {line.get('model', 'the recogniser')}, {line['bound']}"
        heard = line["clean_transcript"], line["adversarial_transcript"]
        draw_pair(path, pair[0].samples, pair[1].samples, pair[0].sample_rate, heard=heard, title=title)
    return path.exists()


def failures(lines: Lines) -> list[dict[str, Any]]:
    """The jobs whose goal was not reached, by how they ended; `why` in words, where it is the same for all of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if not line["reached"]:
            found.setdefault(line["outcome"], []).append(line)
    reasons = {outcome: {line["note"] for line in some} for outcome, some in found.items()}
    return [
        {
            "outcome": outcome,
            "count": len(some),
            "why": next(iter(reasons[outcome])) if len(reasons[outcome]) == 1 else "",
            "lines": some[:MOST_FAILURES],
        }
        for outcome, some in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
