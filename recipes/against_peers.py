"""Side by side with asr-attacks (cw, pgd) and ART (CarliniWagnerASR): same recogniser, pairs, forwards, and judge.

    make peers                                                      # .peers, an environment of theirs, with audioadv in it
    .peers/bin/python recipes/against_peers.py --out peers.jsonl   # long: stop it and start it again at will
    .peers/bin/python recipes/against_peers.py --out peers.jsonl --report
    .peers/bin/python recipes/against_peers.py --out quick.jsonl --quick

A module around the net counts the passes; those of an attack's own checks count too. Entrants take turns, 16 pairs
at a time, of about one length, as `audioadv craft` puts them together. Each works on its own scale and one utterance at a time, as it asks
for (ours: a ragged batch of 16), by its own defaults but for the number of steps, and is judged on its 16-bit file, read back and heard
alone.

    cw           asr-attacks cw, loss="ctc": a forward a step, and one every 10 steps
    cw-margin    loss="margin": as many steps again on the aligned hinge, at two forwards each
    art          ART CarliniWagnerASR on int16 scale: a forward a step, and one every 10 steps
    art-fine     the same with a tenth of its step
    pgd-l2, pgd  asr-attacks pgd searches for no radius, so a search is put around it: 300 forwards are 7 radii at its default 40
                 steps, 1000 are 10 at 98. In L2 to meet snr:min, in Linf to meet linf:min

For each pair, a peer's result is the best of its entrants' that reached the target.

300 forwards, 40 pairs, a run of all entrants on a core of its own for each recogniser. On tiny-mel (4e42305cc251) ours reach 40 and 40
(snr:min, linf:min), cw 18, art 40, art-fine 28, pgd-l2 8, pgd 15; on tiny-wave (9b8062685b3f) 40 and 40, cw 25, art 40, art-fine 35, pgd-l2
38, pgd 37: whatever a peer solves is solved. Medians on common pairs, and the share of the peer's time in which snr:min came to the peer's
own median of all pairs, where it reaches half of them (ART: art, art-fine; pgd: pgd-l2, pgd):

                     tiny-mel                             tiny-wave
                     SNR       dB_x      time             SNR       dB_x      time
    asr-attacks cw   +11.7 dB  -12.4 dB  -                +6.7 dB   -6.0 dB   0.114
    asr-attacks pgd  +38.2     -41.6     -                +27.1     -28.3     0.100, 0.098
    ART              +18.7     -21.4     0.120, 0.147     +13.3     -10.1     0.106, 0.107

The 16 shortest pairs alone take longer: 0.25 of art-fine's and pgd's time on tiny-wave. cw-margin, before: 6 and 10 solved.
With 1,000 forwards ours reach all that were run. Medians on common pairs, how many these are, and times as above; all 40 pairs of ours and
cw (and of art-fine on tiny-mel), of the others the first 16 to 32, the shortest, partly run after ours:

                     tiny-mel                                          tiny-wave
                     SNR               dB_x              time          SNR               dB_x              time
    asr-attacks cw   +7.9 dB (28)      -5.9 dB (23)      0.067         +5.3 dB (28)      -5.7 dB (11)      0.025
    asr-attacks pgd  +41.1 (19)        -40.7 (19)        0.04, 0.09    +19.5 (16)        -19.8 (16)        0.10, 0.03
    ART              +15.5 (38)        -12.1 (30)        0.07, 0.06    +11.9 (22)        -9.7 (16)         0.06, 0.09

On tiny-wave the medians of ours and cw are 34.1 and 28.8 dB; pair by pair the median gain is 7.5 dB, the least 2.6. The mean of ours is
32.1 dB after 300 and 33.1 after 1,000; another 500 steps bring 0.2 dB (12 pairs); the best of four searches of 300 is 0.6 dB above one.
"""

import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from lines import add_lines, read_lines, write_lines
from suite import DATA, Pair, judge, pairs
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.attacks.craft import BATCH
from audioadv.attacks.objective import objective
from audioadv.attacks.shrink import find_then_shrink
from audioadv.audio.files import FULL_SCALE, round16
from audioadv.audio.ragged import alike, pad
from audioadv.evaluation.rates import wilson
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.models.sources import load_model
from audioadv.threat.bounds import around_sound, parse_bound
from audioadv.threat.goals import Transcribe, spell

