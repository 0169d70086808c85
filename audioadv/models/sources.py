"""Where models come from: `load_model(name)` for every kind of name that the command line takes.

tiny-mel, tiny-wave, tiny-mel-robust     bundled with the package
torchaudio:WAV2VEC2_ASR_BASE_960H        torchaudio's pipelines (weights are fetched by torchaudio)
hf:facebook/wav2vec2-base-960h           transformers' CTC models, by name or local folder (extra `hf`)
module:package.file:function             your own: a function that returns a Recogniser
"""

import contextlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from audioadv.errors import AudioadvError, BrokenInstallation, UnknownModel, with_extra
from audioadv.models.access import Access
from audioadv.models.alphabet import ALPHABET
from audioadv.models.classifier import BUNDLED as CLASSIFIERS
from audioadv.models.recogniser import Recogniser, counted, hear, hears
from audioadv.models.rest import as_device, at_rest, modules_of

WEIGHTS = Path(__file__).parent / "weights"
PACKAGE, STANDARD = Path(__file__).parents[1], sysconfig.get_path("stdlib")
RAISED = (Exception, SystemExit)  # by a user's own code, which is not to end the command: that would seem done
BUNDLED = {
    "tiny-mel": "convolutions on a log-mel spectrum; bundled",
    "tiny-wave": "self-attention on the raw waveform; bundled",
    "tiny-mel-robust": "tiny-mel, trained on against changes 30 dB below the speech; bundled",
}
PIPELINES = (
    *(f"WAV2VEC2_ASR_{net}_{hours}" for net in ("BASE", "LARGE", "LARGE_LV60K") for hours in ("10M", "100H", "960H")),
    *("HUBERT_ASR_LARGE", "HUBERT_ASR_XLARGE"),
    *(f"VOXPOPULI_ASR_BASE_10K_{language}" for language in ("DE", "EN", "ES", "FR", "IT")),
)


def load_model(name: str, device: str | torch.device = "cpu", *, attacked: bool = False) -> Recogniser:
    """The recogniser of that name, in evaluation mode, its parameters frozen. One's own is tried out; to be `attacked`, with gradients too.

    Raises UnknownModel for a name that nothing answers to, BrokenInstallation where a package is missing or does not fit,
    OptionError for a device that is not here.
    """
    device = as_device(device)
    if not isinstance(name, str):
        raise UnknownModel(f"model {name!r:.60}: no name. Give one, for example {' or '.join(map(repr, BUNDLED))}")
    source, _, rest = name.partition(":")
    if name in BUNDLED:
        recogniser = load_bundled(name)
    elif source == "torchaudio" and rest:
        recogniser = load_pipeline(rest)
    elif source == "hf" and rest:
        recogniser = load_transformers(rest)
    elif source == "module" and rest:
        recogniser = load_function(rest)
    elif name in CLASSIFIERS:
        raise UnknownModel(
            f"model {name!r}: a classifier, where a recogniser is needed, such as {' or '.join(BUNDLED)}. "
            f"In Python: load_classifier({name!r}); on the command line: audioadv check"
        )
    else:
        raise UnknownModel(
            f"model {name!r}: unknown{meant(name)}. Use {', '.join(BUNDLED)}, torchaudio:PIPELINE, hf:NAME_OR_FOLDER or "
            "module:package.file:function (audioadv models lists them)"
        )
    for net in modules_of(recogniser.net):
        net.eval().requires_grad_(False).to(device)
    if source == "module":
        try_out(name, recogniser, attacked)
    return recogniser


def meant(name: str) -> str:
    """What was probably meant by a name that nothing answers to, as the end of a sentence; "" where nothing is near.

    >>> meant("tiny_mell"), meant("WAV2VEC2_ASR_BASE_960H"), meant("magic")
    (" (did you mean 'tiny-mel'?)", " (did you mean 'torchaudio:WAV2VEC2_ASR_BASE_960H'?)", '')
    """
    known = {known: known for known in (*BUNDLED, *CLASSIFIERS)} | {known.lower(): f"torchaudio:{known}" for known in PIPELINES}
    near = get_close_matches(name.rpartition(":")[2].lower(), known, n=1, cutoff=0.75)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""


