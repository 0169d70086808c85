"""Channels: the same draws in any company, the closed forms of each, the stated backward, and specs that read back."""

import io
import math
import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import audioadv as aa
from audioadv.audio.codecs import RATES, through_codec
from audioadv.audio.ragged import pad
from audioadv.audio.roomsets import DEFAULT, Role, RoomSet, Space, read_rooms, write_rooms
from audioadv.threat.channels import (
    NOTHING,
    Band,
    Bits,
    Clipping,
    Codec,
    Depth,
    Gain,
    Gaussian,
    Key,
    Loudspeaker,
    Median,
    Noise,
    Packets,
    Range,
    Resample,
    Room,
    Rotate,
    Shift,
    Speed,
    fingerprint,
    parse_channel,
)
from audioadv.threat.channels.noise import babble, hum

ROOT = Path(__file__).parent.parent
BABBLE = str(ROOT / "samples/babble.wav")
SOUND = [
    "room", "noise:20", "noise:15..25@pink", "noise:20@babble", "noise:0..10@hum", f"noise:20@{BABBLE}", "gain:-6..6", "band:300..3400",
    "loudspeaker", "loudspeaker:2..6", "shift:-20..20", "speed:0.95..1.05", "drift:-100..100", "resample:8000", "clip:0.1", "bits:8",
    "codec:mp3@64k", "codec:opus@24k", "codec:vorbis@5", "codec:mulaw@64k", "packets:0..0.1@30", "gain:-6..6_then_room_then_noise:20..30",
    "room_then_noise:20_or_codec:mp3@64k_or_shift:5", "noise:20_or_speed:0.9",
    "median:5", "mean:3", "drop:0..0.3", "gaussian:0.01", "packets:0", "packets:1", "drop:1", "gain:-6_or_gain:-6", "gain:-6_or_bits:8",
]  # fmt: skip
IMAGE = [
    "rotate:-30..30@3", "crop:0.8..1", "crop:1..1.3", "jpeg:50..90", "drop:0.2", "gaussian:0.05", "rotate:5_then_jpeg:75",
    "crop:0.9_or_drop:0.5", "median:3", "mean:3", "depth:3",
]  # fmt: skip
FIXED = {
    "band:300..3400", "resample:8000", "clip:0.1", "bits:8", "codec:mp3@64k", "codec:opus@24k", "codec:vorbis@5", "codec:mulaw@64k",
    "median:5", "mean:3",
    "median:3", "depth:3", "rotate:5_then_jpeg:75", "packets:0", "packets:1", "drop:1", "gain:-6_or_gain:-6",
}  # fmt: skip


def tone(hz: float, seconds: float = 1.0, level: float = 0.5) -> Tensor:
    return level * torch.sin(2 * math.pi * hz * torch.arange(int(16000 * seconds)) / 16000)


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    """Three lengths, the longest as long as half of the babble."""
    sounds = aa.read_audio([ROOT / f"samples/{name}.wav" for name in ("kitchen", "phone", "fan")], 16000)
    return [clip.samples[: 28000 - 4000 * place] for place, clip in enumerate(sounds)]


def snr(clean: Tensor, heard: Tensor) -> float:
    return float(10 * (clean.square().sum() / (heard - clean).square().sum()).log10())


# What every channel promises


@pytest.mark.parametrize("spec", [*SOUND, *IMAGE, "noise:15..25", "noise:20..30", "codec:mp3@64k_or_codec:opus@24k"])
def test_a_spec_reads_back(spec: str) -> None:
    channel = parse_channel(spec)
    assert str(channel) == spec
    assert parse_channel(str(channel)) == channel
    assert hash(channel) == hash(parse_channel(spec))


@pytest.mark.parametrize("spec", SOUND)
def test_the_same_draws_alone_in_a_batch_and_in_any_order(spec: str, clips: list[Tensor]) -> None:
    channel = parse_channel(spec)
    waveforms, lengths = pad(clips)
    keys = [Key(7, fingerprint(clip), draw) for draw in (0, 5) for clip in clips]
    heard, ends = channel.draw(keys)(waveforms.repeat(2, 1), lengths.repeat(2))
    assert ends is not None
    order = [4, 0, 5, 2, 1, 3]
    turned, _ = channel.draw([keys[i] for i in order])(waveforms.repeat(2, 1)[order], lengths.repeat(2)[order])
    for place, i in enumerate(order):
        alone, end = channel.draw([keys[i]])(clips[i % 3][None], lengths[i % 3 : i % 3 + 1])
        assert end is not None
        assert int(end) == int(ends[i])
        torch.testing.assert_close(alone[0, : int(end)], heard[i, : int(end)], rtol=0, atol=2e-6)
        torch.testing.assert_close(turned[place, : int(end)], heard[i, : int(end)], rtol=0, atol=2e-6)
        assert not heard[i, int(end) :].any(), "the padding stays zero"


@pytest.mark.parametrize("spec", ["room_then_noise:20", "noise:15..25", "loudspeaker", "speed:0.95..1.05", "packets:0.3", "shift:-20..20"])
def test_another_draw_seed_clip_role_or_place_is_another_draw(spec: str) -> None:
    key = Key(0, 1, 2)
    keys = [key, key._replace(seed=1), key._replace(clip=2), key._replace(draw=3), key._replace(role=Role.JUDGE), key.part(0)]
    heard, _ = parse_channel(spec).draw(keys)(tone(440).repeat(len(keys), 1), None)
    for i in range(len(keys)):
        for j in range(i):
            assert not torch.equal(heard[i], heard[j])


