"""A recogniser under noise: each draw is heard, and the transcripts vote (ROVER).

    waveform + noise, 16 times  --recogniser-->  16 transcripts  --ROVER-->  what is heard
                                      '--------> letters' probabilities, averaged: what has gradients

Sources: Olivier and Raj 2021, "Sequential randomized smoothing for adversarially robust speech recognition"; the vote, `rover.py`.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from audioadv.defenses.rover import rover
from audioadv.defenses.smoothing import ATTACK, averaged, check_noise, each_example, joined, log_mean, noise_blocks
from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import OptionError
from audioadv.models.abstention import abstained, nothing_like
from audioadv.models.recogniser import Emissions, Recogniser, hear, hears
from audioadv.threat.channels.keys import Key, fingerprint


@final
@dataclass(frozen=True, eq=False)
class SmoothedRecogniser(Wrapped):
    """A recogniser that hears `draws` noisy versions of a clip (Gaussian of `sigma`, full scale 1) and has their words voted on.

    Its outputs are the letters' mean probabilities frame by frame, which have gradients, with the transcript that was voted:
    goals go down the one and are judged by the other. Draws are keyed by seed and by the clip's content: the same clip is
    always heard the same, and an attack meets new draws at each step (EOT). Nothing is certified, since words are no classes.
    Where the recogniser has detectors, their word is the mean over the draws. Draws from which it abstains have no vote.
    Raises OptionError for what is no recogniser, and for a sigma that is not above 0.
    """

    model: Recogniser
    sigma: float
    draws: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        model: object = self.model
        if not hears(model):
            raise OptionError(f"model of type {type(model).__name__}: no recogniser. Give one, or take Smoothed for a classifier")
        check_noise(self.sigma, self.draws)

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> Emissions:
        """Shapes: waveforms [batch, time], lengths [batch] in samples -> Emissions."""
        if not len(waveforms):  # of nothing, no model need be asked: few take an empty batch
            return Emissions(waveforms.new_zeros(0, 0, len(self.model.vocabulary)), lengths, self.model.vocabulary, voted=())
        alone = [self.heard(clip, own) for clip, own in each_example(waveforms, lengths) if own is not None]
        widest = max(int(one.frames.max()) for one in alone)
        log_probs = [torch.nn.functional.pad(one.log_probs[:, :widest], (0, 0, 0, widest - one.log_probs.shape[1])) for one in alone]
        voted = tuple(text for one in alone for text in one.transcripts())
        frames, suspicions = torch.cat([one.frames for one in alone]), joined(one.suspicions for one in alone)
        return replace(alone[0], log_probs=torch.cat(log_probs), frames=frames, suspicions=suspicions, voted=voted)

    def heard(self, clip: Tensor, own: Tensor) -> Emissions:
        """One clip without padding. Shapes: clip [1, time], own [1]."""
        key = Key(self.seed, fingerprint(clip), ATTACK)
        draws = [self.model(clip + noise, own.expand(len(noise))) for noise in noise_blocks(clip, self.sigma, self.draws, key)]
        log_probs, absent = torch.cat([draw.log_probs for draw in draws]), torch.cat([abstained(draw) for draw in draws])
        texts = [text for draw in draws for text in draw.transcripts()]
        votes = [text for text, gone in zip(texts, absent.tolist(), strict=True) if not gone]
        blank = self.model.vocabulary.index("")
        mean = log_mean(log_probs, absent)[None] if votes else nothing_like(log_probs[:1], blank)
        suspicions = averaged(draw.suspicions for draw in draws)
        return replace(draws[0], log_probs=mean, frames=draws[0].frames[:1], suspicions=suspicions, voted=(rover(votes or [""]),))

    def transcribe(self, waveforms: Tensor, lengths: Tensor) -> list[str]:
        """What the draws voted for. Shapes: waveforms [batch, time], lengths [batch] in samples; on any device."""
        return hear(self, waveforms, lengths).transcripts()