Line = dict[str, Any]
CHECK_EVERY = 10  # steps between two looks, each a forward: the default of both cw attacks


class Counted(nn.Module):
    """A net whose passes are counted, clip by clip; a backward pass is a gradient that reaches its output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the net's own; without lengths, every clip is full (asr-attacks passes waveforms only, and takes the first result)."""
        self.forwards += len(waveforms)
        full = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        log_probs, frames = self.net(waveforms, full if lengths is None else lengths)
        if log_probs.requires_grad:
            log_probs.register_hook(self.passed_back)
        return log_probs, frames

    def passed_back(self, slope: Tensor) -> None:
        """A gradient came by."""
        self.backwards += len(slope)


def ours(model: Recogniser, batch: list[Pair], spec: str, forwards: int, seed: int) -> tuple[list[Tensor], list[Line], list[float]]:
    """Adversarial clips; for each the steps that made it quieter, with decibels below its carrier; the seconds at each step's end."""
    began = time.perf_counter()
    waveforms, lengths = pad([pair.clip.samples.to(model.device) for pair in batch])
    bound, goal = parse_bound(spec), Transcribe([pair.target for pair in batch])
    region = around_sound(bound, waveforms, lengths)
    loudness = region.norm.gauge(waveforms)
    traces: list[list[tuple[int, float]]] = [[] for _ in batch]
    clock: list[float] = []

    def record(step: int, best: Tensor, inputs: Tensor) -> None:
        below = (20 * (loudness / best).log10()).tolist()
        clock.append(round(time.perf_counter() - began, 4))
        for trace, decibels in zip(traces, below, strict=True):
            if math.isfinite(decibels) and (not trace or decibels > trace[-1][1]):
                trace.append((step, round(decibels, 3)))

    result = find_then_shrink(objective(model, goal, lengths), region, steps=forwards, minimal=True, seed=seed, progress=record)
    found = [row[: len(pair.clip.samples)].cpu() for row, pair in zip(result.adversarial, batch, strict=True)]
    return found, [{"trace": trace} for trace in traces], clock


def attacker(model: Recogniser) -> Any:
    """asr-attacks on the recogniser, silent."""
    from asr_attacks import ASRAttacker, CTCModuleBackend  # type: ignore[import-not-found, unused-ignore]

    return ASRAttacker(CTCModuleBackend(model.net, model.vocabulary, model.device, model.vocabulary.index("")), verbose=False)


