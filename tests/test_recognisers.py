"""The bundled nets: frames, padding, slopes. Random weights do: none of this is about what they have learnt."""

import pytest
import recognisers
import torch
from torch import nn

import audioadv as aa
from audioadv.audio.files import Clip
from audioadv.errors import OptionError, UnusableBatch, UnusableTarget
from audioadv.models.alphabet import ALPHABET
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.models.rest import at_rest, modules_of
from audioadv.models.tiny_mel import TinyMel
from audioadv.models.tiny_wave import TinyWave

NETS = [TinyMel, TinyWave]
LENGTHS = torch.tensor([20000, 13001, 650, 1])


def speechlike(lengths: torch.Tensor) -> torch.Tensor:
    waveforms = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=torch.Generator().manual_seed(0))
    for row, length in zip(waveforms, lengths.tolist(), strict=True):
        row[length:] = 0
    return waveforms


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@pytest.mark.parametrize("kind", NETS)
def test_a_clip_is_heard_the_same_alone_and_padded(kind: type[nn.Module]) -> None:
    net, waveforms = made(kind), speechlike(LENGTHS)
    with torch.no_grad():
        together, frames = net(waveforms, LENGTHS)
        wide, _ = net(torch.nn.functional.pad(waveforms, (0, 5000)), LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            alone, own = net(waveforms[row : row + 1, :length], LENGTHS[row : row + 1])
            assert own[0] == frames[row] == alone.shape[1] == 2 * -(-length // 640)
            torch.testing.assert_close(alone[0], together[row, : own[0]], rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(alone[0], wide[row, : own[0]], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", NETS)
def test_of_no_clip_nothing_is_heard(kind: type[nn.Module]) -> None:
    assert Recogniser(made(kind), 16000).transcribe(torch.zeros(0, 800), torch.zeros(0, dtype=torch.int64)) == []


@pytest.mark.parametrize("kind", NETS)
def test_slopes_are_finite_in_silence_and_at_full_scale(kind: type[nn.Module]) -> None:
    net = made(kind)
    waveforms = speechlike(LENGTHS)
    waveforms[1] = 0  # digital silence
    waveforms[0] = waveforms[0].sign()  # full scale
    waveforms.requires_grad_()
    log_probs, frames = net(waveforms, LENGTHS)
    inside = torch.arange(log_probs.shape[1]) < frames[:, None]
    (slope,) = torch.autograd.grad((log_probs[..., 1] * inside).sum(), waveforms)
    assert slope.isfinite().all()
    assert slope[0].abs().max() > 0


@pytest.mark.parametrize("kind", NETS)
def test_fits_ten_megabytes_in_half_precision(kind: type[nn.Module]) -> None:
    assert 2 * sum(parameter.numel() for parameter in kind().parameters()) < 10_000_000


def test_sums_are_exact_while_a_model_rests_and_as_before_afterwards() -> None:
    before = torch.backends.cudnn.conv.fp32_precision
    for model in (torch.nn.Linear(1, 1), len):
        with at_rest(model):
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cudnn.conv.fp32_precision == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("kind", NETS)
def test_the_same_alone_and_in_a_batch_on_cuda_and_on_the_cpu(kind: type[nn.Module]) -> None:
    lengths = torch.full((16,), 32000)
    here, waveforms = made(kind), speechlike(lengths)
    there = made(kind).cuda()
    with torch.no_grad(), at_rest(there):
        batch = there(waveforms.cuda(), lengths.cuda())[0].cpu()
        assert torch.allclose(batch[:1], there(waveforms[:1].cuda(), lengths[:1].cuda())[0].cpu(), atol=1e-4)
        assert torch.allclose(batch, here(waveforms, lengths)[0], atol=1e-3)


def test_letters_in_a_list_and_scores_of_16_bits_do() -> None:
    for dtype in (torch.float16, torch.bfloat16):

        def heard(waveforms: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype = dtype) -> tuple[torch.Tensor, torch.Tensor]:
            log_probs, frames = recognisers.listen(waveforms, lengths)
            return log_probs.to(dtype), frames.int()

        model = Recogniser(heard, 16000, [*ALPHABET])  # type: ignore[arg-type]
        assert model.vocabulary == ALPHABET
        clip = aa.Clip("hiss", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)
        assert aa.craft(model, [clip], aa.Transcribe("go"), bound=aa.SNR(0), steps=40).reached == [True]


def test_a_net_behind_a_function_is_found_and_brought_to_rest() -> None:
    net = nn.Linear(2, 2, device="meta")
    assert Recogniser(lambda waveforms, lengths: (net(waveforms), lengths), 16000).device == torch.device("meta")
    assert recognisers.linear().device == torch.device("cpu")
    loaded = aa.load_model("module:recognisers:in_a_lambda")
    (held,) = modules_of(loaded.net)
    assert not held.training
    assert not any(parameter.requires_grad for parameter in held.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_on_cuda_no_step_waits_for_numbers_of_frames() -> None:
    said = torch.zeros(1, 4, len(ALPHABET), device="cuda"), torch.tensor([5], device="cuda")
    model = Recogniser(lambda waveforms, lengths: said, 16000)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(torch.zeros(1, 800), torch.tensor([800]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(UnusableBatch, match=r"\[5\] frames, and gives 4"):
        model.transcribe(torch.zeros(1, 800), torch.tensor([800]))


def test_scores_that_are_no_log_probabilities_are_told() -> None:
    waveforms, lengths = torch.rand(2, 1600), torch.tensor([1600, 800])
    raw = Recogniser(lambda waves, ends: (3 * recognisers.listen(waves, ends)[0] + 1, (ends + 319) // 320), 16000)
    goal = aa.Transcribe("a")
    with pytest.warns(UserWarning, match="do not sum to 1"):
        aa.objective(raw, goal, lengths).look(waveforms)
    aa.objective(recognisers.linear(), goal, lengths).look(waveforms)  # warnings are errors here


def test_capitals_are_written_small_as_targets_are() -> None:
    def net(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = torch.zeros(len(waveforms), 4, 3)
        return (shape + torch.tensor([0.0, 1.0, 0.5])).log_softmax(-1), torch.full((len(waveforms),), 4)

    model = Recogniser(net, 8000, ("", "A", "B"))
    assert model.transcribe(torch.zeros(1, 800), torch.tensor([800])) == ["a"]
    with pytest.raises(UnusableTarget, match=r"only \(ab\), with numbers"):
        aa.craft(model, [Clip("hiss", torch.rand(800) - 0.5, 8000)], aa.Transcribe("a c"), steps=1)
    with pytest.raises(OptionError, match="capitals and small"):
        Recogniser(net, 8000, ("", "A", "a"))


def test_a_net_that_writes_over_its_waveforms_is_told() -> None:
    def net(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return waveforms.mul_(0.7)[:, :6, None].expand(-1, -1, 3).log_softmax(-1), torch.full((len(waveforms),), 6)

    with pytest.raises(UnusableBatch, match="writes over its inputs"):
        Recogniser(net, 8000, ("", "a", "b")).transcribe(torch.ones(1, 800), torch.tensor([800]))


def test_a_letter_that_never_occurs_costs_what_one_does_that_hardly_ever_does() -> None:
    """Losses, margins and slopes with a column of -inf are those without the column."""
    weights = torch.randn(80, 4, generator=torch.Generator().manual_seed(1))

    def net(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (waveforms.unfold(1, 80, 80) @ weights).log_softmax(-1), lengths // 80

    def suppressing(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, frames = net(waveforms, lengths)
        return torch.nn.functional.pad(log_probs, (0, 1), value=-torch.inf), frames

    letters = ("", " ", "a", "b")
    wide = (*letters, "<unk>")
    clips, lengths = torch.randn(2, 800, generator=torch.Generator().manual_seed(0)), torch.tensor([800, 640])
    for goal in (aa.Transcribe("a b"), aa.Silence(), aa.Mistranscribe("ab"), aa.Transcribe(["a", "bb"])):
        found = []
        says = Recogniser(lambda *clips: Emissions(*suppressing(*clips), wide), 8000, wide)
        for model in (Recogniser(net, 8000, letters), Recogniser(suppressing, 8000, wide), says):
            inputs = clips.clone().requires_grad_()
            values = [goal.loss(model(inputs, lengths)), goal.margin(model(inputs, lengths), 0.5)]
            slopes = [torch.autograd.grad(value.sum(), inputs)[0] for value in values]
            found.append([*values, *slopes, goal.reached(model(inputs, lengths))])
        for plain, *masked in zip(*found, strict=True):
            assert plain.isfinite().all()
            for own in masked:
                torch.testing.assert_close(own, plain)
    never = Recogniser(suppressing, 8000, (*letters, "x"))(clips, lengths)
    assert aa.Transcribe("x").loss(never).isfinite().all(), "a letter that it has, but never writes, is far off and no more"


@pytest.mark.parametrize(
    ("waveforms", "lengths", "fault"),
    [
        (torch.zeros(1, 8000), torch.tensor([9000]), r"lengths \[9000\] for waveforms of \[1, 8000\]"),
        (torch.zeros(1, 8000), torch.tensor([-1]), r"lengths \[-1\]"),
        (torch.zeros(1, 0), torch.tensor([0]), r"waveforms: .*\[1, 0\].*a sample at least"),
        (torch.zeros(8000), torch.tensor([8000]), r"waveforms: .*\[8000\].*samples\[None\]"),
        (torch.zeros(1, 8000).int(), torch.tensor([8000]), "waveforms: torch.int32"),
        (torch.zeros(1, 8000), [8000], "lengths of type list"),
        (torch.zeros(1, 8000), torch.tensor([8000.0]), "lengths: torch.float32"),
        (torch.zeros(1, 8000), torch.tensor([8000, 8000]), r"lengths: .*\[2\] for waveforms of \[1, 8000\]"),
    ],
)
def test_what_are_no_clips_is_named(waveforms: torch.Tensor, lengths: torch.Tensor, fault: str) -> None:
    model = recognisers.linear()
    for ask in (model, model.transcribe):
        with pytest.raises(UnusableBatch, match=fault):
            ask(waveforms, lengths)


class InOtherNumbers(nn.Module):
    """Hears as the linear stand-in does, in numbers of its own; one that `converts` takes others too."""

    def __init__(self, dtype: torch.dtype, converts: bool = True) -> None:
        super().__init__()
        self.weights, self.converts = nn.Parameter(recognisers.WEIGHTS.to(dtype)), converts

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = waveforms.to(self.weights) if self.converts else waveforms
        blank = nn.functional.one_hot(torch.tensor(0), len(ALPHABET))
        return (given.unfold(1, recognisers.HOP, recognisers.HOP) @ self.weights + blank).log_softmax(-1), lengths // recognisers.HOP


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_net_that_computes_in_other_numbers_is_attacked_where_it_converts(dtype: torch.dtype) -> None:
    clips = [Clip("noise", speechlike(torch.tensor([3200]))[0] / 100, 16000)]
    found = aa.craft(Recogniser(InOtherNumbers(dtype), 16000), clips, aa.Transcribe("hi"), bound="linf:0.1", steps=60)
    assert found.reached == [True]
    over = aa.craft(Recogniser(InOtherNumbers(dtype), 16000), clips, aa.Transcribe("hi"), bound="linf:0.1", channel="noise:30", steps=2)
    assert over.adversarial[0].dtype == torch.float32
    with pytest.raises(UnusableBatch, match=rf"inputs are torch.float32 on cpu, but the model is {dtype} .*: model\.net\.to\(inputs\)"):
        aa.craft(Recogniser(InOtherNumbers(dtype, converts=False), 16000), clips, aa.Transcribe("hi"), steps=1)


def test_what_else_a_net_of_other_numbers_raises_is_its_own() -> None:
    net = nn.Linear(3, 2).double()
    net.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    wanted = aa.objective(net, aa.Misclassify(0))
    assert wanted.begun(torch.zeros(1, 3)).look(torch.zeros(1, 3)).loss.isfinite().all()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        wanted.begun(torch.zeros(1, 4)).look(torch.zeros(1, 4))