@pytest.mark.parametrize("spec", [*SOUND, *IMAGE])
def test_whether_two_draws_may_differ_is_what_is_stated(spec: str) -> None:
    channel = parse_channel(spec)
    inputs = tone(440)[None] if spec in SOUND else torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    heard = [channel.draw([Key(0, 1, draw)])(inputs, None)[0] for draw in range(6)]
    assert any(not torch.equal(one, heard[0]) for one in heard) == channel.random == (spec not in FIXED)


@pytest.mark.parametrize("spec", SOUND)
def test_a_map_may_be_called_again_and_leaves_global_random_numbers_alone(spec: str) -> None:
    state = torch.get_rng_state()
    play = parse_channel(spec).draw([Key(0, 0, 0), Key(0, 0, 1)])
    sound = tone(440).repeat(2, 1)
    assert torch.equal(play(sound, None)[0], play(sound, None)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spec", [*(s for s in SOUND if s not in ("noise:20@babble", "packets:0..0.1@30")), *IMAGE])
def test_the_backward_is_what_is_stated(spec: str) -> None:
    """Exact: the derivative along a direction, against a difference. BPDA alone: the identity."""
    channel = parse_channel(spec)
    images = spec in IMAGE
    generator = torch.Generator().manual_seed(0)
    clean = 0.4 + 0.1 * torch.rand(2, 3, 16, 16, generator=generator) if images else 0.1 * torch.randn(2, 16000, generator=generator)
    clean = clean.requires_grad_()
    play = channel.draw([Key(0, i, 0) for i in range(2)])
    heard = play(clean, None)[0]
    weights = torch.randn(heard.shape, generator=generator)
    (slope,) = torch.autograd.grad((heard * weights).sum(), clean)
    if channel.backward == "exact":
        reach = 1e-4 if "median" in spec else 1e-2  # a median's slope changes where two neighbours change places
        step = reach * torch.randn(clean.shape, generator=generator)
        with torch.no_grad():
            ahead, behind = (play(clean + sign * step, None)[0] for sign in (1, -1))
        measured = ((ahead - behind).double() * weights).sum() / 2
        tolerance = 0.02 * float(step.norm() * slope.norm()) / 10  # of the largest that it could be, over ten
        assert float((slope * step).sum()) == pytest.approx(float(measured), abs=tolerance + 1e-4)
    elif spec in ("bits:8", "codec:mp3@64k", "codec:vorbis@5", "jpeg:50..90", "depth:3"):
        torch.testing.assert_close(slope, weights)
    else:
        assert slope.isfinite().all()
        assert slope.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", [*(s for s in SOUND if "_or_" not in s), "resample:11025", *IMAGE])
def test_in_half_precision_it_is_the_same_but_for_rounding(spec: str, dtype: torch.dtype) -> None:
    channel, generator = parse_channel(spec), torch.Generator().manual_seed(0)
    inputs = torch.rand(1, 3, 32, 32, generator=generator) if spec in IMAGE else 0.1 * torch.randn(1, 16000, generator=generator)
    inputs = inputs.to(dtype)
    heard, plain = (channel.draw([Key(0, 0, 0)])(given, None)[0] for given in (inputs, inputs.float()))
    assert heard.dtype is dtype
    coarse = 0.15 if any(kind in spec for kind in ("depth", "bits", "jpeg")) else 0.0  # where it may round the other way
    assert (heard.float() - plain).abs().max() <= coarse + 8 * torch.finfo(dtype).eps * inputs.abs().max().clamp_min(plain.abs().max())


# Closed forms


def test_a_room_of_one_echo_is_that_echo_at_the_old_level() -> None:
    response = torch.zeros(1, 401)
    response[0, 0], response[0, 400] = 0.8, 0.6
    rooms = RoomSet((Space("echo", Role.JUDGE, response, 0.1),), 16000)
    sound = torch.zeros(1, 2000)
    sound[0, 100] = 0.5
    sound[0, 1900] = 0.1  # its echo would come after the clip
    heard, lengths = Room(rooms).draw([Key(0, 0, 0, Role.JUDGE)])(sound, torch.tensor([2000]))
    assert lengths is not None
    assert lengths.tolist() == [2000]
    assert heard.norm() == pytest.approx(float(sound.norm()), rel=1e-5)
    loud = heard[0] / heard[0, 100]
    assert loud[500] == pytest.approx(0.75, abs=1e-5)
    assert loud[1900] == pytest.approx(0.2, abs=1e-5)
    assert int((loud.abs() > 1e-5).sum()) == 3


def test_rooms_keep_level_and_alignment(clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips)
    heard, _ = parse_channel("room").draw([Key(0, i, 0) for i in range(3)])(waveforms, lengths)
    torch.testing.assert_close(heard.norm(dim=1), waveforms.norm(dim=1))
    click = torch.zeros(1, 16000)
    click[0, 3000] = 0.5
    for draw in range(20):
        for role in Role:
            echoes, _ = parse_channel("room").draw([Key(0, 0, draw, role)])(click, None)
            assert not (echoes[0, :3000].abs() > 1e-6).any()
            assert echoes[0, 3000] > 0.05
            heights = echoes.abs()[0] / echoes.abs().max()
            assert role is Role.CRAFT or heights[3000] > 0.6  # in a smaller room, arrivals fall together
            assert role is Role.CRAFT or heights[:2999].max() < 0.3
            assert echoes.norm() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("kind", ["white", "pink", "babble", "hum", BABBLE])
def test_noise_is_at_its_ratio(kind: str, clips: list[Tensor]) -> None:
    for decibels in (0.0, 20.0):
        heard, _ = Noise(decibels, kind).draw([Key(0, 0, 0)])(clips[0][None], None)
        assert snr(clips[0], heard[0]) == pytest.approx(decibels, abs=0.01)
    silent, _ = Noise(20, kind).draw([Key(0, 0, 0)])(torch.zeros(1, 8000), None)
    assert not silent.any()


def test_ranges_are_met_from_end_to_end() -> None:
    found = [float(Gain((-6, 6)).draw([Key(0, 0, d)])(torch.ones(1, 1), None)[0].log10() * 20) for d in range(200)]
    assert -6 <= min(found) < -5.5
    assert 5.5 < max(found) <= 6
    assert abs(sum(found) / 200) < 0.8


def test_colours_fall_as_they_should() -> None:
    """Pink: the same energy in each octave. White: twice as much in the octave above."""
    for kind, ratio in (("pink", 1.0), ("white", 2.0)):
        keys = [Key(0, 0, draw) for draw in range(20)]
        sound = tone(440, 2).repeat(20, 1)
        noise = Noise(0, kind).draw(keys)(sound, None)[0] - sound
        power = torch.fft.rfft(noise).abs().square().mean(0)
        hz = torch.fft.rfftfreq(noise.shape[1], 1 / 16000)
        octaves = [float(power[(hz >= low) & (hz < 2 * low)].sum()) for low in (250, 500, 1000, 2000)]
        for lower, upper in pairwise(octaves):
            assert upper / lower == pytest.approx(ratio, rel=0.15)


def test_babble_swells_with_syllables_and_hum_has_eight_harmonics() -> None:
    crowd = babble(30 * 16000, 16000, torch.Generator().manual_seed(0)).unflatten(0, (-1, 2000)).square().mean(1)  # by 1/8 s
    assert crowd.std() / crowd.mean() > 0.2, "six talkers, of whom noise alone would leave 0.1"
    for seed in range(4):
        power = torch.fft.rfft(hum(16000, 16000, torch.Generator().manual_seed(seed))).abs().square()
        mains = 50 if power[50] > power[60] else 60
        harmonics = torch.arange(1, 9) * mains
        least = (0.1 / torch.arange(1, 9) * 8000).square()  # the amplitude is 0.1 to 1.1 over the harmonic's number
        assert (power[harmonics] >= 0.99 * least).all()
        assert (power[harmonics] <= 125 * least).all()
        assert power[harmonics].sum() > 0.999 * power.sum()


def gain_at(channel: aa.Channel, hz: float) -> float:
    sound = tone(hz)[None]
    heard, _ = channel.draw([Key(0, 0, 0)])(sound, None)
    return float(20 * (heard[:, 4000:12000].norm() / sound[:, 4000:12000].norm()).log10())


def test_bands_pass_what_is_inside_without_delay() -> None:
    band = Band(300, 3400)
    assert gain_at(band, 1000) == pytest.approx(0, abs=0.1)
    assert gain_at(band, 300) == pytest.approx(-3, abs=0.5)
    assert gain_at(band, 100) < -30
    assert gain_at(band, 7000) < -20
    sound = tone(1000)
    heard, _ = band.draw([Key(0, 0, 0)])(sound[None], None)
    assert snr(sound[4000:12000], heard[0, 4000:12000]) > 40
    assert gain_at(Band(300, 3400), 6800) - gain_at(Band(300, 3400), 3400) == pytest.approx(-21, abs=1), "24 dB from where it begins"
    assert gain_at(Band(1000, 1100), 1050) == pytest.approx(-4.5, abs=0.3), "edges that take from each other"
    flat = Loudspeaker(0)
    assert gain_at(flat, 1000) == pytest.approx(0, abs=0.3)
    assert gain_at(flat, 30) < -20


def test_a_loudspeakers_ripple_bends_in_every_octave_up_to_the_highest() -> None:
    """Eight points over the seven octaves from 100 Hz: in each, draws differ from its lower to its upper end by as much."""
    hz = [100 * 2**octave for octave in range(2, 6)]  # well within the band of any draw
    keys = [Key(0, 0, draw) for draw in range(60)]
    clicks = torch.zeros(len(keys), 4000)
    clicks[:, 2000] = 1

    def levels(ripple: float) -> Tensor:
        heard, _ = Loudspeaker(ripple).draw(keys)(clicks, None)
        return 20 * torch.fft.rfft(heard).abs()[:, [round(each * 4000 / 16000) for each in hz]].log10()

    bends = levels(6) - levels(0)  # of the same loudspeakers without
    assert bends.abs().max() < 6.2
    steps = bends.diff(dim=1).std(0)  # of two numbers from -6 to 6 dB: 6 * sqrt(2 / 3)
    assert (steps - 6 * (2 / 3) ** 0.5).abs().max() < 1
    corners = torch.corrcoef(bends.T) - torch.eye(len(hz))
    assert corners.abs().max() < 0.4, "each octave by itself"


def test_resampling_loses_what_lies_above() -> None:
    assert gain_at(Resample(8000), 1000) == pytest.approx(0, abs=0.1)
    for narrow in (Resample(8000), parse_channel("codec:mulaw@64k")):
        assert gain_at(narrow, 3200) == pytest.approx(0, abs=0.5)
    assert gain_at(Resample(8000), 3600) == pytest.approx(0, abs=0.5)
    for folded in (4200, 4400, 5000, 7000):
        assert gain_at(Resample(8000), folded) < -60
    assert gain_at(parse_channel("codec:mulaw@64k"), 4200) < -60
    long, deep = 0.5 * torch.sin(math.pi * 99 / 16000 * torch.arange(160000))[None], slice(40000, 120000)  # at 0.99 of what 100 Hz hold
    assert Resample(100).draw([Key(0, 0, 0)])(long, None)[0][:, deep].norm() < 1e-3 * long[:, deep].norm()
    assert gain_at(Resample(32000), 5000) == pytest.approx(0, abs=0.1)


def test_speed_moves_tones_and_lengths() -> None:
    for factor in (0.9, 1.1, 1.0001):
        heard, lengths = Speed(factor).draw([Key(0, 0, 0)])(tone(1000)[None], None)
        assert lengths is not None
        assert int(lengths) == heard.shape[1] == round(16000 / factor)
        inner = slice(2000, 12000)
        assert snr(tone(1000 * factor, 2)[inner], heard[0][inner]) > 40


def test_what_lies_at_half_the_rate_is_no_louder_when_it_is_played_slower() -> None:
    highest = 0.1 * torch.ones(1, 4000)
    highest[:, 1::2] *= -1
    for slower in (Speed(0.9), Speed(0.5)):
        heard, _ = slower.draw([Key(0, 0, 0)])(highest, None)
        assert heard[0, 1000:-1000].abs().max() == pytest.approx(0.1, abs=0.002)


def test_shift_clipping_bits_and_packets() -> None:
    ramp = torch.arange(1.0, 161)[None] / 1000
    late, _ = Shift(5).draw([Key(0, 0, 0)])(ramp, None)
    assert not late[0, :80].any()
    assert torch.equal(late[0, 80:], ramp[0, :80])
    early, _ = Shift(-5).draw([Key(0, 0, 0)])(torch.cat([ramp, torch.zeros(1, 40)], 1), torch.tensor([160]))
    assert torch.equal(early[0, :80], ramp[0, 80:])
    assert not early[0, 80:].any()
    assert float(Clipping(0.1).draw([Key(0, 0, 0)])(ramp, None)[0].max()) == pytest.approx(0.1)
    sixteen, _ = parse_channel("bits:16").draw([Key(0, 0, 0)])(torch.tensor([[0.3, 2.0, -2.0]]), None)
    assert (sixteen * 32768).tolist() == [[9830.0, 32767.0, -32768.0]]
    alone, _ = Packets(0.5).draw([Key(0, 0, draw) for draw in range(200)])(torch.ones(200, 640), None)
    assert torch.equal(alone[:, :320].amin(1), alone[:, :320].amax(1))
    assert bool((alone[:, 319] != alone[:, 320]).any()), "packets of 20 ms, and no longer"
    lossy, _ = Packets(0.25).draw([Key(0, 0, draw) for draw in range(40)])(torch.ones(40, 16000), None)
    pieces = lossy.unflatten(1, (50, 320))
    assert torch.equal(pieces.amin(2), pieces.amax(2)), "a packet is there or not"
    assert float(lossy.mean()) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(("name", "rate"), [("mp3", 32), ("mp3", 64), ("opus", 24), ("vorbis", 5), ("mulaw", 128)])
def test_codecs_are_aligned_and_audibly_close(name: str, rate: float, clips: list[Tensor]) -> None:
    back = through_codec(clips[0], 16000, name, rate)
    assert back.shape == clips[0].shape
    assert snr(clips[0], back) > 10


@pytest.mark.parametrize("rate", RATES["opus"])
def test_opus_keeps_the_end_of_a_sound_of_any_length(rate: int) -> None:
    for milliseconds in range(200, 220):
        times = torch.arange(rate * milliseconds // 1000) / rate
        end = times >= milliseconds / 1000 - 0.005
        sound = torch.where(end, 0.4 * (2000 * math.pi * times).sin(), 0.1 * (880 * math.pi * times).sin())
        back = through_codec(sound, rate, "opus", 64)
        assert back.shape == sound.shape
        assert (back - sound)[end].norm() < 0.2 * sound[end].norm(), milliseconds


@pytest.mark.parametrize(("name", "low", "high"), [("mp3", 32, 128), ("opus", 16, 64)])
def test_codecs_take_the_bits_that_they_are_asked_for(name: str, low: float, high: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, write = list[int](), soundfile.write

    def weighed(file: io.BytesIO, *args: object, **options: object) -> None:
        write(file, *args, **options)
        sizes.append(len(file.getvalue()))

    monkeypatch.setattr(soundfile, "write", weighed)
    hiss = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0))
    for rate in (low, high):
        through_codec(hiss, 16000, name, rate)
        assert sizes[-1] * 8 / 2 / 1000 == pytest.approx(rate, rel=0.1)
    for quality in (1, 9):  # of Vorbis
        through_codec(hiss, 16000, "vorbis", quality)
    assert sizes[-1] > 1.5 * sizes[-2]


def test_fewer_bits_are_worse(clips: list[Tensor]) -> None:
    figures = [snr(clips[0], through_codec(clips[0], 16000, "opus", rate)) for rate in (12, 24, 64)]
    assert figures == sorted(figures)


@pytest.mark.parametrize("spec", ["codec:mp3@64k", "codec:opus@24k", "codec:vorbis@5", "codec:mulaw@64k", "noise:20", "resample:8000"])
def test_what_is_not_finite_stays_so_and_harms_no_neighbour(spec: str, clips: list[Tensor]) -> None:
    """An encoder that is handed a NaN may end the process."""
    waveforms, lengths = pad([clips[0], clips[0]])
    waveforms[0, 500:900] = torch.nan
    heard, _ = parse_channel(spec).draw([Key(0, 0, 0)] * 2)(waveforms, lengths)
    assert heard[0, 500:900].isnan().all()
    assert heard[1].isfinite().all()
    loud, _ = parse_channel(spec).draw([Key(0, 0, 0)])(1e30 * clips[0][None], lengths[1:])
    assert loud.shape == clips[0][None].shape


def test_a_room_is_that_of_its_folder_however_often_it_is_read(tmp_path: Path) -> None:
    for channel in (parse_channel(f"room:{DEFAULT}"), Room(read_rooms(DEFAULT)), Room(read_rooms(str(DEFAULT)))):
        assert parse_channel(str(channel)) == channel == parse_channel("room")
        assert hash(channel) == hash(parse_channel("room"))
    only = Room(read_rooms().only(Role.CRAFT))
    assert only != parse_channel("room"), "but of one role it is another"
    response = torch.zeros(1, 40)
    response[0, 0] = 1
    sets = [RoomSet((Space(name, Role.JUDGE, response, 0.1),), 16000) for name in ("one", "two")]
    assert Room(sets[0]) == Room(sets[0]) != Room(sets[1])
    write_rooms(tmp_path, sets[0], {})
    spec = f"room:{tmp_path}"
    before = parse_channel(spec)
    assert read_rooms(tmp_path) is read_rooms(str(tmp_path))
    write_rooms(tmp_path, sets[1], {})
    os.utime(tmp_path / "rooms.json", ns=(0, 0))
    assert [space.name for space in read_rooms(tmp_path).spaces] == ["two"]
    assert parse_channel(spec) != before


def test_a_clip_meets_the_same_draws_in_whatever_precision() -> None:
    clip = torch.tensor([0.25, -0.5, 0.0])
    assert len({fingerprint(clip.to(dtype)) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}) == 1
    assert fingerprint(clip) == fingerprint(clip * torch.tensor([1.0, 1.0, -1.0])) == 6130061170716 != fingerprint(-clip)


# The algebra


def test_chains_are_their_parts_in_order_and_choices_choose_each() -> None:
    chain = Gain(20) >> Clipping(0.5)
    assert torch.allclose(chain.draw([Key(0, 0, 0)])(torch.full((1, 4), 0.1), None)[0], torch.tensor(0.5))
    back = Clipping(0.5) >> Gain(20)
    assert torch.allclose(back.draw([Key(0, 0, 0)])(torch.full((1, 4), 0.1), None)[0], torch.tensor(1.0))
    either = Gain(20) | Gain(0) | Gain(-20)
    found, _ = either.draw([Key(0, 0, draw) for draw in range(300)])(torch.ones(300, 1), None)
    for value in (10.0, 1.0, 0.1):
        assert 70 <= int(torch.isclose(found, torch.tensor(value)).sum()) <= 130


def test_a_choice_within_a_chain_is_a_choice_of_chains() -> None:
    channel = (Gain(3) | Noise(20)) >> Clipping(0.5)
    assert str(channel) == "gain:3_then_clip:0.5_or_noise:20_then_clip:0.5"
    assert parse_channel(str(channel)) == channel
    assert channel.backward == "exact"
    assert (channel >> parse_channel("bits:8")).backward == "BPDA"


def test_nothing_is_a_channel_like_any_other() -> None:
    for channel, spec in ((NOTHING | Gain(1), "none_or_gain:1"), (Gain(1) | NOTHING, "gain:1_or_none"), (NOTHING >> NOTHING, "none")):
        assert str(channel) == spec
        assert parse_channel(spec) == channel
    assert NOTHING >> Gain(1) == Gain(1) >> NOTHING == parse_channel("none_then_gain:1") == Gain(1)
    heard, _ = (NOTHING | Gain(20)).draw([Key(0, 0, draw) for draw in range(40)])(torch.ones(40, 1), None)
    assert {round(value, 4) for value in heard[:, 0].tolist()} == {1.0, 10.0}


def test_whole_numbers_may_be_written_with_a_point() -> None:
    for channel, spec in ((Bits(8.0), "bits:8"), (Resample(8000.0), "resample:8000"), (Median(3.0), "median:3")):  # type: ignore[arg-type]
        assert str(channel) == spec
        assert channel == parse_channel(spec)
    for make in (lambda: Bits(7.5), lambda: Resample(8000.5), lambda: Median("3"), lambda: Depth(math.nan)):  # type: ignore[arg-type]
        with pytest.raises(aa.errors.MalformedSpec, match="give a whole number"):
            make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noise([15, 25]), r"channel with \[15, 25\]: give a number, or, where it has a range, a pair"),  # type: ignore[arg-type]
        (lambda: Noise((15,)), r"channel with \(15,\): give a number, or a pair \(low, high\)"),  # type: ignore[arg-type]
        (lambda: Noise(True), "channel with True: give a number"),
        (lambda: Noise((0, "20")), "channel with '20'"),  # type: ignore[arg-type]
        (lambda: Noise(20, 3), "noise of 3: give a kind"),  # type: ignore[arg-type]
        (lambda: Gain("-6"), r"channel with '-6'.*gain:-6 or"),  # type: ignore[arg-type]
        (lambda: Band("300", 3400), "channel with '300'"),  # type: ignore[arg-type]
        (lambda: Loudspeaker(None), "channel with None"),  # type: ignore[arg-type]
        (lambda: Rotate(5, "3"), "channel with '3'"),  # type: ignore[arg-type]
        (lambda: Packets(0.1, "20"), "channel with '20'"),  # type: ignore[arg-type]
        (lambda: Codec("mp3", "64k"), "channel with '64k'.*codec:mp3@64k"),  # type: ignore[arg-type]
        (lambda: Bits(True), "bits True: give a whole number"),
        (lambda: Room("sim"), "rooms 'sim': no set of rooms.*room:FOLDER"),  # type: ignore[arg-type]
        (lambda: Gain(3) >> 20, r"channel 20: not a channel. Give a spec, 'noise:20', or one of audioadv.threat.channels"),  # type: ignore[operator]
    ],
)  # fmt: skip
def test_channels_of_no_numbers_are_told(make: Callable[[], object], said: str) -> None:
    with pytest.raises(aa.errors.MalformedSpec, match=said):
        make()