def load_bundled(name: str) -> Recogniser:
    """One of the recognisers that come with the package, from its half-precision weights."""
    try:
        from audioadv.models.tiny_mel import TinyMel
        from audioadv.models.tiny_wave import TinyWave
    except (ImportError, OSError) as error:  # torchaudio's library does not load beside another torch
        raise BrokenInstallation(
            f"torchaudio does not load beside torch {torch.__version__} ({error}). "
            "Install the pair that fits: pip install torch==2.11.0 torchaudio==2.11.0"
        ) from error
    net: nn.Module = TinyWave() if name == "tiny-wave" else TinyMel()
    file = WEIGHTS / f"{name}.safetensors"
    if not file.exists():
        raise BrokenInstallation(
            f"{file}: the weights of {name} are missing. Reinstall audioadv, or train them: recipes/train_recogniser.py"
        )
    weights = {key: value.float() for key, value in load_file(file).items()}
    missing, surplus = net.load_state_dict(weights, strict=False)
    if surplus or any(not key.startswith("mel.") for key in missing):
        raise BrokenInstallation(f"{name}.safetensors does not hold the weights of {name}: reinstall audioadv")
    return Recogniser(net, sample_rate=16000, vocabulary=ALPHABET, name=name)


def fetched(pipeline: str) -> bool:
    """Whether the weights of one of torchaudio's pipelines are on this machine, where torchaudio keeps them."""
    import torchaudio

    return Path(torch.hub.get_dir(), "checkpoints", getattr(torchaudio.pipelines, pipeline)._path).is_file()


def lower_case(labels: list[str], blank: str, gap: str = "|") -> tuple[str, ...]:
    """A model's labels as a vocabulary: blank empty, word gap a space, letters small; other marks keep to themselves.

    >>> lower_case(["-", "|", "E", "'"], blank="-")
    ('', ' ', 'e', "'")
    """
    return tuple("" if label == blank else " " if label == gap else label.lower() for label in labels)


def load_pipeline(name: str) -> Recogniser:
    """A CTC pipeline of torchaudio, by name."""
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name, None)
    if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2ASRBundle):
        raise UnknownModel(f"model 'torchaudio:{name}': torchaudio has no such CTC pipeline{meant(name)}. It has {', '.join(PIPELINES)}")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where it says what it fetches
            net = bundle.get_model()
    except (OSError, RuntimeError, EOFError) as error:  # no network, or half a file from an earlier try
        place = Path(torch.hub.get_dir(), "checkpoints")
        raise UnknownModel(
            f"model 'torchaudio:{name}': its weights cannot be fetched ({error}). Connect this machine, or put the file into {place}"
        ) from error

    class Pipeline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            scores, frames = self.net(waveforms, lengths)
            return scores.log_softmax(-1), frames

    labels = list(bundle.get_labels())
    return Recogniser(Pipeline(), int(bundle.sample_rate), lower_case(labels, blank=labels[0]), name=f"torchaudio:{name}")


def load_transformers(name: str) -> Recogniser:
    """A CTC model of the transformers library, by hub name or local folder."""
    try:
        from transformers import AutoModelForCTC, AutoProcessor
    except ImportError as error:
        raise BrokenInstallation(f"model 'hf:{name}' needs the transformers library: {with_extra('hf')}") from error
    try:
        net, processor = AutoModelForCTC.from_pretrained(name), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnknownModel(
            f"model 'hf:{name}': transformers cannot load it ({str(error).splitlines()[0]}). Give a folder or a hub name"
        ) from error
    tokens = processor.tokenizer.get_vocab()
    labels = sorted(tokens, key=tokens.__getitem__)
    normalise = bool(processor.feature_extractor.do_normalize)

    class Transformers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
            if normalise:  # zero mean and unit spread over each clip, as the feature extractor does it
                mean = (waveforms * inside).sum(1, keepdim=True) / lengths[:, None]
                spread = ((waveforms - mean).square() * inside).sum(1, keepdim=True) / lengths[:, None]
                waveforms = (waveforms - mean) / (spread + 1e-7).sqrt() * inside
            log_probs = self.net(waveforms, attention_mask=inside.long()).logits.log_softmax(-1)
            return log_probs, self.net._get_feat_extract_output_lengths(lengths)

    rate = int(processor.feature_extractor.sampling_rate)
    return Recogniser(
        Transformers(), rate, lower_case(labels, processor.tokenizer.pad_token, processor.tokenizer.word_delimiter_token), name=f"hf:{name}"
    )


