"""Training that holds: a model learns from what an attacker makes of its examples. One method a file, one loop for all.

The loop       train(model, data, method, ...): checkpoints, exact resume, many processes (processes.together), early stopping
Data           Labelled (any shape), Spoken (ragged clips), Mixed (with pseudo_labels), each a Batch at a time
One set        Natural, Adversarial (Madry), fast (Wong) and Guarded, Free (Shafahi), Yopo, Trades
Several sets   Worst, Average, RandomOne, MSD, EAT
Poisoned data  Backdoor (of a trigger: Stamp, tone, burst), collide (clean labels); sift takes out what stands out
Copies         extract (by queries), solved and solved_by_decisions (linear models, exactly), of a model that is Asked
Around it      Watch (accuracies after each pass), TensorBoard, start_from (fine-tuning), cycle, triangle, constant, growing (schedules)
"""

from audioadv.training.adversarial import Adversarial, fast
from audioadv.training.backdoor import Backdoor, Poisoned
from audioadv.training.batches import Batch, Data, Labelled, Spoken, key, keyed, of_like_length
from audioadv.training.checkpoint import start_from
from audioadv.training.collision import collide
from audioadv.training.curves import TensorBoard
from audioadv.training.e_at import EAT
from audioadv.training.extraction import Asked, Extraction, extract, solved, solved_by_decisions
from audioadv.training.free import Free
from audioadv.training.guard import Guarded
from audioadv.training.loop import Training, train
from audioadv.training.method import Method, Moment, Natural
from audioadv.training.msd import MSD
from audioadv.training.processes import Processes, together
from audioadv.training.pseudo_labels import Mixed, pseudo_labels
from audioadv.training.schedule import constant, cycle, growing, triangle
from audioadv.training.several import Average, RandomOne, Worst
from audioadv.training.signatures import outlying, sift
from audioadv.training.trades import Trades
from audioadv.training.triggers import Cue, Stamp, Trigger, burst, tone
from audioadv.training.watch import Mark, Watch
from audioadv.training.yopo import Yopo

__all__ = [
    "EAT",
    "MSD",
    "Adversarial",
    "Asked",
    "Average",
    "Backdoor",
    "Batch",
    "Cue",
    "Data",
    "Extraction",
    "Free",
    "Guarded",
    "Labelled",
    "Mark",
    "Method",
    "Mixed",
    "Moment",
    "Natural",
    "Poisoned",
    "Processes",
    "RandomOne",
    "Spoken",
    "Stamp",
    "TensorBoard",
    "Trades",
    "Training",
    "Trigger",
    "Watch",
    "Worst",
    "Yopo",
    "burst",
    "collide",
    "constant",
    "cycle",
    "extract",
    "fast",
    "growing",
    "key",
    "keyed",
    "of_like_length",
    "outlying",
    "pseudo_labels",
    "sift",
    "solved",
    "solved_by_decisions",
    "start_from",
    "together",
    "tone",
    "train",
    "triangle",
]