def test_numbers_of_numpy_are_numbers_and_a_path_names_a_recording() -> None:
    assert str(Noise((np.float32(15), np.int64(25)))) == "noise:15..25"  # type: ignore[arg-type]
    assert Noise(20, Path(BABBLE)) == parse_channel(f"noise:20@{BABBLE}")


@pytest.mark.parametrize("other", ["gain:3", None, Gain])
def test_a_channel_joins_with_channels_only(other: object) -> None:
    for join in (lambda: Noise(20) >> other, lambda: Noise(20) | other):  # type: ignore[operator]
        with pytest.raises(aa.errors.MalformedSpec, match="not a channel"):
            join()


def test_a_path_that_would_be_read_as_two_channels_is_refused(tmp_path: Path) -> None:
    aa.write_wav(tmp_path / "hiss_then_hum.wav", tone(440), 16000)
    with pytest.raises(aa.errors.MalformedSpec, match=r"'_then_' joins channels.*Rename"):
        Noise(20, str(tmp_path / "hiss_then_hum.wav"))
    response = torch.ones(1, 8)
    with pytest.raises(aa.errors.MalformedSpec, match=r"front_or_back: '_or_' joins channels"):
        Room(RoomSet((Space("echo", Role.CRAFT, response, 0.1),), 16000, "front_or_back"))