def affordable(forwards: int, each: int = 1, once: int = 0) -> int:
    """How many steps of `each` forwards, with the looks between them and some forwards `once`, come to at most `forwards`.

    >>> affordable(300), affordable(300, each=3, once=2)  # 273 steps and 27 looks; 96 steps, 9 looks and the 2
    (273, 96)
    """
    return max(steps for steps in range(forwards + 1) if each * steps + steps // CHECK_EVERY + once <= forwards)


def cw(model: Recogniser, pair: Pair, forwards: int, loss: str = "ctc") -> Tensor:
    """asr-attacks cw. Its margin stage has as many steps again, two forwards each, and needs two forwards to begin."""
    steps = affordable(forwards) if loss == "ctc" else affordable(forwards, each=3, once=2)
    return torch.from_numpy(attacker(model).cw(pair.clip.samples, pair.target, targeted=True, num_iter=steps, loss=loss)[0])


def pgd(model: Recogniser, pair: Pair, forwards: int, norm: float) -> Tensor:
    """asr-attacks pgd within the smallest of the radii tried that reaches; each try ends with two forwards of its own.

    Decibels below the carrier: 30, 20, 10 ... until one reaches; then halfway towards the next quieter that did not. A larger
    radius means larger steps too, and can miss where a smaller one reaches: hence from quiet to loud.
    """
    clean, rounds = pair.clip.samples, 7 if forwards < 600 else 10
    quiet, loud, middle, best = 60.0, -math.inf, 30.0, clean
    for _ in range(rounds):
        radius = float(clean.norm(p=norm)) * 10 ** (-middle / 20)
        run = attacker(model).pgd(clean, pair.target, epsilon=radius, num_iter=forwards // rounds - 2, targeted=True, norm=norm)
        found = torch.from_numpy(run[0])
        if heard(model, round16(found)) == pair.target:
            loud, best = middle, found
        else:
            quiet = middle
        middle = (quiet + loud) / 2 if loud > -math.inf else quiet - 10
    return best


def art(model: Recogniser, pair: Pair, forwards: int, learning_rate: float = 100.0) -> Tensor:
    """ART's CarliniWagnerASR. Its defaults mean int16 scale, and it compares transcripts in capitals."""
    from art.attacks.evasion import CarliniWagnerASR  # type: ignore[import-not-found, unused-ignore]
    from art.estimators.pytorch import PyTorchEstimator  # type: ignore[import-not-found, unused-ignore]
    from art.estimators.speech_recognition.speech_recognizer import SpeechRecognizerMixin  # type: ignore[import-not-found, unused-ignore]

    class Estimator(SpeechRecognizerMixin, PyTorchEstimator):  # type: ignore[misc, unused-ignore]
        input_shape = (None,)

        def scores(self, x: Tensor) -> Any:
            return model(x / FULL_SCALE, torch.full((len(x),), x.shape[1], device=x.device))

        @torch.no_grad()
        def predict(self, x: Any, batch_size: int = 1, **more: Any) -> Any:
            return np.array([text.upper() for text in self.scores(torch.from_numpy(x).to(model.device)).transcripts()])

        def loss_gradient(self, x: Any, y: Any, **more: Any) -> Any:
            inputs = torch.from_numpy(x).to(model.device).requires_grad_()
            outputs, wanted = self.scores(inputs), spell(tuple(text.lower() for text in y), model.vocabulary, model.device)
            loss = F.ctc_loss(outputs.log_probs.transpose(0, 1), wanted.columns, outputs.frames, wanted.lengths, blank=wanted.blank)
            return torch.autograd.grad(loss, inputs)[0].cpu().numpy()

        def fit(self, *parts: Any, **more: Any) -> None:
            raise NotImplementedError

        get_activations = fit

    estimator = Estimator(model=model.net, clip_values=None, channels_first=False)
    attack = CarliniWagnerASR(estimator, learning_rate=learning_rate, max_iter=affordable(forwards), batch_size=1)
    found = attack.generate((pair.clip.samples[None] * FULL_SCALE).numpy(), np.array([pair.target.upper()]))
    return torch.from_numpy(found[0].astype(np.float32)) / FULL_SCALE


PEERS: dict[str, Callable[[Recogniser, Pair, int], Tensor]] = {
    "cw": cw,
    "cw-margin": lambda model, pair, forwards: cw(model, pair, forwards, loss="margin"),
    "art": art,
    "art-fine": lambda model, pair, forwards: art(model, pair, forwards, learning_rate=10.0),
    "pgd-l2": lambda model, pair, forwards: pgd(model, pair, forwards, norm=2),
    "pgd": lambda model, pair, forwards: pgd(model, pair, forwards, norm=math.inf),
}
OURS = ("snr:min", "linf:min")
FAMILIES = {"asr-attacks cw": ("cw", "cw-margin"), "asr-attacks pgd": ("pgd-l2", "pgd"), "ART cw": ("art", "art-fine")}
RUN = ("model", "weights", "device", "forwards_allowed", "seed")  # what must agree for lines to be compared


def heard(model: Recogniser, samples: Tensor) -> str:
    """The transcript of samples that are alone, by the net itself: not counted. Shapes: [time]."""
    net = model.net.net if isinstance(model.net, Counted) else model.net
    return heard_alone(Recogniser(net, model.sample_rate, model.vocabulary), samples).transcripts()[0]


def compete(model: Recogniser, entrant: str, batch: list[Pair], run: Line) -> list[Line]:
    """One entrant on a batch of pairs (a peer: of one). `as_floats`: whether the samples before rounding are heard as the target.

    One line a pair, and after ours one with the `clock` of the batch. `seconds` is a pair's share of the attack's wall time.
    """
    assert isinstance(model.net, nn.Module)
    net = Counted(model.net)
    counted = Recogniser(net, model.sample_rate, model.vocabulary, model.name)
    torch.manual_seed(run["seed"])  # pgd draws its start from the global state
    began = time.perf_counter()
    if entrant in OURS:
        found, traces, clock = ours(counted, batch, entrant, run["forwards_allowed"], run["seed"])
    else:
        found, traces, clock = [PEERS[entrant](counted, batch[0], run["forwards_allowed"])], [{}], []
    spent = (time.perf_counter() - began, net.forwards, net.backwards)
    cost = {key: round(value / len(batch), 4) for key, value in zip(("seconds", "forwards", "backwards"), spent, strict=True)}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for pair, samples, trace in zip(batch, found, traces, strict=True):
            what = {"entrant": entrant, "pair": pair.name, "kind": pair.kind, "target": pair.target}
            verdict = judge(model, pair, samples.nan_to_num(), Path(folder)).line()
            lines.append(run | what | verdict | {"as_floats": heard(model, samples) == pair.target} | cost | trace)
    if clock:
        lines.append(run | {"entrant": entrant, "clock": clock, "group": [pair.name for pair in batch]})
    return lines


def weights(net: nn.Module) -> str:
    """A short name for exactly these weights; what else the net holds is made anew on each machine."""
    digest = hashlib.sha256()
    for value in net.parameters():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def median(values: Iterable[float]) -> float:
    """The median; not a number for none."""
    return statistics.median(listed) if (listed := list(values)) else math.nan


def goodness(line: Line, name: str) -> float:
    """Decibels, the more the better: SNR, or minus dB_x(delta). Minus infinity for a pair that was not reached."""
    if not line["reached"]:
        return -math.inf
    return math.inf if line[name] is None else line[name] if name == "snr_db" else -line[name]


def seconds_until(wanted: float, traces: list[list[tuple[int, float]]], clocks: list[list[float]]) -> float:
    """When the median of the clips' best SNR comes up to `wanted`, were all batches to stop at the same step; infinite for never."""
    for step in range(1, max(map(len, clocks)) + 1):
        if median(max((db for at, db in trace if at <= step), default=-math.inf) for trace in traces) >= wanted:
            return sum(clock[min(step, len(clock)) - 1] for clock in clocks)
    return math.inf


def tell_entrants(by: dict[str, dict[str, Line]]) -> None:
    """What each entrant solved, how loudly, and at what cost."""
    click.echo("  entrant     solved             95 %  lost to 16 bits   snr_db     dB_x (medians)  forwards  backwards a pair   seconds")
    for entrant, found in by.items():
        solved = [line for line in found.values() if line["reached"]]
        low, high = wilson(len(solved), len(found))
        lost = sum(line["as_floats"] and not line["reached"] for line in found.values())
        snr, peak = median(goodness(line, "snr_db") for line in solved), -median(goodness(line, "relative_db") for line in solved)
        forwards, backwards, spent = (sum(line[key] for line in found.values()) for key in ("forwards", "backwards", "seconds"))
        row = f"  {entrant:10} {len(solved):3}/{len(found):<3} {low:7.1%} ..{high:7.1%}  {lost:15}  {snr:7.2f}  {peak:7.2f}"
        click.echo(f"{row}  {forwards / len(found):18.1f}  {backwards / len(found):9.1f}  {spent:15.1f}")


def tell_gains(by: dict[str, dict[str, Line]]) -> None:
    """Ours against the best of each peer's entrants, on the pairs that both solve; and the pairs that only the peer solves."""
    click.echo("\n  on pairs that both solve    pairs  median ours   theirs     gain, dB")
    for family, entrants in FAMILIES.items():
        theirs = [by[entrant] for entrant in entrants if entrant in by]
        for bound, name in zip(OURS, ("snr_db", "relative_db"), strict=True):
            pairs_met = set(by.get(bound, {})) & {pair for found in theirs for pair in found}
            best = {pair: max(goodness(found[pair], name) for found in theirs if pair in found) for pair in pairs_met}
            mine = {pair: goodness(by[bound][pair], name) for pair in pairs_met}
            common = [pair for pair in pairs_met if min(best[pair], mine[pair]) > -math.inf]
            a, b, sign = median(mine[pair] for pair in common), median(best[pair] for pair in common), 1 if name == "snr_db" else -1
            click.echo(f"  {family:16} {name:11} {len(common):5}  {sign * a:11.2f}  {sign * b:7.2f}  {a - b:11.2f}")
            if missed := sorted(pair for pair in pairs_met if best[pair] > mine[pair] == -math.inf):
                click.echo(f"    solved by it and not by ours at {bound}: {', '.join(missed)}")


def tell_times(by: dict[str, dict[str, Line]], clocks: list[list[float]]) -> None:
    """How long ours takes to come to each entrant's median SNR over all pairs, the unsolved at minus infinity."""
    click.echo("\n  to the median snr_db of all pairs   pairs  median  its seconds     ours    ratio")
    mine = by.get(OURS[0], {})
    for entrant in (entrant for entrant in PEERS if entrant in by and clocks):
        names = by[entrant].keys() & mine.keys()
        wanted, spent = median(goodness(by[entrant][pair], "snr_db") for pair in names), sum(by[entrant][pair]["seconds"] for pair in names)
        # A peer that solves less than half sets no mark
        until = seconds_until(wanted, [mine[pair]["trace"] for pair in names], clocks) if wanted > -math.inf else math.nan
        click.echo(f"  {entrant:33} {len(names):7} {wanted:7.2f}  {spent:11.1f} {until:8.1f} {until / spent:8.3f}")


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--forwards", multiple=True, default=(300, 1000), show_default=True, help="that each entrant has for a pair; again for more")
@click.option("--entrant", "entrants", multiple=True, default=(*OURS, *PEERS), show_default=True, help="who takes part; again for more")
@click.option("--again", multiple=True, help="forget this entrant's lines first (its times then come from another run than the rest)")
@click.option("--limit", default=40, show_default=True, help="only so many pairs")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--quick", is_flag=True, help="2 pairs, 60 forwards")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, required=True, help="result lines, JSON Lines; what is in it already is not done again")
@click.option("--report", is_flag=True, help="print what is in --out, run nothing")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
def main(
    models: tuple[str, ...],
    forwards: tuple[int, ...],
    entrants: tuple[str, ...],
    again: tuple[str, ...],
    limit: int,
    seed: int,
    quick: bool,
    data: Path,
    out: Path,
    report: bool,
    device: str,
) -> None:
    """Run what is missing in --out, then print the tables of all that is in it."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    lines: list[Line] = [line for line in read_lines(out) if line["entrant"] not in again]
    limit, forwards = (2, (60,)) if quick else (limit, forwards)
    suite = pairs(data)[:limit]
    suite = [suite[i] for i in alike([len(pair.clip.samples) for pair in suite], BATCH)]
    groups = [suite[first : first + BATCH] for first in range(0, len(suite), BATCH)]
    write_lines(out, lines)
    for name in () if report else models:
        model = load_model(name, device)
        assert isinstance(model.net, nn.Module)
        digest = weights(model.net)
        for allowed, group, entrant in product(forwards, groups, entrants):
            run = dict(zip(RUN, (model.name, digest, device, allowed, seed), strict=True))
            done = {line["pair"] for line in lines if "pair" in line and line.items() >= (run | {"entrant": entrant}).items()}
            todo = [pair for pair in group if pair.name not in done]
            for batch in [group] * bool(todo) if entrant in OURS else [[pair] for pair in todo]:
                new = compete(model, entrant, batch, run)
                lines += new
                add_lines(out, new)
            click.echo(f"{model.name}, {allowed} forwards, {entrant}: done up to {group[-1].name}", err=True)

    for key in sorted({tuple(line[field] for field in RUN) for line in lines}):
        some = [line for line in lines if tuple(line[field] for field in RUN) == key]
        judged = [line for line in some if "pair" in line]
        by = {entrant: {line["pair"]: line for line in judged if line["entrant"] == entrant} for entrant in (*OURS, *PEERS)}
        click.echo("\n" + ", ".join(f"{field} {value}" for field, value in zip(RUN, key, strict=True)) + "\n")
        by = {entrant: found for entrant, found in by.items() if found}
        tell_entrants(by)
        tell_gains(by)
        tell_times(by, list({line["group"][0]: line["clock"] for line in some if "clock" in line and line["entrant"] == OURS[0]}.values()))


if __name__ == "__main__":
    main()