def load_function(path: str) -> Recogniser:
    """The recogniser that `package.file:function` returns."""
    recogniser = called(path)
    if not hears(recogniser):
        raise UnknownModel(
            f"model 'module:{path}': the function returned a {type(recogniser).__name__}. "
            "Return audioadv.Recogniser(net, sample_rate, vocabulary)"
        )
    return recogniser


def try_out(name: str, recogniser: Recogniser, attacked: bool) -> None:
    """Let a recogniser hear half a second of silence as a judge does; `attacked`, two noises as well, with gradients if it grants them.

    Raises UnknownModel where it cannot, UnusableBatch where it says what is no sense.
    """
    time, device, access = recogniser.sample_rate // 2, recogniser.device, recogniser.access
    takes = (
        "Its net takes waveforms [batch, time] and lengths [batch], and gives log-probabilities [batch, frames, letters] and frames [batch]"
    )
    heard, cure = "heard half a second of silence", takes
    try:
        hear(recogniser, torch.zeros(1, time), torch.tensor([time]))
        if not attacked:
            return
        lengths = torch.tensor([time, time // 2])
        noises = 0.1 * torch.randn(2, time, generator=torch.Generator().manual_seed(0)) * (torch.arange(time) < lengths[:, None])
        heard = "heard two noises at once as in an attack, of half a second and a quarter"
        with at_rest(recogniser), torch.enable_grad():
            inputs = noises.to(device).requires_grad_(access is Access.GRADIENTS)
            said = counted(recogniser(inputs, lengths.to(device)), recogniser.name)
            if said.log_probs.requires_grad:
                heard, cure = "was asked for gradients", "Mend its backward pass, or grant less: Recogniser(..., access='scores')"
                torch.autograd.grad(said.log_probs.sum(), inputs, allow_unused=True)
    except AudioadvError as error:
        raise type(error)(f"model {name!r}: {error}") from error
    except RAISED as error:
        raise UnknownModel(f"model {name!r}: {heard}, {raised(error)}. {cure}") from error


def raised(error: BaseException) -> str:
    """What was raised, and where: messages without a traceback say so."""
    at = culprit(error) or traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at line {at.lineno} of {at.filename} ({error})"


def culprit(error: BaseException) -> traceback.FrameSummary | None:
    """The line of a user's own file that raised it, or had a library raise it; None where that line is audioadv's."""
    for at in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(at.filename)
        if file.is_relative_to(PACKAGE):
            return None
        if file.is_file() and not file.is_relative_to(STANDARD) and not {"site-packages", "dist-packages"} & {*file.parts}:
            return at
    return None


@contextlib.contextmanager
def blamed(clip: str = "") -> Iterator[None]:
    """Within it, what a user's own file raises, at work on this clip, is said in one sentence, with the place. Raises UnknownModel."""
    try:
        yield
    except AudioadvError:
        raise
    except RAISED as error:
        if culprit(error) is None or isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        about = f"{clip}: " if clip else ""
        raise UnknownModel(f"{about}your own code raised {raised(error)}. Mend it there, or give it only what it takes") from error


def called(path: str) -> object:
    """What `package.file:function` returns, looked for in the current folder too.

    Raises UnknownModel; for what the file or the function raises too, with its place, since the command line shows no traceback.
    """
    module_name, _, function_name = path.partition(":")
    if not (function_name and all(part.isidentifier() for part in module_name.split("."))):
        raise UnknownModel(f"model 'module:{path}': write module:package.file:function")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
        function: Callable[[], object] | None = getattr(module, function_name, None)
        if function is None:
            raise ImportError(f"module {module_name!r} has no attribute {function_name!r}")
        return function()
    except AudioadvError as error:
        raise type(error)(f"model 'module:{path}': {error}") from error
    except ImportError as error:
        raise UnknownModel(f"model 'module:{path}': {error}. Is the file in this folder or installed, and the name right?") from error
    except RAISED as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if at.filename == __file__ else f" at line {at.lineno} of {at.filename}"
        raise UnknownModel(
            f"model 'module:{path}': {type(error).__name__}{place} ({error}). Write a function that takes no argument and returns the model"
        ) from error