# Images


def test_images_turn_crop_and_move() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 7] = 1.0
    turned, _ = Rotate(90).draw([Key(0, 0, 0)])(image, None)
    assert turned[0, 0].argmax() == 1 * 9 + 4  # up: counterclockwise, as Spatial turns
    assert float(turned.sum()) == pytest.approx(1, abs=1e-4)
    gradient = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    for spec in ("rotate:0", "crop:1"):
        same, _ = parse_channel(spec).draw([Key(0, 0, 0)])(gradient, None)
        torch.testing.assert_close(same, gradient, rtol=0, atol=1e-5)
    half, _ = parse_channel("crop:0.5").draw([Key(0, 0, 0)])(gradient, None)
    assert float(half.amax() - half.amin()) == pytest.approx(0.5, abs=0.03)
    noisy, _ = Gaussian(0.1).draw([Key(0, 0, 0)])(torch.full((1, 3, 64, 64), 0.5), None)
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.05)
    gone, _ = parse_channel("drop:0.25").draw([Key(0, 0, 0)])(torch.ones(1, 3, 64, 64), None)
    assert torch.equal(gone[:, 0], gone[:, 2])
    assert float(gone.mean()) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("spec", IMAGE)
def test_images_meet_the_same_draws_alone(spec: str) -> None:
    images = torch.rand(4, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    keys = [Key(0, i, 3) for i in range(4)]
    together, lengths = parse_channel(spec).draw(keys)(images, None)
    assert lengths is None
    assert together.shape == images.shape
    for i in range(4):
        alone, _ = parse_channel(spec).draw([keys[i]])(images[i : i + 1], None)
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)


def test_neighbours_are_taken_together() -> None:
    click = torch.zeros(1, 9)
    click[0, 4] = 1
    heard = {spec: parse_channel(spec).draw([Key(0, 0, 0)])(click, None)[0][0] for spec in ("median:3", "mean:3", "median:1")}
    assert not heard["median:3"].any()
    torch.testing.assert_close(heard["mean:3"], torch.tensor([0, 0, 0, 1, 1, 1, 0, 0, 0]) / 3)
    assert torch.equal(heard["median:1"], click[0])
    edge = (torch.arange(8) >= 4).float().expand(1, 2, 8, 8)  # an edge stays under a median, and an image goes on beyond its own
    assert torch.equal(parse_channel("median:3").draw([Key(0, 0, 0)])(edge, None)[0], edge)
    assert float(parse_channel("mean:3").draw([Key(0, 0, 0)])(torch.ones(1, 1, 5, 5), None)[0].min()) == pytest.approx(1)
    grey, _ = parse_channel("depth:2").draw([Key(0, 0, 0)])(torch.tensor([-0.1, 0.1, 0.2, 0.5, 0.9, 1.2]).reshape(1, 1, 2, 3), None)
    torch.testing.assert_close(grey.flatten(), torch.tensor([0, 0, 1, 2, 3, 3]) / 3)


def test_a_part_of_a_white_image_is_white_to_its_edge() -> None:
    """Also the part that lies in a corner, and enlarged as Pillow does it."""
    channel = parse_channel("crop:0.5..1")
    heard, _ = channel.draw([Key(0, i, 0) for i in range(40)])(torch.ones(40, 3, 9, 12), None)
    torch.testing.assert_close(heard, torch.ones(40, 3, 9, 12))


def test_a_crop_above_one_lays_the_image_on_black() -> None:
    white = torch.ones(20, 1, 20, 20)
    small, _ = parse_channel("crop:2").draw([Key(0, i, 0) for i in range(20)])(white, None)
    assert small.flatten(1).sum(1).tolist() == pytest.approx([100] * 20, abs=8)  # a quarter of the area, and all of it there
    assert len({int(image.flatten().argmax()) for image in small}) > 5


# What is wrong is said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("echo", "not a channel"),
        ("", "not a channel"),
        ("noise", "noise:20"),
        ("noise:loud", "'loud'"),
        ("noise:25..15", "25..15"),
        ("gain:nan", "gain:NUMBER"),
        ("speed:0", "0.5 to 2"),
        ("band:3400..300", "lower first"),
        ("bits:99", "2 to 24"),
        ("resample:1", "100 to 192000"),
        ("resample:192001", "100 to 192000"),
        ("codec:mp3@fast", "codec:mp3@64k"),
        ("codec:mp3@0k", "kilobits"),
        ("codec:mp3@1000k", "nor at any other"),
        ("codec:vorbis@11", "a quality of 0 to 10"),
        ("codec:opus@5k", "6 to 256 kbit/s"),
        ("codec:mulaw@0.5k", "8 kbit/s or more"),
        ("rotate:10@nan", "pixels"),
        ("rotate:10@-3", "pixels"),
        ("room_then_", "not a channel"),
        ("packets:2", "from 0 to 1"),
        ("median:4", "odd number"),
        ("depth:0", "1 to 16"),
        ("depth:1_0", "'1_0'"),
        ("noise:2_0", "'2_0'"),
        ("gain:\N{ARABIC-INDIC DIGIT SIX}", "cannot be read"),
        ("packets:0.1@3_0", "cannot be read"),
        ("room:", "nothing comes after ':'"),
        ("noise:20@", "nothing comes after '@'"),
        ("codec:mp3@", "nothing comes after '@'"),
        ("loudspeaker:", "nothing comes after ':'"),
    ],
)
def test_specs_that_make_no_sense(spec: str, said: str) -> None:
    with pytest.raises(aa.errors.MalformedSpec, match=said):
        parse_channel(spec)


def test_codecs_that_are_not_there(monkeypatch: pytest.MonkeyPatch, clips: list[Tensor]) -> None:
    with pytest.raises(aa.errors.OptionError, match=r"'amr'.*mp3, opus"):
        parse_channel("codec:amr")
    with pytest.raises(aa.errors.OptionError, match="44100 Hz, only 8000"):
        through_codec(clips[0], 44100, "opus", 24)
    with pytest.raises(aa.errors.OptionError, match="8 to 160 kbit/s"):
        Codec("mp3", 200).draw([Key(0, 0, 0)])(clips[0][None], None)
    monkeypatch.setattr("soundfile.available_formats", lambda: {"WAV": "WAV"})
    with pytest.raises(aa.errors.BrokenInstallation, match="libsndfile"):
        parse_channel("codec:mp3@64k")


def test_noise_to_judge_by_is_not_the_noise_crafted_with(tmp_path: Path) -> None:
    steps = torch.arange(1, 32001) / 32001  # each place of the recording has a level of its own
    aa.write_wav(tmp_path / "steps.wav", steps, 16000)
    noise, ends = Noise(20, str(tmp_path / "steps.wav")), {}
    for role in Role:
        heard = torch.cat([noise.cut(4000, 16000, Key(0, 0, draw, role).generator(), role) for draw in range(40)])
        ends[role] = float(heard.min()), float(heard.max())
    assert ends[Role.CRAFT][1] <= 0.5 < ends[Role.JUDGE][0]
    assert ends[Role.CHECK][1] <= 0.5


def test_a_recording_that_was_replaced_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, hz in (("a", 440), ("b", 880)):
        (tmp_path / place).mkdir()
        aa.write_wav(tmp_path / place / "n.wav", tone(hz), 16000)

    def heard(path: Path | str) -> Tensor:
        return Noise(20, path).draw([Key(0, 0, 0)])(torch.ones(1, 4000), None)[0]

    first, other = heard(tmp_path / "a/n.wav"), heard(tmp_path / "b/n.wav")
    aa.write_wav(tmp_path / "a/n.wav", tone(880), 16000)
    os.utime(tmp_path / "a/n.wav", ns=(0, 0))
    assert torch.equal(heard(tmp_path / "a/n.wav"), other)
    assert not torch.equal(first, other)
    aa.write_wav(tmp_path / "a/n.wav", tone(440), 16000)
    for place, expected in (("a", first), ("b", other)):
        os.utime(tmp_path / place / "n.wav", ns=(5, 5))
        monkeypatch.chdir(tmp_path / place)
        assert torch.equal(heard("n.wav"), expected)


def test_noise_that_is_too_short_or_silent_or_missing(tmp_path: Path) -> None:
    aa.write_wav(tmp_path / "short.wav", tone(100, 0.5), 16000)
    with pytest.raises(aa.errors.UnusableResponse, match=r"0.25 s of noise.*1.00 s"):
        Noise(20, str(tmp_path / "short.wav")).draw([Key(0, 0, 0)])(tone(440)[None], None)
    aa.write_wav(tmp_path / "silent.wav", torch.zeros(16000), 16000)
    with pytest.raises(aa.errors.UnusableResponse, match="silence"):
        Noise(20, str(tmp_path / "silent.wav")).draw([Key(0, 0, 0)])(tone(440)[None], None)
    with pytest.raises(aa.errors.UnusableResponse, match="neither a kind"):
        Noise(20, "nowhere.wav")


def test_noise_that_is_partly_silent_is_drawn_where_it_is_not(tmp_path: Path) -> None:
    half, gaps = torch.zeros(2, 64000)
    half[32000:], gaps[::8000] = 0.1, 0.1
    gaps[16000:24000] = gaps[48000:56000] = 0.1
    for name, sound in (("half", half), ("gaps", gaps)):
        aa.write_wav(tmp_path / f"{name}.wav", sound, 16000)
    assert "half of it is digital silence" in str(parse_channel(f"noise:10@{tmp_path}/half.wav").unfit(4000, 16000))
    channel, clips = parse_channel(f"noise:10@{tmp_path}/gaps.wav"), torch.full((40, 4000), 0.1)
    heard, _ = channel.draw([Key(0, 0, draw, role) for role in (Role.CRAFT, Role.JUDGE) for draw in range(20)])(clips, None)
    assert ((heard - clips).norm(dim=1) / clips.norm(dim=1) - 10**-0.5).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("spec", "length", "rate", "said"),
    [
        ("shift:300..900", 4000, 16000, "nothing is left of a clip of 250 ms"),
        ("shift:-900..-250", 4000, 16000, "nothing is left"),
        ("packets:1", 4000, 16000, "nothing of the clip arrives"),
        ("drop:1", 4000, 16000, "nothing of the clip arrives"),
        ("band:9000..12000", 4000, 16000, "ends at 8000"),
        ("codec:mp3@320k", 4000, 16000, "8 to 160 kbit/s"),
        ("codec:opus@24k", 4000, 11025, "no sample rate of 11025 Hz"),
    ],
)
def test_what_leaves_nothing_or_cannot_be_done_is_unfit(spec: str, length: int, rate: int, said: str) -> None:
    assert said in str(parse_channel(spec).unfit(length, rate))
    assert said in str(parse_channel(f"{spec}_or_gain:3").unfit(length, rate))
    for fine in ("shift:-900..300", "packets:0.5..1", "drop:0.5..1", "band:7000..12000", "codec:mp3@64k"):
        assert parse_channel(fine).unfit(8000, 16000) is None


def test_jpeg_is_for_grey_and_coloured_images() -> None:
    with pytest.raises(aa.errors.UnusableBatch, match="of 2 channels: JPEG has grey ones"):
        parse_channel("jpeg:50").draw([Key(0, 0, 0)])(torch.rand(1, 2, 8, 8), None)


def test_ranges_read_and_write() -> None:
    for text in ("20", "-6..6", "0.05", "0.95..1.05", "-100..-50"):
        assert str(Range.read(text)) == text


def test_a_chain_is_fitted_at_every_length_that_it_makes(clips: list[Tensor]) -> None:
    assert parse_channel("room").unfit(15000, 16000) is None
    for spec in ("speed:1.5_then_room", "speed:0.9..1.5_then_room", "(speed:1.5_or_gain:1)_then_room", "speed:1.5_then_gain:3_then_room"):
        channel = (Speed(1.5) | Gain(1)) >> aa.parse_channel("room") if spec.startswith("(") else parse_channel(spec)
        assert "but the clip lasts 0.62 s" in str(channel.unfit(15000, 16000))
    assert parse_channel("speed:0.8_then_room").unfit(15000, 16000) is None
    assert parse_channel("speed:0.5..2").lengths(1000) == (500, 2000)
    assert parse_channel("drift:-1000..1000").lengths(100000) == (99900, 100100)
    assert (parse_channel("speed:0.5") | parse_channel("speed:2")).lengths(10) == (5, 20)
    for spec in ("speed:0.8..1.25", "drift:-9000..9000_then_speed:1.1"):
        low, high = parse_channel(spec).lengths(len(clips[0]))
        _, ends = parse_channel(spec).draw([Key(0, 0, draw) for draw in range(40)])(
            clips[0].expand(40, -1), torch.full((40,), len(clips[0]))
        )
        assert ends is not None
        assert low <= int(ends.min()) <= int(ends.max()) <= high


def test_the_lowest_rates_that_are_offered_can_be_had(clips: list[Tensor]) -> None:
    for spec, rate in (("codec:mp3@8k", 16000), ("codec:mp3@8k", 8000), ("codec:mp3@32k", 44100), ("codec:opus@6k", 16000)):
        heard, _ = parse_channel(spec).draw([Key(0, 0, 0)], rate)(clips[0][None], torch.tensor([len(clips[0])]))
        assert heard.isfinite().all()
    assert "no common measure" in str(parse_channel("codec:mulaw@63.992k").unfit(16000, 16000))
    with pytest.raises(aa.errors.UnusableBatch, match="no common measure"):
        parse_channel("codec:mulaw@63.992k").draw([Key(0, 0, 0)], 16000)


def test_ctrl_c_while_a_codec_is_at_work_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile writes through Python callbacks, in which a KeyboardInterrupt would be lost."""

    times = iter(range(99))

    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            if not next(times):  # once: what is written later, and in a thread, would meet whatever test comes then
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(content)

    monkeypatch.setattr("audioadv.audio.codecs.io.BytesIO", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        through_codec(torch.zeros(16000), 16000, "mulaw", 64)


def test_what_is_picked_draws_on_its_own() -> None:
    """By a part of the key, by its place: the number that picked it has no part in what it draws."""
    channel, sound = Gain((-9, 0)) | Gain((0, 9)), torch.ones(1, 400)
    for draw in range(20):
        key = Key(1, 2, draw)
        heard = channel.draw([key])(sound, None)[0]
        own = [option.draw([key.part(place)])(sound, None)[0] for place, option in enumerate((Gain((-9, 0)), Gain((0, 9))))]
        assert torch.equal(heard, own[0] if heard[0, 0] < 1 else own[1])
